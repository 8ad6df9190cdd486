"""Page 28: the gap of a guide with an auxiliary latent, its KL terms, and its classification term."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.testing import assert_close

from ppl_models import ADGM
from ppl_models.nets.heads import loc_scale
from ppl_models.programs import sample_latents

CLASSES = 2


class Head(nn.Module):
    """A normal whose mean is a function of the inputs and whose standard deviation is fixed."""

    def __init__(self, mean: Callable[..., Tensor], scale: float):
        super().__init__()
        self.mean, self.raw = mean, math.log(math.expm1(scale**2))  # the inverse of `loc_scale`

    def forward(self, *inputs: Tensor) -> Tensor:
        mean = self.mean(*inputs)
        return torch.cat([mean, torch.full_like(mean, self.raw)], -1)


@pytest.fixture
def model(float64: None) -> ADGM:
    """One a and one z, on which p(x | y, z) and q(y | a, x) depend strongly; z follows a."""
    torch.manual_seed(0)
    model = ADGM((1, 1, 2), CLASSES, z_dim=1, a_dim=1, hidden=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.encoder = Head(lambda x, a, y: 0.8 * a + 0.5 * (y[..., :1] + x[..., :1]), 0.6)
    model.auxiliary_decoder = Head(lambda z, y, x: 0.7 * (z - 0.5 * y[..., :1]) + 0 * x[..., :1], 0.8)
    return model


X = [[1.0, 0.0]]


class Quadrature(NamedTuple):
    """Probabilities of the guide's (a, y, z) on a grid, and the log densities there, `(a, y, z)` each."""

    weights: Tensor
    log_q_a: Tensor
    log_q_yz_given_a: Tensor
    log_q_yz: Tensor
    log_p_a: Tensor
    log_p_yz: Tensor  # of y and z, given x
    log_p_x: Tensor


def noise(points: int = 61) -> tuple[Tensor, Tensor]:
    """Points of a standard normal variable, and their probabilities."""
    e = torch.linspace(-6, 6, points)
    return e, Normal(0.0, 1.0).log_prob(e).softmax(0)


@torch.no_grad()
def quadrature(model: ADGM) -> Quadrature:
    e, mass = noise()
    n, x = len(e), torch.tensor(X).expand(len(e), -1)
    loc, scale = loc_scale(model.auxiliary_encoder(x))
    a = loc + scale * e[:, None]
    log_q_y = model.classifier(x, a).log_softmax(-1)  # (a, y)
    labels = torch.eye(CLASSES)

    def of_z(z: Tensor, y: Tensor) -> Tensor:
        """log p(x, z | y), with a prior of z."""
        log_x = Bernoulli(logits=model.decoder(z, y.expand(*z.shape[:-1], -1))).log_prob(torch.tensor(X[0]))
        return log_x.sum(-1) + Normal(0.0, 1.0).log_prob(z[..., 0])

    by_label: list[list[Tensor]] = []
    for k, y in enumerate(labels):
        loc, scale = loc_scale(model.encoder(x, a, y.expand(n, -1)))
        z = loc + scale * e  # (a, z); each: log q(y, z | a') at the z of a, (a', a, z)
        each = Normal(loc[:, :, None], scale[:, :, None]).log_prob(z) + log_q_y[:, k, None, None]
        p_a = Normal(*loc_scale(model.auxiliary_decoder(z[..., None], y.expand(n, n, -1), x[:, None])))
        by_label.append(
            [
                mass[:, None] * log_q_y[:, k, None].exp() * mass,
                each.diagonal(dim1=0, dim2=1).T,
                (each + mass.log()[:, None, None]).logsumexp(0),
                p_a.log_prob(a[:, None])[..., 0],
                of_z(z[..., None], y) - math.log(CLASSES),
            ]
        )
    stacked = [torch.stack(part, 1) for part in zip(*by_label, strict=True)]
    weights, given_a, log_q_yz, log_p_a, joint = stacked
    log_q_a = Normal(*loc_scale(model.auxiliary_encoder(x))).log_prob(a)[:, :, None].expand_as(weights)
    wide = 2 * e[:, None]
    total = [(of_z(wide, y) - Normal(0.0, 1.0).log_prob(wide[:, 0])) for y in labels]  # log p(x | y, z)
    prior = Normal(0.0, 1.0).log_prob(wide[:, 0]).softmax(0)
    log_p_x = torch.stack([(log_x.exp() * prior).sum() for log_x in total]).mean().log()
    return Quadrature(weights, log_q_a, given_a, log_q_yz, log_p_a, joint - log_p_x, log_p_x)


