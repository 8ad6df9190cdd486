"""A latent space to walk in: a plane of codes, and what the decoder makes of any point of it, inside a page.

The decoder runs in the page, from weights of a few bits each: as few as keep what it shows within half of
TOLERANCE of torch, which is tried here on codes of test images, on twice these, and on draws of p(z).
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

from inference.data.batches import OBSERVATIONS, HeldOut
from inference.data.datasets import Dataset
from inference.html.export_layers import Unknown, Unrolled
from inference.html.page import TEMPLATES, read
from ppl_models.base import LatentVariableModel

POINTS = 1_000  # test images whose codes are shown
VALUES = 250_000  # of all codes together: where a code is long, fewer are shown
PRIOR = 300  # draws of p(z) beside them
DIRECTIONS = 10  # of which two are the plane's, and the others have sliders
WEIGHTS = 3_000_000  # of a decoder that can be embedded
PRODUCTS = 30_000_000  # of a decoder that a page works out thirty times a second
TOLERANCE = 1e-2  # between the page and torch, of a level from 0 to 1, or of a point's coordinate
BITS = range(8, 17)  # of a weight
MOST = 1e12  # of a code's coordinates
SCRIPTS = ("walk_decoder.js", "walk_chart.js", "walk.js")  # of a page that has the section


def section(data: Dataset, model: LatentVariableModel) -> Markup:
    """A `<section id="walk">` for a page with SCRIPTS; nothing if there is no vector z or no small decoder.

    `data` and `model` are as `Run.restore` gives them.
    """
    with torch.random.fork_rng([]):  # to look changes no draw of anyone's
        torch.default_generator.manual_seed(0)
        found = contents(data, model)
    if found is None:
        return Markup()
    return Markup(TEMPLATES.get_template("walk.html").render(style=read("walk.css"), data=found))


@torch.no_grad()
def contents(data: Dataset, model: LatentVariableModel) -> dict[str, Any] | None:
    """What the page is given: codes, their principal directions, the decoder; None where it has none."""
    decoder = unrolled(model)
    if decoder is None or not all(p.isfinite().all() for p in model.parameters()):
        return None
    y_test = None if data.y_test is None else data.y_test[:POINTS]
    first = HeldOut(
        replace(data, x_test=data.x_test[:POINTS], y_test=y_test), type(model), torch.device("cpu")
    )
    inputs, levels, labels = next(first.chunks(POINTS))
    latents = model.encode(**inputs)
    z = latents.pop("z", torch.empty(0))
    if latents.keys() - {"y"} or z.dim() != 2 or min(z.shape) < 2:
        return None
    prior = model.prior(PRIOR)["z"]
    if not (z.abs().max() < MOST and prior.abs().max() < MOST):  # nor where they are not finite
        return None
    layers = export(decoder, model, torch.cat([z[:50], 2 * z[:50], prior[:50]]))
    if layers is None:
        return None
    n = min(len(z), VALUES // z.shape[1])
    z, levels, labels = z[:n], levels[:n], None if labels is None else labels[:n]
    y = latents["y"].argmax(1) if "y" in latents else inputs.get("y")  # the label that z was encoded with
    mean, directions, scales = principal(z.numpy())
    points = model.observation == "points"
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
        "shares": (scales**2 / max((scales**2).sum(), 1e-30))[:DIRECTIONS].tolist(),
        "prior": np.round((prior.numpy() - mean) @ directions[:2].T, 3).tolist(),
        "points": np.round(levels.numpy(), 3).tolist() if points else None,
        "images": None if points else sheet(OBSERVATIONS[model.observation].shown(levels)),
    }


def principal(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean (d,) of codes (n, d), their principal directions, a row each, and the scale along each.

    Each direction's largest component is positive.
    """
    mean = z.mean(0)
    _, values, directions = np.linalg.svd(z - mean, full_matrices=False)
    largest = np.abs(directions).argmax(1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return mean, directions * signs[:, None], values / math.sqrt(len(z))


def unrolled(model: LatentVariableModel) -> Unrolled | None:
    """A model's decoder as layers, from z, and y where it has one; None where there is none so small.

    What comes out are levels from 0 to 1, laid out as a canvas has them; of points, the mean's coordinates
    and the logarithm of the scale.
    """
    if model.observation == "codes" or not isinstance(getattr(model, "decoder", None), nn.Module):
        return None
    try:
        decoder = Unrolled(cast(nn.Module, model.decoder))
        if model.observation != "points":
            if decoder.size == (1, 1):
                decoder.to_map(*model.shape)
            if model.observation == "binary":
                decoder.activate("sigmoid")
            zero, one = OBSERVATIONS[model.observation].shown(torch.tensor([0.0, 1.0])).numpy()
            if (zero, one) != (0, 1):
                decoder.scale(np.array([one - zero]), np.array([zero]))
    except Unknown:
        return None
    weights = sum(layer.weight.size for layer in decoder.layers)
    products = sum(layer.products for layer in decoder.layers)
    return decoder if weights <= WEIGHTS and products <= PRODUCTS else None


def export(decoder: Unrolled, model: LatentVariableModel, z: Tensor) -> list[dict[str, Any]] | None:
    """The decoder's layers, packed; None where they give other images than torch, tried on codes (n, d)."""
    layers = decoder.layers
    y = torch.arange(len(z)) % model.classes if model.has_label else None
    given = z if y is None else torch.cat([z, one_hot(y, model.classes).to(z)], dim=1)
    expected = reference(model, z, y)
    if given.shape[1] != layers[0].weight.shape[1]:
        return None
    weights = [layer.weight for layer in layers]
    biases = [pack(layer.bias[None], 16) for layer in layers]
    for bits in BITS:
        packed = [pack(weight, bits) for weight in weights]
        for layer, weight, bias in zip(layers, packed, biases, strict=True):
            layer.weight, layer.bias = unpack(weight), unpack(bias)[0]
        found = decoder(given.numpy())
        if model.observation == "points":
            d = model.shape[0]
            found = np.concatenate([found[:, :d], np.exp(found[:, d:]) * np.ones(d)], axis=1)
        if found.shape == expected.shape and np.abs(found - expected).max() < TOLERANCE / 2:
            parts = zip(layers, packed, biases, strict=True)
            return [asdict(layer) | {"weight": weight, "bias": bias} for layer, weight, bias in parts]
    return None


def reference(model: LatentVariableModel, z: Tensor, y: Tensor | None) -> np.ndarray:
    """The same by torch: levels (n, height * width * channels), or points' means and scales (n, 2 d)."""
    if model.observation == "points":
        x: Any = model.generate(len(z), {"z": z}).nodes["x"]["fn"]
        return torch.cat([x.mean, x.stddev], dim=1).numpy()
    levels = OBSERVATIONS[model.observation].shown(model.decode({"z": z}, y))
    return levels.permute(0, 2, 3, 1).flatten(1).numpy()


def pack(x: np.ndarray, bits: int) -> dict[str, Any]:
    """Numbers (..., n) as integers of so many bits, and a scale for each row of n."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float32)
    most = 2 ** (bits - 1) - 1
    scales = np.maximum(np.abs(rows).max(1), 1e-30).astype(np.float32) / most
    levels = np.rint(rows / scales[:, None]).astype(np.int32) + most
    binary = (levels.reshape(-1, 1) >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    packed = (base64.b64encode(part).decode() for part in (scales.tobytes(), np.packbits(binary).tobytes()))
    return {"shape": x.shape, "bits": bits} | dict(zip(("scales", "levels"), packed, strict=True))


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """What `pack` has packed, to half a level, as the page unpacks it."""
    shape, bits = packed["shape"], packed["bits"]
    scales = np.frombuffer(base64.b64decode(packed["scales"]), np.float32)
    binary = np.unpackbits(
        np.frombuffer(base64.b64decode(packed["levels"]), np.uint8), count=math.prod(shape) * bits
    )
    levels = binary.reshape(len(scales), -1, bits) @ (1 << np.arange(bits)[::-1])
    return ((levels - (2 ** (bits - 1) - 1)) * scales[:, None]).astype(np.float32).reshape(shape)


def sheet(images: Tensor) -> str:
    """Images (n, channels, height, width), 0 to 1, in rows and columns of a square, as a data address."""
    levels = (255 * images.clamp(0, 1)).round().byte()
    n, channels, height, width = levels.shape
    columns = math.ceil(math.sqrt(n))
    canvas = np.zeros((columns * height, columns * width, channels), np.uint8)
    for i, image in enumerate(levels.permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + height, left : left + width] = image
    kind = (
        "png" if channels == 1 else "jpeg"
    )  # of colours a few per cent off nothing is seen, and much is saved
    file = io.BytesIO()
    Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas).save(
        file, kind, optimize=True, quality=85
    )
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
