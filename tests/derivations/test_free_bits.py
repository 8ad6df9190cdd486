"""Derivation 17: what free bits minimise, on a linear model whose trade-off is known, and in `pixel_vae`."""

import math

import pytest
import torch
from torch.testing import assert_close

from inference.data.examples import example_inputs
from ppl_models import PixelVAE, densities
from ppl_models.programs import sample_latents

VARIANCE, NOISE = 4.0, 1.0  # of x, and s^2 of the decoder


def least_reconstruction(kl: float) -> float:
    """R*(K), the smallest reconstruction term at a KL term of K nats."""
    return 0.5 * math.log(2 * math.pi * NOISE) + VARIANCE * math.exp(-2 * kl) / (2 * NOISE)


def terms(a: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over x of both terms for q(z | x) = N(a x, t^2), with the best decoder N(w z, s^2)."""
    w = a * VARIANCE / (a**2 * VARIANCE + t**2)
    error = (1 - w * a) ** 2 * VARIANCE + w**2 * t**2
    reconstruction = 0.5 * math.log(2 * math.pi * NOISE) + error / (2 * NOISE)
    loc = a * math.sqrt(VARIANCE)  # its square is the mean square of the guide's means
    return reconstruction, densities.kl_normal_standard(loc[..., None], t[..., None])


def test_no_guide_beats_the_trade_off(float64: None) -> None:
    reconstruction, kl = terms(2 * torch.rand(100_000), 1.5 * torch.rand(100_000) + 1e-3)
    least = torch.tensor([least_reconstruction(k) for k in kl.tolist()])
    assert (reconstruction >= least - 1e-12).all()
    t = torch.linspace(0.05, 0.99, 50)  # on the curve: the guide's codes have the prior's variance
    reconstruction, kl = terms(((1 - t**2) / VARIANCE).sqrt(), t)
    assert_close(reconstruction, torch.tensor([least_reconstruction(k) for k in kl.tolist()]))


@pytest.mark.parametrize("free", [0.0, 0.3, math.log(2), 1.5])
def test_the_minimum_has_the_larger_of_both_kl_terms(free: float, float64: None) -> None:
    best = 0.5 * math.log(VARIANCE / NOISE)  # without free bits: log 2
    t = torch.linspace(0.01, 1.2, 1_500)
    a = torch.linspace(0, 0.8, 1_501)
    reconstruction, kl = terms(a[:, None], t)
    objective = reconstruction + torch.relu(free - kl) + kl
    at = objective.argmin()
    assert kl.flatten()[at].item() == pytest.approx(max(best, free), abs=8e-3)
    expected = least_reconstruction(max(best, free)) + max(best, free)
    assert 0 <= objective.min().item() - expected < 2e-3


def test_at_the_minimum_free_bits_are_a_smaller_kl_weight(float64: None) -> None:
    """Of beta = VARIANCE / s^2 exp(-2 F), for which the KL term of the best linear model is F."""
    free = 1.5
    beta = VARIANCE / NOISE * math.exp(-2 * free)
    assert 0 < beta < 1
    kl = torch.linspace(0, 4, 400_001)
    weighted = VARIANCE * (-2 * kl).exp() / (2 * NOISE) + beta * kl
    assert kl[weighted.argmin()].item() == pytest.approx(free, abs=1e-4)


@pytest.mark.parametrize(("free", "active"), [(50.0, False), (1e-3, True)])
def test_below_the_free_bits_the_kl_term_has_no_gradient(free: float, active: bool, float64: None) -> None:
    model = PixelVAE((1, 8, 8), free_bits=free)
    x = example_inputs(model, 5)["x"]
    bound = model.bound(x, sample_latents(model, x=x))
    expected = bound.negative_elbo.mean() if active else bound.terms["reconstruction"].mean()
    parameters = list(model.parameters())
    found, wanted = (
        torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        for value in (bound.objective, expected)
    )
    for g, h in zip(found, wanted, strict=True):
        assert_close(g, h, rtol=0, atol=1e-12)


def test_a_floor_per_image_costs_more_than_a_floor_of_the_mean(float64: None) -> None:
    kl = torch.rand(1_000) * 4
    assert kl.clamp(min=2).mean() > kl.mean().clamp(min=2) + 0.1
