"""The latent explorer: a plane of codes in a page, with the decoded image of any point in it.

The decoder runs in the page, with quantised weights. They have as few bits as keep the output within half of
TOLERANCE of torch's, on codes of test images, on the doubled codes, and on samples of p(z).
"""

import base64
import io
import math
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import one_hot

from inference.data import observations
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from inference.html.export_layers import ExportedLayers, UnsupportedModule
from inference.html.page import TEMPLATES, read
from ppl_models.base import LatentVariableModel

POINTS = 1_000  # test images whose codes are shown, if they are at most 64 x 64; fewer of larger images
MAX_VALUES = 250_000  # of all codes in total: fewer codes are shown if each is long
PRIOR = 300  # samples of p(z) that are shown
DIRECTIONS = 10  # principal directions: two for the plane, and a slider for each of the others
MAX_WEIGHTS = 3_000_000  # of a decoder that is embedded
MAX_PRODUCTS = 400_000_000  # multiplications of a decoder: a page makes about a billion per second
MAX_COMPARED = 1_000_000_000  # multiplications per kind of code when the page and torch are compared
TOLERANCE = 1e-2  # difference between the page and torch, in levels from 0 to 1 or in coordinates of a point
BITS = range(8, 17)  # of a weight
MAX_COORDINATE = 1e12  # of a code
SCRIPTS = ("explorer_decoder.js", "explorer_chart.js", "explorer.js")  # that a page with the section needs


def section(data: Dataset, model: LatentVariableModel) -> Markup:
    """Returns the section `#explorer` for a page with SCRIPTS. Preserves the RNG state.

    Args:
        data: the data set, as `Run.restore` returns it.
        model: the trained model in eval mode.

    Returns:
        The section, or nothing if the model has no vector z or no small decoder.
    """
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        found = contents(data, model)
    if found is None:
        return Markup()
    return Markup(TEMPLATES.get_template("explorer.html").render(style=read("explorer.css"), data=found))


