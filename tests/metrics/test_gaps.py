"""The amortisation gap and the approximation gap, where they are known and where only their order is."""

import copy
import math

import numpy as np
import pyro
import pytest
import torch
from torch.testing import assert_close

from inference.backend.device import double_precision
from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.errors import UserError
from inference.metrics import gaps as gaps_module
from inference.metrics import local_guide
from inference.metrics.exact import kl_to_posterior
from inference.metrics.gaps import inference_gaps
from inference.metrics.local_guide import LocalGuide, fit_local_guide, sample_particles
from inference.metrics.quadrature import quadrature
from ppl_models import GMVAE, PPCA, SSVAE, VAE, TwoLayerVAE
from ppl_models.base import LatentVariableModel
from ppl_models.programs import sample_latents

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)


@pytest.fixture(autouse=True)
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and larger steps to the best guide, which is near."""
    monkeypatch.setattr(local_guide, "STEPS", 150)
    monkeypatch.setattr(local_guide, "LEARNING_RATE", 0.05)


def held_out(model: LatentVariableModel, n: int = 20) -> HeldOut:
    x = torch.randint(256, (n, *model.shape), dtype=torch.uint8)
    return HeldOut(Dataset("x", x, None, x, None), type(model), CPU)


def linear(guide: str) -> PPCA:
    """A linear model whose best mean-field guide is far from its posterior, with the best guide."""
    model = PPCA(SHAPE, z_dim=3, guide=guide)
    with torch.no_grad():
        w = torch.randn(16, 3)
        w[:, 1] += w[:, 0]
        model.decoder.weight.copy_(0.5 * w)
        model.log_scale.fill_(-0.3)
    model.solve_guide()
    return model


def test_with_the_posterior_as_guide_there_is_no_gap(float64: None) -> None:
    model = linear("full")
    found = inference_gaps(model, held_out(model), 200)
    assert found.how == "closed form"
    for name in ("inference_gap", "amortization_gap", "approximation_gap"):
        metric = found.metrics[name]
        assert abs(metric["value"]) < 1e-6 + 4 * metric["mc_se"] and metric["mc_se"] < 1e-3
    assert found.metrics["k_hat_above_0.7"]["value"] == 0


def worse(model: PPCA) -> PPCA:
    """The same model with an encoder that misses the best guide in location and scale."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.encoder.bias.add_(torch.tensor([0.3, -0.2, 0.1]))
        other.raw_tril.add_(0.4 if not model.full else 0.4 * torch.eye(3))
    return other


