"""The mixture of logistics cut at the levels' borders: probabilities, extremes, draws."""

import math

import pytest
import torch
from torch.testing import assert_close

from ppl_models import densities
from ppl_models.distributions import LogisticMixtureImage
from ppl_models.distributions.logistic_mixture import num_outputs

LEVELS = 2 * torch.arange(256, dtype=torch.float64) / 255 - 1


def test_a_pixel_takes_as_many_numbers_as_in_pixelcnn_plus_plus() -> None:
    assert (num_outputs(3, 10), num_outputs(1, 10)) == (100, 30)
    with pytest.raises(ValueError, match=r"99 parameters per pixel do not fit 10 components\. Pass 100"):
        LogisticMixtureImage(torch.zeros(99, 2, 2), channels=3)


@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_256_levels_sum_to_one(spread: float, float64: None) -> None:
    """Of a grey pixel; and of a pixel's blue, whatever its red and green: 256 sums, one a channel."""
    raw = spread * torch.randn(5, num_outputs(1, 10), 1, 1)
    log_p = LogisticMixtureImage(raw, 1).log_prob(LEVELS.view(256, 1, 1, 1, 1))
    assert_close(log_p.logsumexp(0), torch.zeros(5))
    raw = spread * torch.randn(num_outputs(3, 4), 1, 1)
    fn = LogisticMixtureImage(raw, 3, components=4)
    coarse = torch.cartesian_prod(LEVELS[::85], LEVELS[::85])  # 16 reds and greens
    x = torch.cat([coarse[:, None].expand(-1, 256, -1), LEVELS.expand(16, -1)[..., None]], dim=-1)
    marginal = fn.log_prob(x[..., None, None]).logsumexp(1).exp()  # p(red, green)
    alone = torch.zeros(16)
    logits, loc, log_scale = (
        raw[:4, 0, 0],
        raw[4:16, 0, 0].view(3, 4),
        raw[16:28, 0, 0].view(3, 4).clamp(-7, 7),
    )
    for i, weight in enumerate(logits.softmax(0)):
        at = [loc[0, i].expand(16), loc[1, i] + raw[28 + i, 0, 0].tanh() * coarse[:, 0]]
        p = 1.0
        for c in range(2):
            upper, lower = ((coarse[:, c] - at[c] + b) / log_scale[c, i].exp() for b in (1 / 255, -1 / 255))
            upper = torch.where(coarse[:, c] == 1, math.inf, upper)
            lower = torch.where(coarse[:, c] == -1, -math.inf, lower)
            p = p * (upper.sigmoid() - lower.sigmoid())
        alone += weight * p
    assert_close(marginal, alone, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_by_hand_is_the_same_density_and_gradient(channels: int, float64: None) -> None:
    raw = (3 * torch.randn(2, 1, num_outputs(channels, 5), 4, 3)).requires_grad_()
    x = LEVELS[torch.randint(256, (6, channels, 4, 3))]
    x[0], x[1] = -1, 1
    ours = LogisticMixtureImage(raw, channels, 5).log_prob(x)
    by_hand = densities.logistic_mixture(x, raw, 5)
    assert ours.shape == by_hand.shape == (2, 6)
    assert_close(ours, by_hand)
    assert_close(*(torch.autograd.grad(value.sum(), raw)[0] for value in (ours, by_hand)))


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_float32_stands_extreme_parameters(size: float) -> None:
    raw = (size * torch.randn(20, num_outputs(3, 10), 2, 2)).requires_grad_()
    x = LEVELS[torch.randint(256, (20, 3, 2, 2))].float()
    log_p = LogisticMixtureImage(raw, 3).log_prob(x)
    (gradient,) = torch.autograd.grad(log_p.sum(), raw)
    assert log_p.isfinite().all() and gradient.isfinite().all() and (log_p <= 0).all()


def test_narrow_scales_lose_nothing_in_float32() -> None:
    """With a scale far below a level, a level is certain at the loc and nearly impossible next to it."""
    for beside, exact in ((0, math.log(math.tanh(math.exp(7) / 255 / 2))), (10, None)):
        raw = torch.zeros(3, 1, 1)
        raw[1], raw[2] = LEVELS[100].float(), -9.0  # as -7
        x = LEVELS[100 + beside].float().view(1, 1, 1)
        log_p = LogisticMixtureImage(raw, 1, components=1).log_prob(x)
        exact = densities.logistic_mixture(x.double(), raw.double(), 1).item() if exact is None else exact
        assert log_p.item() == pytest.approx(exact, rel=1e-4)


def test_draws_follow_the_probabilities(float64: None) -> None:
    """A chi-squared test of grey levels, and of the pairs of two channels of a colour pixel, in 16 bins."""
    n = 40_000
    raw = torch.randn(num_outputs(1, 3), 1, 1)
    raw[6:] -= 1.5
    fn = LogisticMixtureImage(raw, 1, 3)
    p = fn.log_prob(LEVELS.view(256, 1, 1, 1)).exp()
    drawn = fn.sample((n,)).flatten()
    counts = torch.bincount(((drawn + 1) * 255 / 2).round().long(), minlength=256)
    assert_close(drawn, LEVELS[((drawn + 1) * 255 / 2).round().long()])  # levels and nothing between
    _assert_fits(counts, p, n)

    raw = torch.randn(num_outputs(2, 3), 1, 1)  # two channels: all 256 x 256 pairs, in 16 x 16 bins
    raw[9:15] -= 1.5
    fn = LogisticMixtureImage(raw, 2, 3)
    pairs = torch.cartesian_prod(LEVELS, LEVELS)
    p = fn.log_prob(pairs.view(-1, 2, 1, 1)).exp().view(16, 16, 16, 16).sum((1, 3))
    drawn = ((fn.sample((n,)).flatten(1) + 1) * 255 / 2).round().long() // 16
    _assert_fits(torch.bincount(drawn @ torch.tensor([16, 1]), minlength=256), p.flatten(), n)


def test_channels_follow_the_channels_before(float64: None) -> None:
    """With tiny scales, samples are at the locs, given the channels before."""
    raw = torch.zeros(10, 1, 1)
    raw[1:4, 0, 0], raw[4:7] = torch.tensor([0.5, -0.2, 0.1]), -7
    raw[7:, 0, 0] = torch.tensor([0.6, -0.4, 0.9]).atanh()
    fn = LogisticMixtureImage(raw, 3, 1)
    red, green, blue = fn.sample((50,)).flatten(1).T
    assert_close(green, -0.2 + 0.6 * red, rtol=0, atol=0.02)
    assert_close(blue, 0.1 - 0.4 * red + 0.9 * green, rtol=0, atol=0.02)
    assert fn.log_prob(fn.sample((50,))).min() > -30


def _assert_fits(counts: torch.Tensor, p: torch.Tensor, n: int) -> None:
    often = p * n > 5
    chi = ((counts - n * p) ** 2 / (n * p))[often].sum()
    degrees = often.sum() - 1
    assert degrees > 20 and abs(chi - degrees) < 5 * (2 * degrees) ** 0.5


def test_pixels_are_independent_and_particles_lead(float64: None) -> None:
    raw, x = torch.randn(3, 1, num_outputs(3, 2), 2, 2), LEVELS[torch.randint(256, (5, 3, 2, 2))]
    whole = LogisticMixtureImage(raw, 3, 2).log_prob(x)
    assert whole.shape == (3, 5)
    parts = [
        LogisticMixtureImage(raw[..., i : i + 1, j : j + 1], 3, 2).log_prob(x[..., i : i + 1, j : j + 1])
        for i in range(2)
        for j in range(2)
    ]
    assert_close(sum(parts), whole)
    assert LogisticMixtureImage(raw, 3, 2).sample((7,)).shape == (7, 3, 1, 3, 2, 2)
