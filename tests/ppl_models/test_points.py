"""Points in the plane: the data, the models, and the files of a run."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pyro
import pytest
import torch
from torch.testing import assert_close

from inference import svi
from inference.cli import train
from inference.data import points
from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.data.load import find_dataset
from inference.data.observations import POINTS
from inference.errors import UserError
from inference.metrics.bounds import evaluate_bounds
from inference.metrics.codes import active_units
from inference.plots import points as point_figures
from ppl_models import VAE2D, Flow

CPU = torch.device("cpu")
MEANS = {
    "gauss-full-1": (0.9608, 1.9651),
    "gauss-full-2": (-1.0182, 2.0033),
    "gauss-diag-1": (0.9476, 2.0030),
    "gauss-diag-2": (-1.0105, 2.0152),
}


@pytest.fixture
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are measured on 2000 points, which takes a tenth of the time."""

    def found(*given: Any, **options: Any) -> tuple[Dataset, str | None]:
        data, note = find_dataset(*given, **options)
        return replace(data, x_test=data.x_test[:2_000], y_test=None, x_independent=None), note

    monkeypatch.setattr(train, "find_dataset", found)


@pytest.mark.parametrize("name", MEANS)
def test_the_normals_of_2024_are_the_course_s(name: str) -> None:
    data, _ = find_dataset(name, Path("nowhere"))
    assert data.kind is POINTS and data.shape == (2,) and data.classes == 0
    assert (len(data.x_train), len(data.x_test)) == (10_000, 2_500)
    assert_close(data.x_train.mean(0), torch.tensor(MEANS[name]), rtol=0, atol=1e-4)
    assert torch.equal(data.x_test, data.x_train[:2_500])  # the course's own slip
    # the independent points are of the same process, and none of them is a training point
    assert data.x_independent is not None and len(data.x_independent) == 10_000
    shared = set(map(tuple, data.x_train.tolist())) & set(map(tuple, data.x_independent.tolist()))
    assert shared == set()
    assert_close(data.x_independent.T.cov(), data.x_train.T.cov(), rtol=0.1, atol=0.5)


@pytest.mark.parametrize(("name", "mean"), [("diag", (1.0004, 2.0066)), ("full", (0.9956, 2.0049))])
def test_the_normals_of_2019_are_the_course_s(name: str, mean: tuple[float, float]) -> None:
    data, _ = find_dataset(f"gauss-2019-{name}", Path("nowhere"))
    assert (len(data.x_train), len(data.x_test)) == (80_000, 20_000) and data.x_independent is None
    every = torch.cat([data.x_train, data.x_test]).double()
    assert_close(every.mean(0).float(), torch.tensor(mean), rtol=0, atol=1e-4)
    off = every.T.cov()[0, 1].item()
    assert off == pytest.approx(0 if name == "diag" else 12, abs=0.2)


def test_the_density_of_the_normals_is_what_the_sheet_says() -> None:
    """4.4184 nats on the course's test rows, and 3.2052 bits a dimension on the 100 000 points of 2019."""
    data, _ = find_dataset("gauss-full-1", Path("nowhere"))
    truth = torch.distributions.MultivariateNormal(
        torch.tensor([1.0, 2.0]), torch.tensor([[13.0, 12.0], [12.0, 13.0]])
    )
    assert -truth.log_prob(data.x_test).mean().item() == pytest.approx(4.4184, abs=1e-4)
    data, _ = find_dataset("gauss-2019-diag", Path("nowhere"))
    truth = torch.distributions.Normal(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 1.0]))
    every = torch.cat([data.x_train, data.x_test])
    bits = -truth.log_prob(every).sum(-1).mean().item() / (2 * math.log(2))
    assert bits == pytest.approx(3.2052, abs=1e-4)


def test_the_smile_is_the_course_s() -> None:
    data, _ = find_dataset("smiley", Path("nowhere"))
    assert (len(data.x_train), len(data.x_test), data.classes) == (79_999, 20_000, 3)
    every = torch.cat([data.x_train, data.x_test]).double()
    assert_close(every.mean(0).float(), torch.tensor([0.0, 1.4558]), rtol=0, atol=1e-4)
    assert_close(every.std(0, correction=0).float(), torch.tensor([1.4875, 1.5027]), rtol=0, atol=1e-4)
    assert data.y_train is not None and data.y_train[:10].tolist() == [2, 2, 0, 2, 2, 2, 0, 1, 2, 2]
    left = data.x_train[data.y_train == 0].mean(0)
    assert_close(left, torch.tensor([-1.5, 2.5]), rtol=0, atol=0.01)


