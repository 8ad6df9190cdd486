"""Convolutional models at other sizes of images than the one that their papers use."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from inference import fit, interpolate, load, svi
from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.elbo.comparison import compare
from inference.elbo.estimators import ESTIMATORS
from inference.errors import UserError
from inference.html import explorer
from inference.plots.graph import draw
from inference.rundir.restore import restore
from ppl_models import MODELS, ConvVAE
from ppl_models.base import LatentVariableModel
from ppl_models.programs import sample_latents
from tests.support import shortened

SIZES = shortened(
    [(28, 28), (32, 32), (64, 64), (128, 128), (48, 64)], [(48, 64)]
)  # 28 x 28 is padded to 32 x 32, as in the contract tests
STRIDES = {"conv_vae": 8, "hvae": 16, "vqvae": 4, "gated_vae": 4, "af_vae": 4, "pixel_vae": 4}
MAPS = {"hvae": 12, "vqvae": 8, "gated_vae": 3, "af_vae": 3}  # channels of the latent maps
OPTIONS = {
    **{"vqvae": {"codes": 9}, "gated_vae": {"z_channels": 3}, "af_vae": {"z_channels": 3, "flows": 1}},
    "pixel_vae": {"z_dim": 3, "width": 4, "receptive_field": 2},
}


def build(name: str, size: tuple[int, int], channels: int = 3) -> LatentVariableModel:
    """A model for images of a size, padded if they are small."""
    cls = MODELS[name]
    return cls(cls.padded((channels, *size)), 0, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", STRIDES)
def test_by_hand_equals_pyro_at_every_size(
    name: str, size: tuple[int, int], narrow: None, float64: None
) -> None:
    model = build(name, size)
    estimators = model.estimators if size == (64, 64) else model.estimators[:1]
    for estimator in estimators:
        if ESTIMATORS[estimator].particles == 1 or model.kl_weight == 1:
            result = compare(model, example_inputs(model, 2 if name == "vqvae" else 1), estimator)
            assert result["value_difference"] <= 1e-9, result
            assert result["gradient_difference"] <= 1e-9, result
            assert result["agrees"], result


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "name", shortened(STRIDES, set(STRIDES) - {"pixel_vae"})
)  # it samples pixel by pixel
def test_latents_and_images_have_the_sizes_of_the_data(
    name: str, size: tuple[int, int], narrow: None, tmp_path: Path
) -> None:
    """Posterior, codes, samples, reconstructions and interpolations; a loaded model is the same."""
    model = build(name, size, channels=1).eval()
    height, width = size if size != (28, 28) or name == "pixel_vae" else (32, 32)
    inputs = example_inputs(model, 2)
    assert inputs["x"].shape == (2, 1, height, width)
    z_shape = {"conv_vae": (16,), "pixel_vae": (3,)}.get(name)
    latents = model.encode(inputs["x"])
    for z in latents.values():
        stride = STRIDES[name]
        assert z.shape[1:] == (z_shape or (MAPS[name], height // stride, width // stride))
    assert model.posterior(inputs["x"]).keys() == latents.keys()
    model.save(tmp_path / "model.pt")
    other = load(tmp_path / "model.pt")
    assert_close(other.encode(inputs["x"]), latents, rtol=0, atol=0)
    between = model.interpolate(latents, torch.tensor([0.0, 0.5, 1.0]))
    for key, z in between.items():
        assert_close(z[[0, 2]], latents[key], rtol=1e-4, atol=1e-5)
    if name == "pixel_vae" and size == (128, 128):
        return  # an image takes half a minute, one pixel at a time
    torch.manual_seed(0)
    samples = model.sample(1)
    torch.manual_seed(0)
    assert samples.shape == (1, 1, height, width) and torch.equal(other.sample(1), samples)
    assert model.decode(between).shape == (3, 1, height, width)
    assert model.reconstruct(inputs["x"]).shape == inputs["x"].shape


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_same_parameters_at_every_size(name: str, narrow: None) -> None:
    small, wide = build(name, (32, 32)), build(name, (48, 64))
    wide.load_state_dict(small.state_dict())


def test_latents_of_a_large_image_depend_on_all_of_it(narrow: None) -> None:
    """Each pixel of an image of 48 x 64 changes the KL terms."""
    for name in set(STRIDES) - {"pixel_vae", "vqvae"}:  # the latter's entries depend on x in steps
        model = build(name, (48, 64)).eval()
        x = example_inputs(model, 1)["x"].requires_grad_()
        terms = model.bound(x, sample_latents(model, x=x)).terms
        kl = sum(term.sum() for key, term in terms.items() if key.startswith("kl"))
        assert (torch.autograd.grad(kl, x)[0].abs().amax((0, 1)) > 0).all(), name


def test_the_bound_of_codes_counts_every_position(narrow: None) -> None:
    for size, positions in {(32, 32): 64, (64, 64): 256, (48, 64): 192}.items():
        model = build("vqvae", size).eval()
        x = example_inputs(model, 2)["x"]
        kl = model.bound(x, sample_latents(model, x=x)).terms["kl_z"]
        assert_close(kl, torch.full((2,), positions * np.log(9), dtype=kl.dtype))
        assert model.codes(x).shape == (2, size[0] // 4, size[1] // 4)
        assert_close(model.decode_codes(model.codes(x)), model.reconstruct(x))


PARAMETERS = {  # of images of MNIST's size: their number, and the sum of the squares of those of seed 0
    "conv_vae": (980_257, 998.307334),
    "hvae": (582_653, 921.211091),
    "vqvae": (4_768_001, 3848.661355),
    "gated_vae": (2_432_034, 1062.450769),
    "af_vae": (3_021_538, 2313.798138),
    "pixel_vae": (627_649, 1657.926149),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_small_images_have_the_parameters_of_published_runs(name: str) -> None:
    torch.manual_seed(0)
    cls = MODELS[name]
    model = cls(cls.padded((1, 28, 28)))
    count, squares = PARAMETERS[name]
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(p.double().square().sum().item() for p in model.parameters()) == pytest.approx(
        squares, rel=1e-6
    )


REFUSED = {
    ("conv_vae", 50, 50): ("height and width divisible by 8", ["48x48", "56x56"]),
    ("conv_vae", 5, 64): ("height and width divisible by 8", ["8x64"]),
    ("conv_vae", 28, 40): ("height and width divisible by 8", ["24x40", "32x40"]),
    ("hvae", 40, 64): ("height and width divisible by 16", ["32x64", "48x64"]),
    ("vqvae", 33, 35): ("height and width divisible by 4", ["32x32", "36x36"]),
    ("gated_vae", 64, 66): ("height and width divisible by 4", ["64x64", "64x68"]),
    ("af_vae", 127, 128): ("height and width divisible by 4", ["124x128", "128x128"]),
    ("pixel_vae", 30, 28): ("height and width divisible by 4", ["28x28", "32x28"]),
    ("ae", 32, 32): ("a height and width of 28", ["28x28"]),
    ("beta_vae", 28, 29): ("a height and width of 28", ["28x28"]),
}


@pytest.mark.parametrize(("name", "height", "width"), REFUSED)
def test_other_sizes_are_refused_with_the_nearest_that_work(
    name: str, height: int, width: int, tmp_path: Path
) -> None:
    needs, sizes = REFUSED[name, height, width]
    expected = f"images of {height}x{width}: {name} needs {needs}: resize to {' or '.join(sizes)}"
    cls = MODELS[name]
    for size in sizes:
        cls(cls.padded((1, *map(int, size.split("x")))))  # the named sizes do work
    with pytest.raises(ValueError) as of_class:
        cls((1, height, width))
    assert str(of_class.value) == expected
    x = np.random.RandomState(0).randint(256, size=(12, height, width), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x, x_test=x)
    with pytest.raises(UserError) as of_command:
        arguments = ["--model", name, "--data", str(tmp_path / "x.npz"), "--steps", "2"]
        svi.main([*arguments, "--batch-size", "4", "--run-dir", str(tmp_path / "run")])
    assert str(of_command.value) == f"{tmp_path / 'x.npz'} has {expected}"
    assert not (tmp_path / "run").exists()
    fitting = cls(cls.padded((1, 28, 28)))
    with pytest.raises(UserError) as of_fit:
        fit(fitting, x[:, None], steps=2, batch_size=4)
    assert str(of_fit.value) == f"the data are {expected}"


def test_padding_is_on_all_sides_and_only_up_to_the_smallest_size() -> None:
    x = torch.full((1, 1, 28, 30), 7, dtype=torch.uint8)
    padded = Dataset("small", x, None, x, None).padded(ConvVAE).x_train
    assert padded.shape == (1, 1, 32, 32) and padded.sum() == x.sum()
    assert torch.equal(padded[..., 2:30, 1:31], x)
    wide = Dataset("wide", torch.ones(1, 1, 16, 40), None, torch.ones(1, 1, 16, 40), None)
    assert wide.padded(ConvVAE) is wide


def test_chunks_of_larger_images_have_no_more_pixels() -> None:
    for (height, width), expected in {(28, 28): 100, (32, 32): 100, (64, 64): 25, (48, 64): 33}.items():
        x = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        test = HeldOut(Dataset("", x, None, x, None), ConvVAE, torch.device("cpu"))
        assert test.chunk_size(100) == expected and test.chunk_size(1) == 1


@pytest.mark.full
@pytest.mark.parametrize("name", STRIDES)
def test_a_run_on_large_images(
    name: str, narrow: None, tmp_path: Path, with_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps on images of 16 x 48: figures, report with the latent explorer, interpolation, diagram."""
    height, width = (8, 12) if name == "pixel_vae" else (16, 48)  # it samples one pixel at a time
    x = np.random.RandomState(0).randint(256, size=(28, height, width, 3), dtype=np.uint8)
    y = np.arange(28) % 2
    np.savez(tmp_path / "wide.npz", x_train=x[:8], x_test=x[8:], y_train=y[:8], y_test=y[8:])
    options = [f"--{key.replace('_', '-')}={value}" for key, value in OPTIONS.get(name, {}).items()]
    arguments = ["--model", name, "--data", str(tmp_path / "wide.npz"), "--steps", "2", "--batch-size", "4"]
    run = tmp_path / "run"
    assert svi.main([*arguments, "--validation", "0", *options, "--run-dir", str(run)]) == 0
    drawn = {path.name for path in (run / "figures").iterdir()}
    assert {"samples.png", "reconstructions.png", "training.png", "interpolations.png"} <= drawn
    page = (run / "report.html").read_text()
    assert ('id="explorer"' in page) == (name == "conv_vae")
    assert restore(run).model.shape == restore(run).data.shape == (3, height, width)
    assert f"images of {height}x{width}" in capsys.readouterr().out
    arguments = [str(run), "--labels", "0-1", "--out", str(tmp_path / "line.png")]
    assert interpolate.main(arguments) == 0 and (tmp_path / "line.png").exists()
    draw(build(name, (height, width)).eval(), tmp_path / "diagram.png")
    assert (tmp_path / "diagram.png").stat().st_size > 5_000


