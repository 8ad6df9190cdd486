"""Models of vectors: bounds against Pyro, normalised densities, samples, and the limits of the likelihood."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from torch.testing import assert_close

from inference import evaluate, fit
from inference.data.dataset import Columns
from inference.data.examples import example_inputs
from inference.elbo.comparison import compare
from inference.elbo.estimators import ESTIMATORS
from inference.errors import UserError
from inference.plots import points
from ppl_models import MADE, MODELS, SSVAE, VAE, Flow
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import AutoregressiveVector
from ppl_models.nets.heads import MIN_SCALE
from ppl_models.programs import sample_latents

D, CLASSES = 5, 3
VECTORS = [name for name, cls in MODELS.items() if cls.observation_of((D,)) == "points"]
CASES = [
    (name, likelihood, estimator)
    for name in VECTORS
    for likelihood in (("normal", "bernoulli") if "likelihood" in MODELS[name].options() else ("",))
    for estimator in MODELS[name].estimators
]


def build(name: str, likelihood: str = "", **options: float) -> LatentVariableModel:
    """A small model of vectors, with parameters away from their initial values."""
    chosen = {"likelihood": likelihood} if likelihood else {}
    widths = {"hidden": 12, "hidden1": 12, "hidden2": 12}
    narrow = {key: width for key, width in widths.items() if key in MODELS[name].options()}
    model = MODELS[name]((D,), CLASSES, **narrow, **chosen, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("name", "likelihood", "estimator"), CASES)
def test_by_hand_equals_pyro(name: str, likelihood: str, estimator: str, float64: None) -> None:
    model = build(name, likelihood)
    for batch in (1, 4):
        result = compare(model, example_inputs(model, batch), estimator)
        assert result["value_difference"] <= 1e-9, str(result)
        assert result["gradient_difference"] <= 1e-7, str(result)
    assert ESTIMATORS[estimator].particles > 1 or len(result["terms"]) >= 2


@pytest.mark.parametrize("name", VECTORS)
def test_every_parameter_learns(name: str, float64: None) -> None:
    model = build(name)
    inputs = example_inputs(model, 8)
    model.bound(**inputs, latents=sample_latents(model, **inputs)).objective.backward()
    unseen = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # the guide learns through its samples, which are constants here
    assert [key for key in unseen if not key.startswith(("encoder", "classifier"))] == []


@pytest.mark.parametrize("name", [name for name in VECTORS if "likelihood" in MODELS[name].options()])
def test_auto_is_normal_for_vectors_and_bernoulli_for_images(name: str) -> None:
    auto, normal, bits = build(name), build(name, "normal"), build(name, "bernoulli")
    assert auto.state_dict().keys() == normal.state_dict().keys()
    assert (auto.observation, normal.observation, bits.observation) == ("points", "points", "bits")
    assert set(example_inputs(bits, 50)["x"].unique().tolist()) == {0.0, 1.0}
    images = MODELS[name]((1, 4, 4), CLASSES)
    assert images.observation == "binary" and not any("log_scale" in key for key in images.state_dict())
    torch.manual_seed(0)
    expected = MODELS[name]((1, 4, 4), CLASSES, likelihood="bernoulli").state_dict()
    torch.manual_seed(0)
    for key, value in MODELS[name]((1, 4, 4), CLASSES).state_dict().items():
        assert torch.equal(value, expected[key])
    with pytest.raises(ValueError, match="likelihood normal is for vectors, not for images of shape"):
        MODELS[name]((1, 4, 4), CLASSES, likelihood="normal")


def test_the_likelihood_is_the_formula_of_the_docstring(float64: None) -> None:
    """-sum_i log N(x_i; mean_i, scale_i^2), by a loop, with a scale that does not depend on z."""
    model, x, z = VAE((D,), z_dim=2, hidden=8), torch.randn(6, D), torch.randn(6, 2)
    with torch.no_grad():
        model.likelihood.log_scale.copy_(torch.linspace(-3, 1, D))
    mean = model.decoder(z)
    expected = torch.zeros(6)
    for i in range(D):
        scale = MIN_SCALE + math.exp(-3 + i)
        expected += (x[:, i] - mean[:, i]) ** 2 / (2 * scale**2) + math.log(scale * math.sqrt(2 * math.pi))
    assert_close(model.bound(x, {"z": z}).terms["reconstruction"], expected)


def test_the_scale_is_bounded_below() -> None:
    """Repeated values do not give an infinite density: -log p(x | z) is at least that of the bound."""
    model = VAE((D,), z_dim=2, hidden=8)
    with torch.no_grad():
        model.likelihood.log_scale.fill_(-100)
        model.decoder.layers[-1].weight.zero_()
        model.decoder.layers[-1].bias.zero_()
    terms = model.bound(torch.zeros(1, D), {"z": torch.zeros(1, 2)}).terms
    least = D * math.log(MIN_SCALE * math.sqrt(2 * math.pi))
    assert terms["reconstruction"].item() == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize("masks", [1, 3])
def test_made_is_an_autoregressive_normal_density(masks: int, float64: None) -> None:
    model = MADE((2,), hidden=9, order="random", masks=masks).eval()
    with torch.no_grad():
        for layer in model.network.layers:
            layer.weight *= 2
    axis = torch.linspace(-12, 12, 481)
    p = model.log_likelihood(torch.cartesian_prod(axis, axis)).exp()
    assert p.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-3)
    samples = model.sample(20_000)
    low, high = samples.quantile(0.2, dim=0), samples.quantile(0.7, dim=0)
    inside = ((samples > low) & (samples < high)).all(-1).double().mean().item()
    axes = [torch.linspace(a, b, 201) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    middle = [(axis[1:] + axis[:-1]) / 2 for axis in axes]
    p = model.log_likelihood(torch.cartesian_prod(*middle)).exp()
    share = p.sum().item() * math.prod((axis[1] - axis[0]).item() for axis in axes)
    assert inside == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 20_000))


def test_mean_and_scale_of_a_dimension_depend_on_those_before_it(float64: None) -> None:
    network = MADE((4,), hidden=60).network
    jacobian = torch.autograd.functional.jacobian(network, torch.randn(4)).view(2, 4, 4)
    for output in jacobian:
        assert torch.equal(output, output.tril(-1)) and (output.tril(-1) != 0).sum() == 6
    assert network.degrees()[-1].tolist() == [1, 2, 3, 4] * 2


def test_the_density_of_made_is_that_of_its_distribution(float64: None) -> None:
    model, x = MADE((D,), hidden=9), torch.randn(7, D)
    family = AutoregressiveVector([model.network], torch.arange(D)[None], (D,), x.dtype)
    assert_close(family.log_prob(x), model.log_likelihood(x))
    assert family.expand((3,)).sample().shape == (3, D)
    assert isinstance(family.expand((3,)), AutoregressiveVector)


@pytest.mark.parametrize("kind", ["coupling", "autoregressive"])
@pytest.mark.parametrize("d", [3, 5])
def test_a_flow_of_many_dimensions_is_invertible_and_moves_each(kind: str, d: int, float64: None) -> None:
    model = Flow((d,), kind=kind, layers=3, hidden=16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(50, d)
    e = x
    for layer in model.chain():
        e = layer(e)
    assert ((e - x).abs().mean(0) > 0.02).all()
    back = e.detach()
    for layer in reversed(model.chain()):
        back = layer.inv(back)
    assert_close(back, x, rtol=1e-5, atol=1e-5)
    by_hand = -model.bound(x, {}).terms["reconstruction"]
    assert_close(by_hand, model.log_likelihood(x), rtol=1e-6, atol=1e-6)


def test_a_flow_needs_two_dimensions() -> None:
    with pytest.raises(ValueError, match="at least two dimensions"):
        Flow((1,))


def test_labels_shift_the_samples_of_vectors(float64: None) -> None:
    """p(x | y, z) of `ssvae` has its mean from the decoder and its noise from the scale."""
    model = SSVAE((D,), CLASSES, z_dim=2, hidden=8)
    with torch.no_grad():
        model.likelihood.log_scale.fill_(math.log(0.3 - MIN_SCALE))
    y, z = torch.full((4_000,), 2), torch.zeros(4_000, 2)
    samples = model.sample(4_000, y=y, latents={"z": z})
    means = model.sample(4_000, y=y, latents={"z": z}, noise=False)
    assert_close((samples - means).std(0), torch.full((D,), 0.3), rtol=0.06, atol=0)
    assert_close(samples.mean(0), means[0], rtol=0, atol=0.025)


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
def test_fit_and_evaluate_take_tensors_of_vectors(likelihood: str) -> None:
    model = VAE((D,), z_dim=2, hidden=8, likelihood=likelihood)
    x = (torch.randn(60, D) > 0.5).float() if likelihood == "bernoulli" else 0.1 * torch.randn(60, D) + 1
    untrained = evaluate(model, x, particles=())["negative_elbo"].value
    history = fit(
        model, x, validation=x[:20], steps=60, batch_size=20, lr=1e-2, compile="eager", progress=False
    )
    assert history.metrics[-1]["step"] == 60
    assert evaluate(model, x, particles=())["negative_elbo"].value < 0.9 * untrained
    if likelihood == "bernoulli":
        for call in (partial(evaluate, particles=()), partial(fit, steps=1, batch_size=5, progress=False)):
            with pytest.raises(UserError, match=r"needs columns of 0 and 1 only, and column 3 of"):
                call(model, torch.cat([x, torch.tensor([[0.0, 1.0, 0.0, 0.5, 0.0]])]))


@pytest.mark.parametrize("d", [1, 2, 14])
def test_figures_of_vectors(d: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples on the first two principal components of the data, and histograms in the units of the table."""
    model, x = VAE((d,), z_dim=2, hidden=8), torch.randn(40, d) * torch.arange(1, d + 1)
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(points, "_scatter", lambda axes, x, **style: shown.append(x))
    points.draw_samples(model, x, tmp_path / "samples.png")
    assert [part.shape for part in shown] == [(40, 2), (1_000, 2), (1_000, 2)]
    if d > 2:
        assert_close(shown[0].var(0), torch.linalg.eigvalsh(x.T.cov()).flip(0)[:2])
    else:
        assert torch.equal(shown[0], x.expand(-1, 2))
    histograms: list[tuple] = []
    monkeypatch.setattr(Axes, "hist", lambda self, values, bins, **style: histograms.append((values, bins)))
    columns = Columns(tuple(f"column {i}" for i in range(d)), (100.0,) * d, (10.0,) * d)
    points.draw_columns(model, x, columns, tmp_path / "columns.png")
    assert len(histograms) == 2 * min(d, points.MAX_COLUMNS) and (tmp_path / "columns.png").exists()
    data, bins = histograms[0]
    assert_close(torch.tensor(data), 100 + 10 * x[:, 0].double())
    assert bins[0] < data.min() and data.max() < bins[-1]