def test_the_smile_s_true_density_is_that_of_the_results() -> None:
    """By quadrature along the mouth, on all test points and on the first 100, in nats."""
    data, _ = find_dataset("smiley", Path("nowhere"))
    t = (torch.arange(400) + 0.5) / 400 * math.pi
    mouth = torch.stack([2 * t.cos(), -t.sin()], -1)
    eyes = torch.tensor([[-1.5, 2.5], [1.5, 2.5]])

    def near(centres: torch.Tensor) -> torch.Tensor:
        """log N(x; centre, 0.2^2 I), (points, centres)."""
        squares = torch.cdist(data.x_test.double(), centres.double()) ** 2
        return -squares / (2 * 0.04) - math.log(2 * math.pi * 0.04)

    of_mouth = near(mouth).logsumexp(1, keepdim=True) - math.log(400)
    log_p = torch.cat([near(eyes), of_mouth], 1).logsumexp(1) - math.log(3)
    assert -log_p.mean().item() == pytest.approx(1.3246, abs=5e-5)
    assert -log_p[:100].mean().item() == pytest.approx(1.3660, abs=5e-5)
    assert -log_p.mean().item() / (2 * math.log(2)) == pytest.approx(0.9555, abs=5e-5)


@pytest.mark.parametrize("decoder", ["diag", "scalar"])
def test_the_decoder_has_as_many_scales_as_it_says(decoder: str) -> None:
    model = VAE2D((2,), decoder=decoder)
    site = model.generate(50).nodes["x"]["fn"]
    scale = site.base_dist.scale.expand(50, 2)
    assert torch.equal(scale[:, 0], scale[:, 1]) == (decoder == "scalar")
    sizes = [sum(p.numel() for p in net.parameters()) for net in (model.encoder, model.decoder)]
    assert sizes == [17_412, 17_412 if decoder == "diag" else 17_412 - 129]  # the solution's of 2020


@pytest.mark.parametrize("kind", ["coupling", "autoregressive"])
class TestFlow:
    """Forward, backward, the determinant, and the density as a whole."""

    def moved(self, kind: str) -> Flow:
        """A flow that is far from the identity."""
        pyro.set_rng_seed(0)
        model = Flow((2,), kind=kind, layers=3, hidden=16)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        return model

    def test_there_and_back(self, kind: str, float64: None) -> None:
        model, x = self.moved(kind), torch.randn(200, 2) * 2
        e = x
        for layer in model.chain():
            e = layer(e)
        assert (e - x).abs().mean() > 0.1
        back = e.detach()
        for layer in reversed(model.chain()):
            back = layer.inv(back)
        assert_close(back, x, rtol=1e-5, atol=1e-5)

    def test_the_determinant_is_the_jacobian_s(self, kind: str, float64: None) -> None:
        """Layer by layer, forward and backward, and of the whole."""
        model = self.moved(kind)
        for layer in model.chain():
            for step in (layer, layer.inv):
                x = torch.randn(2).requires_grad_()
                jacobian = torch.autograd.functional.jacobian(lambda v, step=step: step(v[None])[0], x)
                here = step(x[None])
                log_det = step.log_abs_det_jacobian(x[None], here)[0]
                assert_close(log_det, jacobian.slogdet().logabsdet, rtol=1e-5, atol=1e-6)

    def test_the_density_integrates_to_one(self, kind: str, float64: None) -> None:
        model = self.moved(kind)
        axis = torch.linspace(-9, 9, 451)
        with torch.no_grad():
            p = model.log_likelihood(torch.cartesian_prod(axis, axis)).exp()
        assert p.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=2e-3)

    def test_draws_are_of_the_density(self, kind: str, float64: None) -> None:
        """The share of draws in a box is the integral over it."""
        model = self.moved(kind)
        draws = model.sample(40_000)
        low, high = draws.quantile(0.2, dim=0), draws.quantile(0.7, dim=0)
        inside = ((draws > low) & (draws < high)).all(-1).double().mean().item()
        axes = [torch.linspace(a, b, 401) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        middle = [(axis[1:] + axis[:-1]) / 2 for axis in axes]
        with torch.no_grad():
            p = model.log_likelihood(torch.cartesian_prod(*middle)).exp()
        share = p.sum().item() * math.prod((axis[1] - axis[0]).item() for axis in axes)
        assert inside == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 40_000))

    def test_an_autoregressive_axis_sees_the_axes_before_it_alone(self, kind: str, float64: None) -> None:
        if kind == "coupling":
            return
        layer = self.moved(kind).layers[0]
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0], torch.randn(2))
        first, second = layer.arn.permutation.tolist()
        assert jacobian[first, second] == 0 != jacobian[second, first]


