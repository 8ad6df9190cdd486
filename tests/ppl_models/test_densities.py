"""The densities by hand against torch's distributions, and against numbers worked out on paper."""

import math

import pytest
import torch
from torch import distributions as dist
from torch.testing import assert_close

from ppl_models import densities
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP


def test_normal(float64: None) -> None:
    x, loc, scale = torch.randn(3, 1, 5), torch.randn(4, 5), torch.rand(4, 5) + 0.1
    assert_close(densities.normal(x, loc, scale), dist.Normal(loc, scale).log_prob(x).sum(-1))
    assert_close(densities.normal(torch.zeros(2), 0.0, 1.0).item(), -math.log(2 * math.pi))


def test_multivariate_normal(float64: None) -> None:
    x, loc = torch.randn(3, 1, 2, 5), torch.randn(4, 1, 5)
    tril = torch.randn(5, 5).tril(-1) + torch.diag(torch.rand(5) + 0.1)
    p = dist.MultivariateNormal(loc, scale_tril=tril)
    assert_close(densities.multivariate_normal(x, loc, tril), p.log_prob(x))
    assert densities.multivariate_normal(x[0, 0, 0], loc[0, 0], tril).shape == ()


def test_kl_of_multivariate_normals(float64: None) -> None:
    loc, other = torch.randn(4, 3, 5), torch.randn(3, 5)
    tril, prior = (torch.randn(5, 5).tril(-1) + torch.diag(torch.rand(5) + 0.1) for _ in range(2))
    q, p = dist.MultivariateNormal(loc, scale_tril=tril), dist.MultivariateNormal(other, scale_tril=prior)
    assert_close(densities.kl_multivariate_normals(loc, tril, other, prior), dist.kl_divergence(q, p))
    standard = dist.MultivariateNormal(torch.zeros(5), torch.eye(5))
    assert_close(densities.kl_multivariate_normal_standard(loc, tril), dist.kl_divergence(q, standard))


def test_closed_divergences_are_never_negative(float64: None) -> None:
    """And zero at the prior alone."""
    for _ in range(100):
        loc, scale = torch.randn(3, 50, 4) * torch.rand(()), (torch.randn(3, 50, 4) * torch.rand(())).exp()
        assert (densities.kl_normal_standard(loc, scale) > 0).all()
        tril = torch.randn(4, 4).tril(-1) + scale[0, 0].diag()
        assert (densities.kl_multivariate_normal_standard(loc, tril) > 0).all()
        assert (densities.kl_categorical_uniform(10 * torch.rand(()) * torch.randn(3, 50, 7)) > -1e-12).all()
    zero, one, eye = torch.zeros(2, 4), torch.ones(2, 4), torch.eye(4)
    assert_close(densities.kl_normal_standard(zero, one), torch.zeros(2))
    assert_close(densities.kl_multivariate_normal_standard(zero, eye), torch.zeros(2))
    assert_close(densities.kl_multivariate_normals(one, eye, one, eye), torch.zeros(2))
    assert_close(densities.kl_categorical_uniform(zero), torch.zeros(2))


def test_the_sampled_kl_has_less_noise_near_the_posterior(float64: None) -> None:
    """With x = 0 and q = N(0, sigma^2), for 1/3 < sigma^2 < 1: the example of derivation 4."""
    for variance in (0.2, 0.4, 0.5, 0.9, 1.2):
        scale = torch.tensor([math.sqrt(variance)])
        z = scale * torch.randn(100_000, 1)
        closed = -densities.normal(torch.zeros(1), z, 1.0)
        sampled = closed + densities.normal(z, 0.0, scale) - densities.normal(z, 0.0, 1.0)
        assert_close(closed.var().item(), variance**2 / 2, rtol=0.05, atol=0)
        assert_close(sampled.var().item(), (2 * variance - 1) ** 2 / 2, rtol=0.05, atol=1e-12)
        assert (sampled.var() < closed.var()) == (1 / 3 < variance < 1)


