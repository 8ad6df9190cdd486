"""Derivation 22: the information that a decoder with the wrong shape of noise must leave to z."""

import math

import pytest
import torch
from torch.testing import assert_close

from inference.data.points import GAUSSIANS, load
from ppl_models import PPCA, densities

CORRELATED = torch.tensor([[13.0, 12.0], [12.0, 13.0]], dtype=torch.float64)


def test_the_data_have_these_eigenvalues() -> None:
    for name in GAUSSIANS:
        values = torch.linalg.eigvalsh(load(name).x_train.double().T.cov())
        assert_close(values, torch.tensor([1.0, 25.0], dtype=torch.float64), rtol=0.05, atol=0)
    covariance = load("gauss-full-1").x_train.double().T.cov()
    assert_close(covariance.abs(), CORRELATED, rtol=0.05, atol=0)


def test_no_admissible_noise_has_a_larger_determinant(float64: None) -> None:
    """Diagonal matrices T with Sigma - T positive semidefinite, all of a fine grid."""
    side = torch.linspace(0, 13, 1_301)
    first, second = side[:, None], side[None]
    admissible = (13 - first) * (13 - second) >= 144 - 1e-9
    largest = torch.where(admissible, first * second, 0.0).max()
    assert_close(largest, torch.tensor(1.0))
    scalar = torch.where(torch.linalg.eigvalsh(CORRELATED)[0] >= side - 1e-9, side**2, 0.0).max()
    assert_close(scalar, torch.tensor(1.0))


def test_the_linear_decoder_attains_the_bound(float64: None) -> None:
    x = torch.randn(1_000, 2)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov(correction=0))).T
    x = x @ torch.linalg.cholesky(CORRELATED).T  # whose covariance is exactly Sigma
    model = PPCA((1, 1, 2), z_dim=1)
    model.solve(x.unflatten(1, (1, 1, 2)))
    loc, covariance = model.exact_posterior(x)
    kl = densities.kl_multivariate_normal_standard(loc, torch.linalg.cholesky(covariance)).mean()
    assert_close(model.log_scale.exp(), torch.tensor(1.0))
    assert_close(kl, torch.tensor(0.5 * math.log(25)))


def test_a_smaller_kl_term_costs_little_near_the_optimum(float64: None) -> None:
    """The covariance I + kappa v v^T in place of Sigma, whose long axis has the variance 25."""
    v = torch.full((2, 1), math.sqrt(0.5))
    exact = torch.linalg.cholesky(CORRELATED)
    zero = torch.zeros(2)
    wrong = torch.linalg.cholesky(torch.eye(2) + 23 * v @ v.T)
    price = densities.kl_multivariate_normals(zero, exact, zero, wrong).item()
    assert price == pytest.approx(0.5 * (math.log(24 / 25) + 25 / 24 - 1)) == pytest.approx(4.2e-4, rel=0.02)
    assert 0.5 * math.log(24) == pytest.approx(1.589, abs=1e-3)
