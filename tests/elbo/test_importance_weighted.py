"""The importance-weighted bound: it equals Pyro's, one particle gives the ELBO, gradients are unbiased."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import Tensor, nn

from inference import svi
from inference.data.examples import example_inputs
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.elbo.importance_weighted import ImportanceWeighted
from inference.errors import UserError
from ppl_models import MODELS


def small(name: str = "vae", **options: float) -> nn.Module:
    return MODELS[name]((1, 4, 4), 3, z_dim=2, hidden=8, **options)


def test_the_value_is_pyro_s_own(float64: None) -> None:
    """RenyiELBO at alpha = 0 is the same bound if all sites are in one plate."""
    model = small()
    x = example_inputs(model, 6)["x"]
    pyro.set_rng_seed(1)
    theirs = RenyiELBO(alpha=0, num_particles=7, vectorize_particles=True, max_plate_nesting=1)
    value = theirs.loss(model.model, model.guide, x)
    for doubly in (False, True):
        pyro.set_rng_seed(1)
        ours = ImportanceWeighted(7, doubly)
        torch.testing.assert_close(ours.loss_and_grads(model.model, model.guide, x), value)
        pyro.set_rng_seed(1)
        torch.testing.assert_close(ours.differentiable_loss(model.model, model.guide, x).item(), value)
        pyro.set_rng_seed(1)
        torch.testing.assert_close(ours.loss(model.model, model.guide, x), value)


def test_samples_have_the_weights_of_the_bound(float64: None) -> None:
    """Their mean is the bound, and without the likelihood they are p(z) / q(z | x)."""
    model = small()
    x = example_inputs(model, 6)["x"]
    elbo = ImportanceWeighted(7)
    pyro.set_rng_seed(1)
    loss = elbo.loss(model.model, model.guide, x)
    pyro.set_rng_seed(1)
    z, log_likelihood, log_weights = elbo.sample(model.model, model.guide, x)
    assert z["z"].shape == (7, 6, 2)
    torch.testing.assert_close(-(log_weights.logsumexp(0) - math.log(7)).sum().item(), loss)
    prior = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
    ratio = prior.log_prob(z["z"]) - model.posterior(x)["z"].log_prob(z["z"])
    torch.testing.assert_close(log_weights - log_likelihood, ratio)


@pytest.mark.parametrize("estimator", ["iwae", "iwae_dreg"])
def test_one_particle_is_the_elbo(estimator: str, float64: None) -> None:
    model = small("gmvae", components=3)
    x = example_inputs(model, 6)["x"]
    pyro.set_rng_seed(1)
    ours = Loss(model, estimator, 1)(x=x)
    pyro.set_rng_seed(1)
    elbo = Trace_ELBO(max_plate_nesting=1).differentiable_loss(model.model, model.guide, x) / 6
    torch.testing.assert_close(ours, elbo)
    if estimator == "iwae":
        for a, b in zip(
            *(torch.autograd.grad(loss, list(model.parameters())) for loss in (ours, elbo)), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_the_bound_does_not_fall_with_more_particles() -> None:
    model = small()
    with torch.no_grad():
        model.decoder.layers[0].weight *= 10  # z matters, and the guide ignores it
    x = example_inputs(model, 2_000)["x"]
    with torch.no_grad():
        bounds = [Loss(model, "iwae", m)(x=x).item() for m in (1, 10, 100)]
    assert bounds[0] > bounds[1] + 0.05 > bounds[2] + 0.05


def test_a_common_scale_stands_outside_of_the_logarithm(float64: None) -> None:
    model = small()
    x = example_inputs(model, 6)["x"]

    def scaled(program: Callable, scale: float) -> Callable:
        return poutine.scale(program, scale=scale)

    for doubly in (False, True):
        elbo = ImportanceWeighted(5, doubly)
        values = []
        for scale in (1.0, 0.25):
            pyro.set_rng_seed(1)
            values.append(elbo.differentiable_loss(scaled(model.model, scale), scaled(model.guide, scale), x))
        torch.testing.assert_close(values[1], 0.25 * values[0])


def test_weights_are_refused() -> None:
    model = small(beta=2.0)
    x = example_inputs(model, 6)["x"]
    with pytest.raises(ValueError, match=r"^an importance-weighted bound does not support KL weights\. Set"):
        ImportanceWeighted(5).differentiable_loss(model.model, model.guide, x)
    plain = small()
    halves = [(poutine.scale(plain.model, 0.5), plain.guide), (plain.model, poutine.scale(plain.guide, 0.5))]
    for pair in halves:  # a scale on one side only
        for elbo in (ImportanceWeighted(5), ImportanceWeighted(5, doubly=True)):
            for loss in (elbo.differentiable_loss, elbo.loss):
                with pytest.raises(ValueError, match="does not support KL weights"):
                    loss(*pair, x)
    with pytest.raises(ValueError, match=r"iwae does not support KL weights\. Set beta to 1, not 2\."):
        Loss(model, "iwae")
    with pytest.raises(ValueError, match="trace takes one sample per image"):
        Loss(model, "trace", 5)
    lenient = MODELS["pixel_vae"]((1, 8, 8), free_bits=0.5)
    with pytest.raises(ValueError, match=r"iwae does not support penalties\. Set free bits to 0, not 0\.5\."):
        Loss(lenient, "iwae")


@pytest.mark.parametrize("doubly", [False, True])
def test_a_penalty_is_refused_by_its_name(doubly: bool) -> None:
    """It would stand inside of the logarithm, as a factor of the weights."""
    model = MODELS["pixel_vae"]((1, 8, 8), free_bits=50.0)
    x = example_inputs(model, 2)["x"]
    with pytest.raises(ValueError, match=r"does not support penalties: free_bits\. Remove them"):
        ImportanceWeighted(3, doubly).differentiable_loss(model.model, model.guide, x)


def test_only_importance_weighted_estimators_take_several_particles() -> None:
    assert {name: estimator.particles for name, estimator in ESTIMATORS.items()} == {
        **{"trace": 1, "mean_field": 1, "enum": 1},
        **{"iwae": 50, "iwae_dreg": 50},
    }
    weighted = {name for name, estimator in ESTIMATORS.items() if estimator.importance_weighted}
    assert weighted == {"iwae", "iwae_dreg"}


REFUSED = {
    "an enumerated label": (["--model", "ssvae", "--elbo", "iwae"], "unknown --elbo for ssvae 'iwae'"),
    "a code at a point": (["--model", "ae", "--elbo", "iwae_dreg"], "unknown --elbo for ae 'iwae_dreg'"),
    "a weight": (["--model", "vae", "--elbo", "iwae", "--beta", "4"], "Set beta to 1, not 4"),
    "particles of another bound": (["--model", "vae", "--particles", "5"], "supports one sample per image"),
    "particles of none": (
        ["--model", "ssvae", "--particles", "5"],
        "--particles does not apply to ssvae",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_apply_is_refused_by_name(case: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, complaint = REFUSED[case]
    with pytest.raises(UserError) as caught:
        svi.main([*arguments, "--data", "digits"])
    assert complaint in str(caught.value) and list(tmp_path.iterdir()) == []


class OneLevel(nn.Module):
    """p(z) = N(0, 1), p(x | z) = N(a z + b, 1); q(z | x) = N(c x, s^2), far from the posterior."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in {"a": 1.3, "b": 0.2, "c": 0.9, "log_s": -0.3}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.a * z + self.b, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.c * x, self.log_s.exp()))


