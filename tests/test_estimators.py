"""The shorter ways of `Trace` and `MeanField` are Pyro's own sum: scaled, masked, without closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from inference.estimators import MeanField, Trace

X = torch.tensor([[0.3], [-1.2], [2.0]])


def normal_prior() -> dist.Distribution:
    return dist.Normal(torch.zeros(2), 1.0).to_event(1)


def mixture_prior() -> dist.Distribution:  # its divergence from a normal has no closed form
    components = dist.Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.7).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), components)


@pytest.mark.parametrize("prior", [normal_prior, mixture_prior])
@pytest.mark.parametrize("handler", ["none", "scale", "mask", "part"])
@pytest.mark.parametrize("kind", ["Trace", "MeanField"])
def test_the_shorter_way_is_pyro_s_own_sum(prior, handler: str, kind: str) -> None:
    w = torch.randn(2, requires_grad=True)
    weighted = {
        "none": lambda: poutine.scale(scale=1.0),
        "scale": lambda: poutine.scale(scale=2.5),
        "mask": lambda: poutine.mask(mask=False),
        "part": lambda: poutine.mask(mask=torch.tensor([True, False, True])),
    }[handler]

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            with weighted():
                z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z @ w[:, None], 1.0).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)), weighted():
            pyro.sample("z", dist.Normal(x * w, 0.5 + w**2).to_event(1))

    found = []
    theirs, mine = {"Trace": (Trace_ELBO, Trace), "MeanField": (TraceMeanField_ELBO, MeanField)}[kind]
    for cls, validated in (theirs, True), (mine, True), (mine, False):
        pyro.set_rng_seed(3)
        with pyro.validation_enabled(validated):
            loss = cls(max_plate_nesting=1).differentiable_loss(model, guide, X)
        found.append((loss, torch.autograd.grad(loss, w)[0]))
    for loss, gradient in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(gradient, found[0][1])


@pytest.mark.parametrize(("theirs", "mine"), [(Trace_ELBO, Trace), (TraceMeanField_ELBO, MeanField)])
def test_pyro_s_own_way_is_gone_with_validation_alone(
    theirs: type, mine: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs, "differentiable_loss", lambda *_, **__: "Pyro's own")

    def program(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal_prior())

    for validated in (True, False):
        with pyro.validation_enabled(validated):
            loss = mine(max_plate_nesting=1).differentiable_loss(program, program, X)
        assert (loss == "Pyro's own") if validated else (loss == 0)


def test_a_latent_that_is_not_reparameterised_takes_pyro_s_own_way() -> None:
    """Its gradient needs the score function, which the shorter sum does not have."""
    w = torch.tensor(0.3, requires_grad=True)

    def model() -> None:
        with pyro.plate("data", 20_000):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.ones(20_000))

    def guide() -> None:
        with pyro.plate("data", 20_000):
            pyro.sample("z", dist.Bernoulli(logits=w))

    with pyro.validation_enabled(False):
        loss = Trace(max_plate_nesting=1).differentiable_loss(model, guide)
    gradient = torch.autograd.grad(loss, w)[0] / 20_000
    # of q (log q + log 2) + (1 - q)(log(1 - q) + log 2) + (1 - q) / 2 by w: q (1 - q)(w - 1 / 2)
    q = torch.sigmoid(w.detach())
    torch.testing.assert_close(gradient, q * (1 - q) * (0.3 - 0.5), rtol=0, atol=0.015)