@torch.no_grad()
def contents(data: Dataset, model: LatentVariableModel) -> dict[str, Any] | None:
    """Returns the data of the page: codes, principal directions and the decoder; None if unsupported."""
    decoder = export_decoder(model)
    if decoder is None or not all(p.isfinite().all() for p in model.parameters()):
        return None
    y_test = None if data.y_test is None else data.y_test[:POINTS]
    first = HeldOut(
        replace(data, x_test=data.x_test[:POINTS], y_test=y_test), type(model), torch.device("cpu")
    )
    n = min(first.chunk_size(4 * POINTS), POINTS)
    inputs, levels, labels = next(first.chunks(n))
    latents = _encode(model, inputs, first.chunk_size(POINTS))
    z = latents.pop("z", torch.empty(0))
    if latents.keys() - {"y"} or z.dim() != 2 or min(z.shape) < 2:
        return None
    prior = model.prior(PRIOR)["z"]
    if not (z.abs().max() < MAX_COORDINATE and prior.abs().max() < MAX_COORDINATE):  # true for NaN as well
        return None
    compared = max(min(50, MAX_COMPARED // decoder.products), 1)
    layers = pack_decoder(decoder, model, torch.cat([z[:compared], 2 * z[:compared], prior[:compared]]))
    if layers is None:
        return None
    n = min(len(z), MAX_VALUES // z.shape[1])
    z, levels, labels = z[:n], levels[:n], None if labels is None else labels[:n]
    y = latents["y"].argmax(1) if "y" in latents else inputs.get("y")  # the label that the encoder of z used
    mean, directions, scales = principal(z.numpy())
    kind = OBSERVATIONS[model.observation]
    points = kind.data.drawn == "points"
    return {
        "shape": model.shape,
        "classes": model.classes if model.has_label else 0,
        "layers": layers,
        "z": pack(z.numpy(), 16),
        "labels": None if labels is None else labels.tolist(),
        "y": y[:n].tolist() if y is not None and model.has_label else None,
        "mean": mean.tolist(),
        "directions": directions[:DIRECTIONS].tolist(),
        "scales": scales[:DIRECTIONS].tolist(),
        "fractions": (scales**2 / max((scales**2).sum(), 1e-30))[:DIRECTIONS].tolist(),
        "prior": np.round((prior.numpy() - mean) @ directions[:2].T, 3).tolist(),
        "points": np.round(levels.numpy(), 3).tolist() if points else None,
        "images": None if points else sheet(kind.shown(levels)),
    }


def _encode(model: LatentVariableModel, inputs: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Returns `model.encode(**inputs)`, computed for `size` images at a time."""
    parts = [value.split(size) for value in inputs.values()]
    codes = [model.encode(**dict(zip(inputs, part, strict=True))) for part in zip(*parts, strict=True)]
    return {name: torch.cat([each[name] for each in codes]) for name in codes[0]}


def principal(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the principal components of codes.

    Args:
        z: codes `(n, d)`.

    Returns:
        The mean `(d,)`; the directions `(min(n, d), d)`, each with a positive largest component; and the
        standard deviation along each direction.
    """
    mean = z.mean(0)
    _, values, directions = np.linalg.svd(z - mean, full_matrices=False)
    largest = np.abs(directions).argmax(1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return mean, directions * signs[:, None], values / math.sqrt(len(z))


def export_decoder(model: LatentVariableModel) -> ExportedLayers | None:
    """Returns the decoder of a model as layers; None if it is too large or cannot be exported.

    The input is z, followed by a one-hot y if the model has a label. The output is levels from 0 to 1 in the
    order of a canvas, or for points the mean and the logarithm of the scale.
    """
    kind = OBSERVATIONS[model.observation]
    if kind.data.drawn == "points" and model.shape != (2,):  # the page draws points in the plane
        return None
    if not kind.data.drawn or not isinstance(getattr(model, "decoder", None), nn.Module):
        return None
    try:
        decoder = ExportedLayers(cast(nn.Module, model.decoder))
        if kind.data.drawn == "images":
            if decoder.size == (1, 1):
                decoder.to_map(*model.shape)
            if model.observation == "binary":
                decoder.activate("sigmoid")
            zero, one = kind.shown(torch.tensor([0.0, 1.0])).numpy()
            if (zero, one) != (0, 1):
                decoder.scale(np.array([one - zero]), np.array([zero]))
    except UnsupportedModule:
        return None
    weights = sum(layer.weight.size for layer in decoder.layers)
    return decoder if weights <= MAX_WEIGHTS and decoder.products <= MAX_PRODUCTS else None


def pack_decoder(
    decoder: ExportedLayers, model: LatentVariableModel, z: Tensor
) -> list[dict[str, Any]] | None:
    """Quantises a decoder with the fewest bits in BITS that keep its output close to torch's.

    Args:
        decoder: the exported layers; their weights become the quantised ones.
        model: the model that they come from.
        z: codes `(n, d)` on which the outputs are compared.

    Returns:
        The packed layers, or None if no number of bits is enough.
    """
    layers = decoder.layers
    y = torch.arange(len(z)) % model.classes if model.has_label else None
    inputs = z if y is None else torch.cat([z, one_hot(y, model.classes).to(z)], dim=1)
    expected = torch_output(model, z, y)
    if inputs.shape[1] != layers[0].weight.shape[1]:
        return None
    weights = [layer.weight for layer in layers]
    biases = [pack(layer.bias[None], 16) for layer in layers]
    for bits in BITS:
        packed = [pack(weight, bits) for weight in weights]
        for layer, weight, bias in zip(layers, packed, biases, strict=True):
            layer.weight, layer.bias = unpack(weight), unpack(bias)[0]
        found = decoder(inputs.numpy())
        if OBSERVATIONS[model.observation].data is observations.POINTS:
            d = model.shape[0]
            if found.shape[1] not in (2 * d, d + 1):  # the scale is not an output of the decoder
                return None
            found = np.concatenate([found[:, :d], np.exp(found[:, d:]) * np.ones(d)], axis=1)
        if found.shape == expected.shape and np.abs(found - expected).max() < TOLERANCE / 2:
            parts = zip(layers, packed, biases, strict=True)
            return [asdict(layer) | {"weight": weight, "bias": bias} for layer, weight, bias in parts]
    return None


def torch_output(model: LatentVariableModel, z: Tensor, y: Tensor | None) -> np.ndarray:
    """Returns levels `(n, height * width * channels)`, or means and scales of points `(n, 2 d)`."""
    kind = OBSERVATIONS[model.observation]
    if kind.data is observations.POINTS:
        x: Any = model.generate(len(z), {"z": z}).nodes["x"]["fn"]
        return torch.cat([x.mean, x.stddev], dim=1).numpy()
    levels = kind.shown(model.decode({"z": z}, y))
    return levels.permute(0, 2, 3, 1).flatten(1).numpy()


def pack(x: np.ndarray, bits: int) -> dict[str, Any]:
    """Packs an array `(..., n)` as integers of `bits` bits, with a scale for each row of n."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float32)
    most = 2 ** (bits - 1) - 1
    scales = np.maximum(np.abs(rows).max(1), 1e-30).astype(np.float32) / most
    levels = np.rint(rows / scales[:, None]).astype(np.int32) + most
    binary = (levels.reshape(-1, 1) >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    packed = (base64.b64encode(part).decode() for part in (scales.tobytes(), np.packbits(binary).tobytes()))
    return {"shape": x.shape, "bits": bits} | dict(zip(("scales", "levels"), packed, strict=True))


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """Returns the array that `pack` packed, to half a quantisation level, as the page unpacks it."""
    shape, bits = packed["shape"], packed["bits"]
    scales = np.frombuffer(base64.b64decode(packed["scales"]), np.float32)
    binary = np.unpackbits(
        np.frombuffer(base64.b64decode(packed["levels"]), np.uint8), count=math.prod(shape) * bits
    )
    levels = binary.reshape(len(scales), -1, bits) @ (1 << np.arange(bits)[::-1])
    return ((levels - (2 ** (bits - 1) - 1)) * scales[:, None]).astype(np.float32).reshape(shape)


def sheet(images: Tensor) -> str:
    """Returns images `(n, channels, height, width)` in [0, 1] in a square grid, as a data URL."""
    levels = (255 * images.clamp(0, 1)).round().byte()
    n, channels, height, width = levels.shape
    columns = math.ceil(math.sqrt(n))
    canvas = np.zeros((columns * height, columns * width, channels), np.uint8)
    for i, level in enumerate(levels.permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + height, left : left + width] = level
    kind = "png" if channels == 1 else "jpeg"  # JPEG's errors in colours are not visible, and it is smaller
    file = io.BytesIO()
    image = Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)
    image.save(file, kind, optimize=True, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
