"""Derivation 19: the variance of gradient estimators of E z^2 in one variable, and a sum over labels."""

import pytest
import torch
from torch.testing import assert_close

MU, SIGMA, N = 1.0, 1.0, 2_000_000


def moments(estimate: torch.Tensor) -> tuple[float, float, float]:
    """Mean, its standard error, and variance."""
    return estimate.mean().item(), estimate.std().item() / len(estimate) ** 0.5, estimate.var().item()


@pytest.mark.parametrize(("mu", "sigma"), [(1.0, 1.0), (1.0, 0.2), (-0.5, 2.0)])
def test_variances_of_the_page(mu: float, sigma: float, float64: None) -> None:
    """Of the estimates of d/dmu E z^2 = 2 mu."""
    e = torch.randn(400_000)
    z, score = mu + sigma * e, e / sigma
    baseline = mu**2 + 3 * sigma**2
    estimates = {
        "score": (z**2 * score, mu**4 / sigma**2 + 14 * mu**2 + 15 * sigma**2),
        "with the best baseline": ((z**2 - baseline) * score, 8 * mu**2 + 6 * sigma**2),
        "reparameterised": (2 * z, 4 * sigma**2),
    }
    for estimate, variance in estimates.values():
        mean, error, found = moments(estimate)
        assert abs(mean - 2 * mu) < 4 * error
        assert found == pytest.approx(variance, rel=0.05)


def test_more_dimensions_disturb_the_score_alone(float64: None) -> None:
    """f is a sum of d squares: the score's variance grows as d^2, that of the path does not."""
    variances = []
    for d in (1, 10, 20):
        z = 1 + torch.randn(100_000, d)
        variances.append(((z**2).sum(1) * (z[:, 0] - 1)).var().item())
    # E [R] = 2 (d - 1) and E [R^2] = 6 (d - 1) + 4 (d - 1)^2 of the other squares R; E [z^2 e^2] = 4
    for found, d in zip(variances, (1, 10, 20), strict=True):
        n = d - 1
        assert found == pytest.approx(30 + 2 * (2 * n) * 4 + 6 * n + 4 * n**2, rel=0.1)


def test_the_sum_over_labels_is_the_mean_of_the_score_function_s(float64: None) -> None:
    """Exactly, without samples; and a constant added to f changes the noise of the score alone."""
    logits, f = torch.randn(5, requires_grad=True), 500 + torch.randn(5)
    q = logits.softmax(0)
    (exact,) = torch.autograd.grad((q * f).sum(), logits)
    scores = torch.eye(5) - q.detach()  # scores[y, k] = d log q(y) / d logit k
    q = q.detach()
    assert_close((q[:, None] * f[:, None] * scores).sum(0), exact)

    def variance(g: torch.Tensor) -> torch.Tensor:
        samples = g[:, None] * scores
        return (q[:, None] * samples**2).sum(0) - (q[:, None] * samples).sum(0) ** 2

    assert_close((q[:, None] * (f - 500)[:, None] * scores).sum(0), exact, atol=1e-9, rtol=0)
    covariance = (q[:, None] * (f - 500)[:, None] * scores**2).sum(0)  # of (f - 500) score, and score
    expected = variance(f - 500) + 2 * 500 * covariance + 500**2 * q * (1 - q)
    assert_close(variance(f), expected)
    assert (variance(f) > 1e4 * q * (1 - q)).all()
