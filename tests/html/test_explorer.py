"""The parts of the latent explorer: the exported decoder, packed weights, principal directions."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from inference.data.dataset import Dataset
from inference.data.load import find_dataset
from inference.data.observations import OBSERVATIONS
from inference.html import explorer
from inference.html.export_layers import ExportedLayers, Layer, UnsupportedModule
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from ppl_models.nets.conv import BatchedSequential, ToImage
from ppl_models.vae import VAE
from tests.support import DOCUMENTED, shortened

SUPPORTED = ("vae", "gmvae", "ssvae", "ae", "beta_vae", "conv_vae", "fsvae", "ppca", "vae2d")
SHAPES = {"fsvae": (3, 32, 32), "conv_vae": (3, 32, 32), "vae2d": (2,), "ppca": (1, 8, 8)}


def noise(shape: tuple[int, ...], n: int = 60) -> Dataset:
    """Random images or points of this shape, with labels for images."""
    random = torch.Generator().manual_seed(0)
    if len(shape) == 1:
        x, y = torch.randn(n, *shape, generator=random) * 3, None
    else:
        x, y = torch.randint(256, (n, *shape), generator=random).byte(), torch.arange(n) % 10
    return Dataset("noise", x, y, x, y)


def lively(name: str, **options: int) -> tuple[Dataset, LatentVariableModel]:
    """An untrained model whose decoded images differ, because the weights of its decoder are larger."""
    torch.manual_seed(0)
    shape = SHAPES.get(name, (1, 28, 28))
    data = noise(shape)
    model = MODELS[name](shape, data.classes, **options)
    for module in model.decoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data *= 2
            module.bias.data += 0.1
        if isinstance(module, nn.BatchNorm2d):
            for part in (module.weight, module.bias, module.running_mean, module.running_var):
                part.data += 0.3 * torch.rand_like(part)
    return data, model.eval()


def codes(model: LatentVariableModel, n: int = 20) -> tuple[Tensor, Tensor | None]:
    """Codes with a large spread, and a class for each if the model has a label."""
    z = 2 * torch.randn(n, model.z_dim)
    return z, torch.arange(n) % model.classes if model.has_label else None


def by_torch(model: LatentVariableModel, z: Tensor, y: Tensor | None) -> np.ndarray:
    """The expected output of the page: levels pixel by pixel, or the mean and scale of points."""
    if model.observation == "points":
        site = model.generate(len(z), {"z": z}).nodes["x"]["fn"]
        return torch.cat([site.mean, site.stddev], 1).detach().numpy()
    images = OBSERVATIONS[model.observation].shown(model.decode({"z": z}, y))
    return images.permute(0, 2, 3, 1).flatten(1).numpy()


@pytest.mark.parametrize("name", SUPPORTED)
def test_exported_layers_equal_the_decoder(name: str) -> None:
    _, model = lively(name)
    z, y = codes(model)
    given = z if y is None else torch.cat([z, one_hot(y, model.classes).to(z)], 1)
    found = explorer.export_decoder(model)(given.numpy())
    if name == "vae2d":
        found[:, 2:] = np.exp(found[:, 2:])
    expected = by_torch(model, z, y)
    assert expected.std(0).max() > 0.02  # the output depends on the codes
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)


# Convolutions for colour images take long; the browser decodes the packed weights of fsvae.
@pytest.mark.parametrize("name", shortened(SUPPORTED, set(SUPPORTED) - {"fsvae", "conv_vae"}))
def test_packed_weights_give_the_images_of_torch_within_a_hundredth(name: str) -> None:
    data, model = lively(name)
    found = explorer.contents(data, model)
    assert json.loads(json.dumps(found, allow_nan=False))
    layers = [
        Layer(**part | {"weight": explorer.unpack(part["weight"]), "bias": explorer.unpack(part["bias"])[0]})
        for part in found["layers"]
    ]
    z, y = codes(model)
    x = z.numpy() if y is None else np.concatenate([z.numpy(), np.eye(model.classes)[y].astype("f")], 1)
    for layer in layers:
        x = layer(x)
    if name == "vae2d":
        x[:, 2:] = np.exp(x[:, 2:])
    assert np.abs(x - by_torch(model, z, y)).max() < 1e-2


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - set(SUPPORTED)))
def test_other_models_have_no_explorer(name: str, narrow: None) -> None:
    cls = MODELS[name]
    vectors = name in ("flow", "seq_vae")
    data = noise((2,)) if vectors else find_dataset("digits", Path())[0].padded(cls)
    other = {"codes": lambda: cls((1, 8, 8), codes=8), "tokens": lambda: cls((12,))}
    model = other[cls.observation]() if cls.observation in other else cls(data.shape, 10)
    assert explorer.section(data, model.eval()) == ""


def test_a_one_dimensional_latent_has_no_explorer() -> None:
    data, model = lively("vae", z_dim=1)
    assert explorer.section(data, model) == ""


def test_non_finite_codes_or_images_are_not_shown() -> None:
    for part in ("encoder", "decoder"):
        data, model = lively("vae")
        getattr(model, part).layers[1].weight.data[0] = torch.nan
        assert explorer.section(data, model) == ""


def test_a_single_image_has_no_explorer() -> None:
    data, model = lively("vae")
    assert explorer.section(replace(data, x_test=data.x_test[:1], y_test=data.y_test[:1]), model) == ""
    assert explorer.section(replace(data, x_test=data.x_test[:2], y_test=data.y_test[:2]), model)


class Inverted(VAE):
    """A model that does not use the decoder as it is."""

    def model(self, x: Tensor) -> None:
        self.decoder.layers[-1].weight.data *= -1
        super().model(x)
        self.decoder.layers[-1].weight.data *= -1


def test_a_decoder_whose_images_differ_from_torch_is_not_shown() -> None:
    data = noise((1, 28, 28))
    torch.manual_seed(0)
    assert explorer.section(data, VAE((1, 28, 28)).eval())
    torch.manual_seed(0)
    assert explorer.section(data, Inverted((1, 28, 28)).eval()) == ""


def test_unsupported_modules_are_rejected() -> None:
    data, model = lively("vae")
    model.decoder.activation = torch.tanh
    assert explorer.section(data, model) == ""
    linear = nn.Linear(4, 16)
    for wrong in (
        nn.Sequential(nn.ReLU()),
        nn.Sequential(linear, nn.ReLU(), nn.ReLU()),
        nn.Sequential(linear, nn.Softplus()),
        nn.Sequential(linear, ToImage(3, 2, 2)),
        BatchedSequential(linear, ToImage(4, 2, 2), nn.Conv2d(4, 4, 3, groups=2)),
        BatchedSequential(linear, ToImage(4, 2, 2), nn.BatchNorm2d(4)),  # in training mode it is not affine
    ):
        with pytest.raises(UnsupportedModule):
            ExportedLayers(wrong)


def test_large_decoders_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = lively("vae")
    assert explorer.export_decoder(model)
    monkeypatch.setattr(explorer, "MAX_WEIGHTS", 328_199)  # the decoder has one more
    assert explorer.export_decoder(model) is None
    monkeypatch.undo()
    monkeypatch.setattr(explorer, "MAX_PRODUCTS", 328_199)
    assert explorer.export_decoder(model) is None


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.ConvTranspose2d(3, 5, (4, 3), stride=(2, 3), padding=1, output_padding=(1, 2)), (4, 5)),
        (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0)), (7, 6)),
    ],
)
def test_convolutions_of_any_stride_equal_torch(layer: nn.Module, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = BatchedSequential(nn.Linear(2, 3 * math.prod(size)), ToImage(3, *size), layer, nn.LeakyReLU(0.2))
    z = torch.randn(4, 2)
    expected = net(z).detach()
    exported = ExportedLayers(net)
    assert exported.size == expected.shape[2:]
    np.testing.assert_allclose(
        exported(z.numpy()), expected.permute(0, 2, 3, 1).flatten(1).numpy(), atol=1e-5
    )


@pytest.mark.parametrize("bits", [8, 11, 16])
def test_packing_is_accurate_to_half_a_level(bits: int) -> None:
    x = np.random.RandomState(0).normal(size=(3, 7, 5)).astype(np.float32) * [[[1e-3]], [[1.0]], [[1e3]]]
    x[1, 2] = 0
    packed = explorer.pack(x, bits)
    levels = np.abs(x).max(-1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(explorer.unpack(packed) - x) <= 0.5001 * levels).all()
    assert len(packed["levels"]) == 4 * math.ceil(math.ceil(x.size * bits / 8) / 3)


def test_principal_directions_are_eigenvectors_of_the_covariance() -> None:
    random = np.random.RandomState(0)
    z = random.normal(size=(500, 6)) @ random.normal(size=(6, 6)) + 3
    mean, directions, scales = explorer.principal(z)
    values, vectors = np.linalg.eigh(np.cov(z.T, bias=True))
    np.testing.assert_allclose(mean, z.mean(0))
    np.testing.assert_allclose(scales**2, values[::-1])
    np.testing.assert_allclose(np.abs((directions * vectors.T[::-1]).sum(1)), 1)
    assert (directions[np.arange(6), np.abs(directions).argmax(1)] > 0).all()


def test_the_data_of_a_page_are_those_of_the_test_set() -> None:
    data, model = lively("fsvae")
    found = explorer.contents(data, model)
    x, y = OBSERVATIONS["unit"].test(data.x_test), data.y_test
    z = explorer.unpack(found["z"])
    np.testing.assert_allclose(z, model.encode(x, y)["z"], atol=1e-3)
    assert found["labels"] == found["y"] == y.tolist()
    np.testing.assert_allclose(found["mean"], z.mean(0), atol=1e-3)
    kept = explorer.DIRECTIONS
    assert [len(found[name]) for name in ("directions", "scales", "fractions")] == [
        min(kept, model.z_dim)
    ] * 3
    centred = z - z.mean(0)
    along = centred @ np.array(found["directions"]).T
    np.testing.assert_allclose(along.std(0), found["scales"], rtol=1e-2)
    np.testing.assert_allclose(found["fractions"], along.var(0) / centred.var(0).sum(), rtol=2e-2)


def test_codes_of_the_ssvae_have_the_label_that_the_encoder_used() -> None:
    data, model = lively("ssvae")
    found = explorer.contents(data, model)
    torch.testing.assert_close(
        torch.tensor(found["y"]), model.classify(OBSERVATIONS["binary"].test(data.x_test).float()).argmax(1)
    )
    assert found["labels"] == data.y_test.tolist() != found["y"]


def test_fewer_long_codes_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = lively("vae", z_dim=20)
    monkeypatch.setattr(explorer, "MAX_VALUES", 25 * 20 + 1)
    found = explorer.contents(data, model)
    assert found["z"]["shape"] == (25, 20)
    assert len(found["labels"]) == 25


def test_a_section_is_complete_and_preserves_the_rng_state() -> None:
    data, model = lively("vae")
    before = torch.get_rng_state()
    first = explorer.section(data, model)
    assert torch.equal(torch.get_rng_state(), before)
    assert explorer.section(data, model) == first
    assert first.startswith('<section id="explorer"') and first.rstrip().endswith("</section>")
    assert not re.search(r"https?://|\$[a-z]", first)
    assert len(first) < 1_500_000
