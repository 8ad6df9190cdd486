"""Distributions and activations of the suite's own: the same numbers as the straightforward form."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from ppl_models import densities
from ppl_models.distributions import BernoulliImage, MixtureOfNormals, NormalImage
from ppl_models.nets.activations import elu


def mixture(offset: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Components as a trained prior has them, narrow and wide, far from the origin; points near and far."""
    loc, scale = 1.5 * torch.randn(500, 10) + offset, 0.05 + torch.rand(500, 10)
    return torch.cat([loc[:50], 4 * torch.randn(50, 10) + offset]), loc, scale


@pytest.mark.parametrize(
    ("dtype", "offset", "error"), [(torch.float64, 30.0, 1e-9), (torch.float32, 30.0, 1e-3)]
)
def test_a_mixture_by_matrix_products_is_the_direct_form(
    dtype: torch.dtype, offset: float, error: float
) -> None:
    z, loc, scale = (t.to(dtype) for t in mixture(offset))
    ours = MixtureOfNormals(loc, scale).log_prob(z)
    exact = densities.mixture_of_normals(z.double(), loc.double(), scale.double())
    near = exact > -200  # where a sample of a guide can be
    assert near.sum() > 60
    assert (ours.double() - exact)[near].abs().max() < error
    torch_s = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(500)), dist.Normal(loc.double(), scale.double()).to_event(1)
    )
    assert_close(exact, torch_s.log_prob(z.double()))


def test_a_mixture_has_the_direct_form_s_gradient(float64: None) -> None:
    found = []
    z, loc, scale = (t.requires_grad_() for t in mixture(0.0))
    for log_prob in (MixtureOfNormals(loc, scale).log_prob(z), densities.mixture_of_normals(z, loc, scale)):
        found.append(torch.autograd.grad(log_prob.sum(), [z, loc, scale]))
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs)


def test_draws_of_a_mixture_have_its_moments() -> None:
    loc, scale = (
        torch.tensor([[-2.0, 0.0], [1.0, 3.0], [1.0, 0.0]]),
        torch.tensor([[0.1, 1.0], [2.0, 0.5], [1.0, 1.0]]),
    )
    fn = MixtureOfNormals(loc, scale).expand([4])
    z = fn.sample((20_000,))
    assert z.shape == (20_000, 4, 2) and fn.log_prob(z).shape == (20_000, 4)
    second = (loc**2 + scale**2).mean(0)
    assert_close(z.mean((0, 1)), loc.mean(0), rtol=0, atol=5 * 2.1 / math.sqrt(80_000))
    assert_close((z**2).mean((0, 1)), second, rtol=0.05, atol=0)
    assert z[:, 0].std() > 1 and not torch.equal(z[:, 0], z[:, 1])


@pytest.mark.parametrize("shape", [(1, 4, 8), (1, 7, 7), (3, 2, 2)])
def test_a_bernoulli_image_is_torch_s(shape: tuple[int, ...], float64: None) -> None:
    """Images of 32, 49 and 12 pixels: products of sixteen, one and four."""
    logits = (5 * torch.randn(3, 1, math.prod(shape))).requires_grad_()
    x = torch.rand(4, *shape).bernoulli()
    theirs = dist.Bernoulli(logits=logits.unflatten(-1, shape)).to_event(3)
    ours = BernoulliImage(logits, shape)
    values = [fn.log_prob(x) for fn in (ours, theirs)]
    assert values[0].shape == (3, 4)
    assert_close(*values)
    assert_close(*(torch.autograd.grad((value**2).sum(), logits)[0] for value in values))
    assert torch.autograd.gradcheck(lambda free: BernoulliImage(free, shape).log_prob(x), logits)
    with torch.no_grad():
        assert_close(ours.log_prob(x), values[0])
    assert_close(ours.mean, theirs.mean)


def test_a_bernoulli_image_is_drawn_at_its_rates() -> None:
    rates = torch.tensor([[0.1, 0.5, 0.9, 0.99]])
    x = BernoulliImage(rates.logit(), (1, 2, 2)).sample((20_000,))
    assert x.shape == (20_000, 1, 1, 2, 2) and set(x.unique().tolist()) == {0.0, 1.0}
    assert_close(x.mean(0).flatten(), rates[0], rtol=0, atol=5 * 0.5 / math.sqrt(20_000))


def test_a_bernoulli_image_keeps_its_figures_at_large_logits() -> None:
    for logit, x, nats in (
        (200.0, 0.0, -200.0),
        (200.0, 1.0, 0.0),
        (-200.0, 0.0, 0.0),
        (-200.0, 1.0, -200.0),
    ):
        fn = BernoulliImage(torch.full((784,), logit), (1, 28, 28))
        assert fn.log_prob(torch.full((1, 28, 28), x)).item() == 784 * nats


def test_float32_costs_less_than_a_thousandth_of_a_nat() -> None:
    logits, x = 6 * torch.randn(50, 784), torch.rand(50, 1, 28, 28).bernoulli()
    exact = BernoulliImage(logits.double(), (1, 28, 28)).log_prob(x.double())
    assert (BernoulliImage(logits, (1, 28, 28)).log_prob(x) - exact).abs().max() < 1e-3


def test_a_bernoulli_image_refuses_grey_levels_and_other_sizes() -> None:
    fn = BernoulliImage(torch.zeros(4), (1, 2, 2), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        fn.log_prob(torch.full((1, 2, 2), 0.5))
    with pytest.raises(ValueError, match="5 logits do not fit images of shape"):
        BernoulliImage(torch.zeros(5), (1, 2, 2))


def test_a_normal_image_is_torch_s(float64: None) -> None:
    mean, x = torch.randn(2, 1, 3, 4, 5, requires_grad=True), torch.randn(6, 3, 4, 5)
    ours, theirs = NormalImage(mean, 0.3), dist.Normal(mean, 0.3).to_event(3)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    values = [fn.log_prob(x) for fn in (ours, theirs)]
    assert values[0].shape == (2, 6)
    assert_close(*values)
    assert_close(*(torch.autograd.grad((value**2).sum(), mean)[0] for value in values))
    draws = ours.sample((4_000,))
    assert draws.shape == (4_000, 2, 1, 3, 4, 5)
    assert_close(draws.mean(0), mean.detach(), rtol=0, atol=5 * 0.3 / math.sqrt(4_000))
    assert draws.std(0).sub(0.3).abs().max() < 0.02
    with pytest.raises(ValueError, match="support"):
        NormalImage(mean, 0.3, validate_args=True).log_prob(x * math.nan)


def test_elu_is_torch_s(float64: None) -> None:
    x = torch.cat([4 * torch.randn(50), torch.tensor([0.0, -1e-3, 1e-3, -800.0])]).requires_grad_()
    assert_close(elu(x), torch.nn.functional.elu(x))
    assert_close(*(torch.autograd.grad(f(x).sum(), x)[0] for f in (elu, torch.nn.functional.elu)))
    y = torch.randn(20, requires_grad=True)
    assert torch.autograd.gradcheck(elu, y) and torch.autograd.gradgradcheck(elu, y)
    with torch.no_grad():
        assert_close(elu(x), torch.nn.functional.elu(x))
