"""Derivation 18: the maximum of the likelihood over W and s, from the eigenvalues of the covariance."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ppl_models import PPCA, densities

SHAPE, D, Z = (1, 2, 4), 8, 3


@pytest.fixture
def data(float64: None) -> Tensor:
    return (torch.randn(300, D) @ torch.randn(D, D) + torch.randn(D)).unflatten(1, SHAPE)


def eigen(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the data's covariance, the largest first, and their eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(x.flatten(1).T.cov(correction=0))
    return values.flip(0), vectors.flip(1)


def test_the_sum_of_quadratic_forms_is_at_most_that_of_the_eigenvalues(data: Tensor) -> None:
    values, vectors = eigen(data)
    covariance = data.flatten(1).T.cov(correction=0)
    weights = torch.rand(D).sort().values  # 1 / gamma, in ascending order
    for _ in range(200):
        u = torch.linalg.qr(torch.randn(D, D))[0]
        forms = (u * (covariance @ u)).sum(0)
        assert (forms.cumsum(0) <= values.cumsum(0) + 1e-9).all()
        assert (weights * forms).sum() >= (weights * values).sum() - 1e-9
    assert_close((vectors * (covariance @ vectors)).sum(0), values)


def test_no_parameters_have_a_greater_likelihood(data: Tensor) -> None:
    model, other = PPCA(SHAPE, z_dim=Z), PPCA(SHAPE, z_dim=Z)
    model.solve(data)
    best = model.log_likelihood(data).mean()
    values, vectors = eigen(data)
    v = values[Z:].mean()
    formula = -0.5 * (D * math.log(2 * math.pi) + values[:Z].log().sum() + (D - Z) * v.log() + D)
    assert_close(best, formula)
    with torch.no_grad():
        other.decoder.bias.copy_(data.flatten(1).mean(0))
        for variance in torch.linspace(0.2, 4, 12) * v:  # the best W for each variance, page 18's second step
            kept = (values[:Z] - variance).clamp(min=0).sqrt()
            other.decoder.weight.copy_(vectors[:, :Z] * kept)
            other.log_scale.copy_(0.5 * variance.log())
            at_best_w = other.log_likelihood(data).mean()
            assert at_best_w <= best + 1e-12
            for _ in range(5):
                other.decoder.weight.copy_(vectors[:, :Z] * kept + 0.3 * torch.randn(D, Z))
                assert other.log_likelihood(data).mean() < at_best_w


def test_a_rotation_of_the_latents_changes_nothing_but_the_mean_field_bound(data: Tensor) -> None:
    model = PPCA(SHAPE, z_dim=Z, guide="mean_field")
    model.solve(data)
    best = model.log_likelihood(data)
    loc, covariance = model.exact_posterior(data)
    assert_close(covariance, covariance.diagonal().diag())  # so that the mean-field guide is the posterior
    with torch.no_grad():
        rotation = torch.linalg.qr(torch.randn(Z, Z))[0]
        model.decoder.weight.copy_(model.decoder.weight @ rotation)
    assert_close(model.log_likelihood(data), best)
    model.solve_guide()
    _, covariance = model.exact_posterior(data)
    gap = densities.kl_multivariate_normals(
        loc * 0, model.scale_tril, loc * 0, torch.linalg.cholesky(covariance)
    )
    assert (gap > 0.01).all()


def test_a_direction_carries_half_the_logarithm_of_signal_over_noise(data: Tensor) -> None:
    """The mean KL term of direction i is 1/2 log(lambda_i / s^2)."""
    model = PPCA(SHAPE, z_dim=Z)
    model.solve(data)
    loc, covariance = model.exact_posterior(data)
    kl = densities.kl_multivariate_normal_standard(loc, torch.linalg.cholesky(covariance)).mean()
    values, _ = eigen(data)
    assert_close(kl, 0.5 * (values[:Z] / values[Z:].mean()).log().sum())