class TwoLevels(nn.Module):
    """p(z1) p(z2 | z1) p(x | z2), and a guide that shares `a`: its z2 starts from the prior's mean."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in {"a": 0.7, "b": 1.2, "c": 0.5, "d": 0.4, "e": -0.3, "log_s": -0.4}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(()), 1.0))
            z2 = pyro.sample("z2", dist.Normal(self.a * z1, 1.0))
            pyro.sample("x", dist.Normal(self.b * z2, 0.8), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.c * x, 0.9))
            pyro.sample("z2", dist.Normal(self.a * z1 + self.d * x + self.e * z1, self.log_s.exp()))


@pytest.mark.parametrize("pair", [OneLevel, TwoLevels])
def test_the_doubly_reparameterised_gradient_has_no_bias(pair: type[nn.Module], float64: None) -> None:
    """Both gradients have the same mean, for every parameter of the model, the guide or both."""
    program, x = pair(), torch.full((2_000,), 0.8)  # many copies of one datum: many samples at once
    means, errors = [], []
    for doubly in (False, True):
        elbo, gradients = ImportanceWeighted(3, doubly), []
        for _ in range(60):
            loss = elbo.differentiable_loss(program.model, program.guide, x) / len(x)
            gradients.append(torch.stack(torch.autograd.grad(loss, list(program.parameters()))))
        stacked = torch.stack(gradients)
        means.append(stacked.mean(0))
        errors.append(stacked.std(0) / math.sqrt(60))
    z = (means[0] - means[1]) / (errors[0] ** 2 + errors[1] ** 2).sqrt()
    assert z.abs().max() < 4, dict(zip(dict(program.named_parameters()), z.tolist(), strict=True))
    assert (errors[0] < 0.01).all()  # small enough to detect a bias of 0.04


def test_the_doubly_reparameterised_gradient_is_less_noisy_in_the_guide(float64: None) -> None:
    program, x = OneLevel(), torch.full((200,), 0.8)
    noise = []
    for doubly in (False, True):
        elbo = ImportanceWeighted(20, doubly)
        draws = [
            torch.autograd.grad(elbo.differentiable_loss(program.model, program.guide, x), program.log_s)[0]
            for _ in range(100)
        ]
        noise.append(torch.stack(draws).std())
    assert noise[1] < 0.6 * noise[0]