@pytest.mark.full
def test_a_run_on_points(tmp_path: Path, with_pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    arguments = ["--model", "vae2d", "--data", "gauss-full-1", "--steps", "1500", "--run-dir", str(run)]
    assert svi.main([*arguments, "--lr", "3e-3"]) == 0
    results = json.loads((run / "results.json").read_text())
    test, other = results["test"], results["independent"]
    assert 4.40 < test["negative_elbo"]["value"] < 4.48  # never below the truth, and near it
    assert 4.40 < other["negative_elbo"]["value"] < 4.52
    assert test["kl"]["value"] == pytest.approx(0.5 * math.log(25), abs=0.15)  # what the correlation needs
    bits = test["negative_elbo"]["value"] / (2 * math.log(2))
    assert test["bits_per_dim"]["value"] == pytest.approx(bits)
    assert results["active_units"] == 1  # of the two
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {"curves.png", "samples.png", "latents.png"}
    assert matplotlib.image.imread(run / "figures" / "samples.png")[..., :3].std() > 0.05


def test_a_unit_is_active_where_its_mean_varies() -> None:
    model, test = VAE2D((2,), z_dim=3), HeldOut(points.load("gauss-full-1"), VAE2D, CPU)
    spread = torch.tensor([0.0, 0.05, 0.5]) / test.x[:, :1].std()  # of z's means: the axis that they follow
    model.encode = lambda x, y=None: {"z": x[:, :1] * spread}
    assert active_units(model, test) == 1  # 0.0025 is less than a hundredth, 0.25 more
    model.encode = lambda x, y=None: {"z": x[:, :1] * spread[1:]}
    assert active_units(model, test) == 1


def test_samples_stand_beside_the_same_without_noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(point_figures, "_scatter", lambda axes, x, **style: shown.append(x))
    model, x = VAE2D((2,)), torch.randn(1_500, 2)
    with torch.no_grad():
        model.decoder.layers[-1].bias[2:] = math.log(0.3)  # the decoder's noise, about
    point_figures.draw_samples(model, x, tmp_path / "samples.png")
    data, drawn, means = shown
    assert torch.equal(data, x[:1_000]) and drawn.shape == means.shape == (1_000, 2)
    assert (drawn - means).std() == pytest.approx(0.3, rel=0.2)


@pytest.mark.usefixtures("few_held_out")
@pytest.mark.usefixtures("few_held_out")
def test_warm_up_lets_the_divergence_in_little_by_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[float] = []
    model = VAE2D.model
    monkeypatch.setattr(VAE2D, "model", lambda self, x: seen.append(float(self.beta)) or model(self, x))
    arguments = ["--model", "vae2d", "--steps", "6", "--kl-warmup", "4", "--run-dir", str(tmp_path / "run")]
    assert svi.main(arguments) == 0
    assert [beta for i, beta in enumerate(seen) if i == 0 or beta != seen[i - 1]] == [
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
    ]


@pytest.mark.full
@pytest.mark.usefixtures("few_held_out")
def test_a_flow_leaves_its_density(tmp_path: Path, with_pictures: None) -> None:
    run = tmp_path / "run"
    assert svi.main(["--model", "flow", "--steps", "300", "--run-dir", str(run)]) == 0
    results = json.loads((run / "results.json").read_text())
    assert set(results["test"]) == {"negative_log_p", "bits_per_dim"}
    assert 0.95 < results["test"]["bits_per_dim"]["value"] < 1.6
    assert {path.name for path in (run / "figures").iterdir()} == {"curves.png", "samples.png", "density.png"}


def test_points_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vae2d observes points, and digits has images: try --data smiley"):
        svi.main(["--model", "vae2d", "--data", "digits", "--run-dir", str(tmp_path / "x")])
    with pytest.raises(UserError, match="conv_vae observes images, and smiley has points: try --data digits"):
        svi.main(["--model", "conv_vae", "--data", "smiley", "--run-dir", str(tmp_path / "x")])
    assert list(tmp_path.iterdir()) == []


def test_points_come_as_they_are() -> None:
    data = points.load("gauss-diag-1")
    test = HeldOut(data, VAE2D, CPU)
    inputs, levels, y = next(test.chunks(10))
    assert torch.equal(inputs["x"], data.x_test[:10]) and torch.equal(levels, inputs["x"]) and y is None
    assert list(test.others) == ["independent"] and len(test.others["independent"]) == 10_000


def test_a_decoder_of_the_truth_has_its_likelihood() -> None:
    """Axis-aligned data, z ignored and the right scales: -ELBO is the density's, and KL is zero."""
    model = VAE2D((2,))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.decoder.layers[-1].bias.copy_(torch.tensor([1.0, 2.0, math.log(5), 0.0]))
    test = evaluate_bounds(model, HeldOut(points.load("gauss-diag-1"), VAE2D, CPU))
    assert test["negative_elbo"]["value"] == pytest.approx(4.4184, abs=1e-3)
    assert test["kl"]["value"] == 0
    assert example_inputs(model, 3)["x"].shape == (3, 2) and np.isfinite(test["bits_per_dim"]["value"])