def test_information_limits_what_a_code_explains(float64: None) -> None:
    """Data in [0, 1]^D: E |E[x | z] - E[x]|^2 <= (D / 2) I(x; z), as derivation 10 proves."""

    def explained(x: torch.Tensor, guide: torch.Tensor) -> tuple[float, float]:
        """The two sides, for points x (n, D) of equal probability and q(z | x) (n, codes)."""
        q = guide.mean(0)  # of z
        given = guide / guide.sum(0)  # of x, given z
        information = (given * (len(x) * given).log()).sum(0) @ q
        left = (given.T @ x - x.mean(0)).square().sum(-1) @ q
        return left.item(), (x.shape[1] / 2 * information).item()

    for _ in range(50):
        left, right = explained(torch.rand(6, 3).round(), (3 * torch.randn(6, 4)).softmax(-1))
        assert left <= right
    coin, little = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 0.001
    left, right = explained(coin, 0.5 + little * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    assert left == pytest.approx(right, rel=1e-4) and left > 0


def test_a_scale_given_as_a_number_keeps_its_figures() -> None:
    """Float64 in, float64 out, whatever the default precision: 0.1 in float32 would be off by 1e-8."""
    x = torch.full((1,), 3.0, dtype=torch.float64)
    exact = -0.5 * (3 / 0.1) ** 2 - math.log(0.1) - 0.5 * math.log(2 * math.pi)
    assert densities.normal(x, 0.0, 0.1).item() == pytest.approx(exact, rel=1e-14)


def test_bernoulli(float64: None) -> None:
    x, logits = torch.rand(3, 5).bernoulli(), 5 * torch.randn(2, 3, 5)
    assert_close(densities.bernoulli(x, logits), dist.Bernoulli(logits=logits).log_prob(x).sum(-1))


def test_bernoulli_keeps_its_figures_at_large_logits() -> None:
    # log(1 - sigmoid(100)) = -100 to rounding; by way of the probability it would be minus infinity
    assert densities.bernoulli(torch.tensor([0.0]), torch.tensor([100.0])).item() == -100.0
    assert densities.bernoulli(torch.tensor([1.0]), torch.tensor([100.0])).item() == 0.0


def test_kl_normal_standard(float64: None) -> None:
    loc, scale = torch.randn(4, 5), torch.rand(4, 5) + 0.1
    q, p = dist.Normal(loc, scale), dist.Normal(0.0, 1.0)
    assert_close(densities.kl_normal_standard(loc, scale), dist.kl_divergence(q, p).sum(-1))
    # N(1, 2^2) against N(0, 1): (1 + 4 - log 4 - 1) / 2
    by_paper = (4 - math.log(4)) / 2
    assert_close(densities.kl_normal_standard(torch.tensor([1.0]), torch.tensor([2.0])).item(), by_paper)


def test_kl_normals(float64: None) -> None:
    (loc, scale), (prior_loc, prior_scale) = ((torch.randn(n, 5), torch.rand(n, 5) + 0.1) for n in (4, 1))
    q, p = dist.Normal(loc, scale), dist.Normal(prior_loc, prior_scale)
    found = densities.kl_normals(loc, scale, prior_loc, prior_scale)
    assert_close(found, dist.kl_divergence(q, p).sum(-1))


def test_kl_categorical_uniform(float64: None) -> None:
    logits = torch.randn(4, 10)
    q, p = dist.Categorical(logits=logits), dist.Categorical(logits=torch.zeros(4, 10))
    assert_close(densities.kl_categorical_uniform(logits), dist.kl_divergence(q, p))
    certain = torch.tensor([0.0, -100.0])
    assert_close(densities.kl_categorical_uniform(certain).item(), math.log(2))


def test_log_softmax(float64: None) -> None:
    logits = 1e3 * torch.randn(4, 10)
    assert_close(densities.log_softmax(logits), logits.log_softmax(-1))


def test_first_layer_in_parts_is_the_layer_on_all(float64: None) -> None:
    net = MLP([5, 3], [7, 6], 4)
    x, y = torch.randn(11, 5), torch.eye(3)[:, None]
    beside = torch.cat([x.expand(3, 11, 5), y.expand(3, 11, 3)], dim=-1)
    first, second, last = net.layers
    elu = torch.nn.functional.elu
    assert_close(net(x, y), last(elu(second(elu(first(beside))))))
    assert net(x, y).shape == (3, 11, 4)


def test_scale_is_the_root_of_a_softplus() -> None:
    loc, scale = loc_scale(torch.tensor([0.5, -1.0, 0.0, -200.0]))
    assert loc.tolist() == [0.5, -1.0]
    assert_close(scale, torch.tensor([math.sqrt(math.log(2)), 1e-4]))
