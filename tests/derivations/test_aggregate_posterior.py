"""Derivation 20: the mean KL term is an information and the KL divergence of the aggregate from the prior."""

import math

import torch
from torch.testing import assert_close

from ppl_models import PPCA, densities

GRID = 20_001


def test_the_identity_by_quadrature(float64: None) -> None:
    z = torch.linspace(-12, 12, GRID)[:, None]
    step = 24 / (GRID - 1)
    loc, scale = 2 * torch.randn(5, 1), torch.rand(5, 1) + 0.2
    log_q = densities.normal(z[:, None], loc, scale)  # (grid, 5)
    log_aggregate = densities.mixture_of_normals(z, loc, scale)
    assert_close(log_aggregate, log_q.logsumexp(1) - math.log(5))
    left = densities.kl_normal_standard(loc, scale).mean()
    information = (log_q.exp() * (log_q - log_aggregate[:, None])).sum() * step / 5
    marginal = (log_aggregate.exp() * (log_aggregate - densities.normal(z, 0.0, 1.0))).sum() * step
    assert_close(left, information + marginal, rtol=1e-6, atol=0)
    assert 0 < information < math.log(5) and marginal > 0


def test_information_is_at_most_the_logarithm_of_the_number_of_images(float64: None) -> None:
    """And reaches it where the guides of all images are apart."""
    for spread, full in ((0.1, False), (1e4, True)):
        loc, scale = spread * torch.arange(50.0)[:, None], torch.ones(50, 1)
        z = loc + scale * torch.randn(2_000, 50, 1)
        information = densities.normal(z, loc, scale) - densities.mixture_of_normals(z, loc, scale)
        assert information.mean() < math.log(50) + 1e-9
        assert (abs(information.mean() - math.log(50)) < 1e-6) == full


def test_at_the_maximum_likelihood_the_aggregate_has_the_prior_s_moments(float64: None) -> None:
    """Whatever the data: sigmoids of a random walk, far from normal."""
    x = (3 * torch.randn(400, 8).cumsum(1)).sigmoid().unflatten(1, (1, 2, 4))
    model = PPCA((1, 2, 4), z_dim=3)
    model.solve(x)
    loc, covariance = model.exact_posterior(x)
    assert_close(loc.mean(0), torch.zeros(3), rtol=0, atol=1e-9)
    assert_close(loc.T.cov(correction=0) + covariance, torch.eye(3))