@pytest.mark.parametrize(
    ("guide", "closed"),
    [
        ("mean_field", False),
        pytest.param("mean_field", True, marks=pytest.mark.full),
        ("full", True),
        pytest.param("full", False, marks=pytest.mark.full),
    ],
)
def test_the_gaps_of_a_linear_model_are_its_kl_divergences(
    guide: str, closed: bool, float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """approximation = KL(best || posterior), amortisation = KL(encoder || posterior) - that."""
    best = linear(guide)
    model, test = worse(best), held_out(best)
    x = next(test.chunks(20))[0]["x"]
    approximation = kl_to_posterior(best, x)
    amortization = kl_to_posterior(model, x) - approximation
    log_p = model.log_likelihood(x).mean().item()
    assert amortization > 0.2 and (approximation > 0.1) == (guide == "mean_field")
    if not closed:
        monkeypatch.setattr(PPCA, "log_likelihood", lambda self, x: None)
    found = inference_gaps(model, test, 4_000).metrics

    def near(name: str, truth: float, below: float, above: float) -> None:
        error = 4 * found[name]["mc_se"]
        assert truth - below - error < found[name]["value"] < truth + above + error, name

    near("negative_log_p", -log_p, 1e-9, 1e-3)
    near("inference_gap", approximation + amortization, 1e-3, 1e-9)
    near("amortization_gap", amortization, 0.005, 1e-9)  # the optimiser can only fall short
    near("approximation_gap", approximation, 1e-3, 0.005)
    total = found["amortization_gap"]["value"] + found["approximation_gap"]["value"]
    assert found["inference_gap"]["value"] == pytest.approx(total)


def test_a_mean_field_guide_stays_in_its_family(float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its offsets of the covariance leave the matrix diagonal, and those of a full one do not."""
    monkeypatch.setattr(local_guide, "STEPS", 5)
    for guide in ("mean_field", "full"):
        model = worse(linear(guide)).requires_grad_(False)
        inputs = {"x": torch.rand(3, *SHAPE)}
        with fit_local_guide(model, inputs):
            tril = model.posterior(**inputs)["z"].scale_tril
        assert bool(tril.tril(-1).any()) == (guide == "full")
        assert (tril.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_monte_carlo_errors_are_what_they_say(float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They equal the spread of the gaps over repetitions with other noise."""
    monkeypatch.setattr(local_guide, "STEPS", 0)
    monkeypatch.setattr(PPCA, "log_likelihood", lambda self, x: None)
    model = worse(linear("mean_field"))
    test = held_out(model, 5)
    found = []
    for seed in range(40):
        monkeypatch.setattr(
            torch, "manual_seed", lambda _, seed=seed: torch.default_generator.manual_seed(seed)
        )
        found.append(inference_gaps(model, test, 300).metrics)
    for name in ("negative_elbo", "negative_log_p", "inference_gap"):
        spread = np.std([metrics[name]["value"] for metrics in found])
        assert np.mean([metrics[name]["mc_se"] for metrics in found]) == pytest.approx(spread, rel=0.35)


def steep(model: LatentVariableModel) -> LatentVariableModel:
    """A model in evaluation mode whose decoder depends on z strongly."""
    with torch.no_grad():
        model.decoder.layers[0].weight *= 4
    return model.eval()


def test_the_gaps_of_a_small_vae_are_positive_and_ordered() -> None:
    model = steep(VAE(SHAPE, z_dim=2, hidden=16))
    before, test = copy.deepcopy(model.state_dict()), held_out(model)
    found = inference_gaps(model, test, 1_000).metrics
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    values = {name: metric["value"] for name, metric in found.items()}
    assert values["negative_elbo"] > values["negative_elbo_optimized"] + 0.1
    assert values["negative_elbo_optimized"] > values["negative_log_p"] - 4 * found["negative_log_p"]["mc_se"]
    for name in ("amortization_gap", "approximation_gap"):
        assert values[name] > -4 * found[name]["mc_se"]
    with double_precision():
        truth = quadrature(copy.deepcopy(model).double(), next(test.chunks(20))[0]["x"])
    assert values["negative_log_p"] == pytest.approx(-truth.log_p.mean().item(), abs=0.05)


def test_the_weight_of_the_kl_term_does_not_change_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_guide, "STEPS", 5)
    models = [VAE(SHAPE, z_dim=2, hidden=8, beta=beta) for beta in (1.0, 4.0)]
    models[1].load_state_dict(models[0].state_dict())
    test = held_out(models[0], 4)
    first, second = (inference_gaps(model, test, 100).metrics for model in models)
    assert first == second


@pytest.mark.parametrize("cls", [VAE, GMVAE, TwoLayerVAE])
def test_offsets_of_zero_are_the_guide_itself(cls: type[LatentVariableModel], float64: None) -> None:
    """And the ELBO is the hand-derived bound at the same samples."""
    model = cls(SHAPE).eval()
    inputs, local = example_inputs(model, 3), LocalGuide()
    found = []
    for guide in (None, local):
        torch.manual_seed(1)
        with torch.no_grad():
            found.append(sample_particles(model, inputs, 4, guide))
    assert_close(found[0].elbo, found[1].elbo)
    torch.manual_seed(1)
    with torch.no_grad(), local, pyro.plate("particles", 4, dim=-2):
        latents = sample_latents(model, **inputs)
        bound = model.bound(**inputs, latents=latents, kl="sampled")
    assert_close(-bound.negative_elbo, found[0].elbo)
    assert found[0].log_weights is found[0].elbo


def test_a_label_is_enumerated(float64: None) -> None:
    """The ELBO is the hand-derived one, and the weights' mean is p(x), both summed over the label."""
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=8).eval()
    with torch.no_grad():
        model.decoder.layers[0].weight[:, 2:] *= 10
    x = example_inputs(model, 4)["x"]
    torch.manual_seed(1)
    with torch.no_grad():
        elbo = sample_particles(model, {"x": x}, 1).elbo
        torch.manual_seed(1)
        bound = model.bound(x, sample_latents(model, x=x), kl="sampled")
        assert_close(elbo[0], -bound.negative_elbo)
        log_w = sample_particles(model, {"x": x}, 20_000).log_weights
    truth = quadrature(model, x).log_p
    error = log_w.softmax(0).mul(len(log_w)).std(0) / len(log_w) ** 0.5
    assert ((log_w.logsumexp(0) - math.log(len(log_w)) - truth).abs() < 4 * error).all()
    assert gaps_module._labels(model, held_out(model, 2)) == 3


def test_annealing_needs_continuous_latents() -> None:
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=8)
    with pytest.raises(UserError, match=r"needs continuous latents\. Leave out annealing\.$"):
        inference_gaps(model, held_out(model, 2), 100, annealing=3)


def test_a_bound_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_guide, "STEPS", 1)
    model = VAE(SHAPE, z_dim=2, hidden=8)
    with torch.no_grad():
        model.encoder.output_bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite.*\. Train the model again\."):
        inference_gaps(model, held_out(model, 3), 100)