@pytest.mark.full
@pytest.mark.parametrize("prior", ["pixelcnn", "transformer"])
def test_priors_of_codes_of_16_x_16(
    prior: str, narrow: None, tmp_path: Path, with_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.RandomState(0).randint(256, size=(12, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "large.npz", x_train=x[:8], x_test=x[8:])
    for key, value in {"steps": 2, "batch_size": 4}.items():
        monkeypatch.setitem(MODELS[f"code_{prior}"].defaults, key, value)
    arguments = ["--model", "vqvae", "--codes", "9", "--data", str(tmp_path / "large.npz"), "--steps", "2"]
    run = tmp_path / "run"
    arguments += ["--batch-size", "4", "--code-prior", prior, "--run-dir", str(run)]
    assert svi.main(arguments) == 0
    codes = np.load(run / "codes-of-large.npz")
    assert codes["x_train"].shape == (8, 16, 16) and codes["x_test"].shape == (4, 16, 16)
    stage2 = restore(run / f"prior-{prior}")
    assert stage2.model.shape == (1, 16, 16) and (run / f"prior-{prior}/figures/samples.png").exists()
    x = stage2.data.x_test[:2].double()
    result = compare(stage2.model.double(), {"x": x}, "trace")
    assert result["value_difference"] <= 1e-9 and result["gradient_difference"] <= 1e-9
    logits = stage2.model.network(x)
    x[:, 0, 9, 5] = (x[:, 0, 9, 5] + 1) % 9
    changed = (stage2.model.network(x) != logits).any(1)[0].flatten()  # by position, row by row
    assert not changed[: 9 * 16 + 6].any() and changed[9 * 16 + 6] and changed[-1]


@pytest.mark.full
@pytest.mark.parametrize("size", [(48, 64), (64, 64), (128, 128)], ids=str)
def test_the_explorer_decodes_large_images(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randint(256, (60, 3, *size)).byte()
    model = ConvVAE((3, *size)).eval()
    for part in model.decoder:
        if isinstance(part, torch.nn.ConvTranspose2d):
            part.weight.data *= 2  # so that images differ
    z = 2 * torch.randn(3, 16)
    expected = ((model.decode({"z": z}) + 1) / 2).permute(0, 2, 3, 1).flatten(1).numpy()
    assert expected.std(0).max() > 0.02
    np.testing.assert_allclose(explorer.export_decoder(model)(z.numpy()), expected, atol=2e-5, rtol=1e-4)
    found = explorer.contents(Dataset("noise", x, None, x, None), model)
    assert found is not None and tuple(found["shape"]) == (3, *size)
    z = torch.from_numpy(explorer.unpack(found["z"]))
    assert_close(z, model.encode(x.float() / 127.5 - 1)["z"], rtol=1e-3, atol=1e-3)  # of all images, in order