def terms(model: ADGM, n: int = 60_000) -> dict[str, tuple[float, float]]:
    """Means of the bound's terms over samples, and their standard errors."""
    x = torch.tensor(X).view(1, 1, 1, 2).expand(n, -1, -1, -1)
    with torch.no_grad():
        bound = model.bound(x, sample_latents(model, x=x))
    found = bound.terms | {"negative_elbo": bound.negative_elbo}
    return {name: (value.mean().item(), value.std().item() / n**0.5) for name, value in found.items()}


def test_the_gap_is_that_of_the_mixture_and_the_price(model: ADGM) -> None:
    """The mean of the bound over samples is -log p(x) plus two KL divergences, which a grid computes."""
    found = quadrature(model)
    assert_close(found.weights.sum(), torch.ones(()))
    posterior_a = found.log_q_a + found.log_q_yz_given_a - found.log_q_yz
    mixture = (found.weights * (found.log_q_yz - found.log_p_yz)).sum().item()
    price = (found.weights * (posterior_a - found.log_p_a)).sum().item()
    value, error = terms(model)["negative_elbo"]
    assert abs(value + found.log_p_x.item() - mixture - price) < 4 * error < 0.02
    assert mixture > 0.05 and price > 0.05


def test_the_term_of_a_is_the_price_minus_a_mutual_information(model: ADGM) -> None:
    found = quadrature(model)
    posterior_a = found.log_q_a + found.log_q_yz_given_a - found.log_q_yz
    price = (found.weights * (posterior_a - found.log_p_a)).sum().item()
    information = (found.weights * (found.log_q_yz_given_a - found.log_q_yz)).sum().item()
    value, error = terms(model)["kl_a"]
    assert abs(value - (price - information)) < 4 * error < 0.02
    assert value < -0.1 and information > 0


def test_the_classification_term_bounds_the_cross_entropy(model: ADGM) -> None:
    n = 5_000
    x = torch.tensor(X).view(1, 1, 1, 2).expand(n, -1, -1, -1)
    inputs = {"x": x[:1], "x_labelled": x, "y_labelled": torch.zeros(n, dtype=torch.long)}
    with torch.no_grad():
        latents = sample_latents(model, **inputs)
        penalty = model.bound(**inputs, latents=latents).penalties["classification"]
        q = model.classifier(x.flatten(1), latents["a_labelled"]).softmax(-1).mean(0)
    assert penalty > -q[0].log() + 0.005


def two_modes() -> tuple[float, float, float]:
    """The gaps of the page's example: of the best normal guide, of the guide with a, and its price."""
    z, step = torch.linspace(-6, 6, 1_201), 0.01
    posterior = (Normal(-1.5, 0.5).log_prob(z).exp() + Normal(1.5, 0.5).log_prob(z).exp()).log() - math.log(2)
    loc, scale = torch.meshgrid(torch.linspace(-2, 2, 81), torch.linspace(0.3, 2, 86), indexing="ij")
    q = Normal(loc[..., None], scale[..., None]).log_prob(z)
    normal = (q.exp() * (q - posterior)).sum(-1).min().item() * step
    a, mass = noise(1_201)
    log_q = Normal(1.5 * torch.tanh(20 * a)[:, None], 0.5).log_prob(z)  # of z given a
    mixture = (mass[:, None] * log_q.exp()).sum(0)
    gap = (mixture * (mixture.log() - posterior)).sum().item() * step
    joint = mass[:, None] * log_q.exp() * step
    share = joint / joint.sum(0)  # q(a | z), probabilities of the grid's points
    mean = (share * a[:, None]).sum(0)
    spread = (share * (a[:, None] - mean) ** 2).sum(0).sqrt()
    log_p = Normal(mean, spread).log_prob(a[:, None]) + math.log(12 / 1_200)
    price = (joint * (share.clamp(min=1e-300).log() - log_p)).sum().item()
    return normal, gap + price, price


def test_a_mixture_covers_two_modes(float64: None) -> None:
    """The values of the page. The best p(a | z) has the mean and the variance of q(a | z)."""
    normal, with_a, price = two_modes()
    assert (normal, with_a, price) == pytest.approx((0.69, 0.22, 0.22), abs=0.005)
