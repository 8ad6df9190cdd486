"""Exercises 14 and 16: levels of images, and the tail of importance weights."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import GeneralizedPareto, Normal

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import VARIANCE, leaf, positive
from ppl_models.distributions import LogisticMixtureImage

HALF_FIRST = "The bin of the first level ends at -1 + 1/255, not at the level itself."
HALF_LAST = "The bin of the last level begins at 1 - 1/255, not at the level itself."
LOG = "This is the probability. Its logarithm is needed."


def level_log_prob(x: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(x), (batch,), of the suite's distribution; logits, loc, scale (batch, components)."""
    raw = torch.stack([logits, loc, scale.log()], 1)  # (batch, parts, components)
    image = LogisticMixtureImage(raw.flatten(1)[:, :, None, None], 1, logits.shape[1])
    return image.log_prob(x[:, None, None, None])


def cdf(t: Tensor | float, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the distribution function of a logistic distribution."""
    return ((t - loc) / scale).sigmoid()


def mass(x: Tensor, loc: Tensor, scale: Tensor, half: float = 1 / 255) -> Tensor:
    """Returns the mass of the bin of a level."""
    return cdf(x + half, loc, scale) - cdf(x - half, loc, scale)


def one(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(x) of one logistic distribution per data point."""
    return level_log_prob(x, torch.zeros(7, 1), loc[:, None], scale[:, None])


@exercise(
    "14",
    "the discretised mixture of logistics",
    "14-discretised-logistic-mixture.md",
    "inner",
    "first",
    "last",
    "mixture",
)
def logistic_mixture(given: Any) -> Iterator[Row]:
    """Each kind of level against `LogisticMixtureImage`."""
    loc, scale = (0.3 * torch.randn(7)).requires_grad_(), (0.1 * positive(7)).detach().requires_grad_()
    levels = 2 * torch.tensor([1, 50, 100, 127, 128, 200, 254]) / 255 - 1.0

    half = "Look at the width of a bin: it is 2/255, half of it on each side of the level."
    density = "This is the density at the level. A probability is the mass of the bin."
    yield row(
        "inner levels",
        given.inner,
        (levels, loc, scale),
        one,
        {
            half: lambda x, loc, scale: mass(x, loc, scale, 2 / 255).log(),
            "The bins are 2/255 wide. There are 256 levels, but 255 distances between "
            "them.": lambda x, loc, scale: mass(x, loc, scale, 1 / 256).log(),
            density: lambda x, loc, scale: (
                cdf(x, loc, scale).log() + (1 - cdf(x, loc, scale)).log() - scale.log()
            ),
            LOG: mass,
            "You forgot to divide by the scale.": lambda x, loc, scale: mass(
                x, loc, torch.ones_like(scale)
            ).log(),
        },
    )
    yield from end_rows(given, loc, scale)
    yield mixture_row(given, levels)


def end_rows(given: Any, loc: Tensor, scale: Tensor) -> Iterator[Row]:
    """Yields the rows of the first and the last level."""
    ends = {
        "first level": (
            given.first,
            -1.0,
            {
                HALF_FIRST: lambda a, s: cdf(-1.0, a, s).log(),
                LOG: lambda a, s: cdf(-1 + 1 / 255, a, s),
                "The first level also has all the mass below it.": lambda a, s: mass(
                    torch.tensor(-1.0), a, s
                ).log(),
                "You gave the mass above the border, and the mass below is needed.": lambda a, s: (
                    1 - cdf(-1 + 1 / 255, a, s)
                ).log(),
            },
        ),
        "last level": (
            given.last,
            1.0,
            {
                HALF_LAST: lambda a, s: (1 - cdf(1.0, a, s)).log(),
                LOG: lambda a, s: 1 - cdf(1 - 1 / 255, a, s),
                "The last level also has all the mass above it.": lambda a, s: mass(
                    torch.tensor(1.0), a, s
                ).log(),
                "You gave the mass below the border, and the mass above is needed.": lambda a, s: cdf(
                    1 - 1 / 255, a, s
                ).log(),
            },
        ),
    }
    for term, (answer, level, mistakes) in ends.items():
        truth: Callable[..., Tensor] = lambda a, s, level=level: one(torch.full((7,), level), a, s)  # noqa: E731
        yield row(term, answer, (loc, scale), truth, mistakes)


def mixture_row(given: Any, levels: Tensor) -> Row:
    """Returns the row of a mixture of three components."""
    logits, locs = leaf(7, 3), (0.3 * torch.randn(7, 3)).requires_grad_()
    scales = (0.1 * positive(7, 3)).detach().requires_grad_()

    def each(x: Tensor, locs: Tensor, scales: Tensor) -> Tensor:
        return mass(x[:, None], locs, scales)

    return row(
        "mixture",
        given.mixture,
        (levels, logits, locs, scales),
        level_log_prob,
        {
            "This is a weighted mean of logarithms. The mean of the probabilities must be inside "
            "the logarithm.": (lambda x, w, a, s: (w.softmax(-1) * each(x, a, s).log()).sum(-1)),
            "The logits are not normalised. The weights are softmax(logits).": lambda x, w, a, s: (
                (w.exp() * each(x, a, s)).sum(-1).log()
            ),
            "All components have the same weight. The weights are softmax(logits).": lambda x, w, a, s: (
                each(x, a, s).mean(-1).log()
            ),
            "The weights are missing.": lambda x, w, a, s: each(x, a, s).sum(-1).log(),
        },
    )


@exercise(
    "16",
    "Pareto k-hat",
    "16-pareto-k-hat.md",
    "log_weight",
    "shape_of_tail",
    "tail_probability",
    "finite_moments",
)
def pareto(given: Any) -> Iterator[Row]:
    """Densities and tails against torch; the shape from the curvature of the log weight."""
    z, s = leaf(7, 3), positive(3)

    def log_w(z: Tensor, s: Tensor) -> Tensor:
        return (Normal(0.0, 1.0).log_prob(z) - Normal(torch.zeros(3), s).log_prob(z)).sum(-1)

    yield row(
        "log weight",
        given.log_weight,
        (z, s),
        log_w,
        {
            "The logarithm of s is missing, from the constant of q.": lambda z, s: (
                log_w(z, s) - s.log().sum()
            ),
            "The logarithm of s has the wrong sign.": lambda z, s: log_w(z, s) - 2 * s.log().sum(),
            VARIANCE: lambda z, s: log_w(z, s.sqrt()),
            "The density of the posterior is missing.": lambda z, s: log_w(z, s) + 0.5 * (z**2).sum(-1),
        },
        {"dimensions": 3},
    )

    def curvature(s: Tensor) -> Tensor:
        """The tail of exp(k v^2 / 2), v normal, has the shape k: the largest second derivative of log w."""
        v = torch.zeros(3, requires_grad=True)
        slope = torch.autograd.grad(log_w(s * v, s), v, create_graph=True)[0]
        return torch.stack(
            [torch.autograd.grad(d, v, create_graph=True)[0][i] for i, d in enumerate(slope)]
        ).max()

    yield row(
        "shape k",
        given.shape_of_tail,
        (s,),
        curvature,
        {
            "The widest dimension has the lightest tail. The heaviest tail decides.": lambda s: (
                1 - s.max() ** 2
            ),
            "The heaviest tail decides, not the mean over the dimensions.": lambda s: (1 - s**2).mean(),
            "The tails of independent dimensions do not add up. The heaviest decides.": lambda s: (
                1 - s**2
            ).sum(),
            "s is a standard deviation. Square it.": lambda s: 1 - s.min(),
        },
    )
    yield from tail_rows(given)


def tail_rows(given: Any) -> Iterator[Row]:
    """Yields the rows of the tail probability and of the finite moments."""
    y, k, tau = positive(7), torch.tensor(0.4).requires_grad_(), torch.tensor(1.5).requires_grad_()

    def survival(y: Tensor, k: Tensor, tau: Tensor) -> Tensor:
        return 1 - GeneralizedPareto(torch.tensor(0.0), tau, k, validate_args=False).cdf(y)

    yield row(
        "tail probability",
        given.tail_probability,
        (y, k, tau),
        survival,
        {
            "This is the probability of smaller values. The tail is the rest.": lambda y, k, tau: (
                1 - survival(y, k, tau)
            ),
            "The exponent is -1/k, not -k.": lambda y, k, tau: (1 + k * y / tau) ** -k,
            "The exponent has the wrong sign: a tail falls.": lambda y, k, tau: (1 + k * y / tau) ** (1 / k),
            "This is the limit k = 0, an exponential tail.": lambda y, k, tau: (-y / tau).exp(),
            "The scale tau is missing.": lambda y, k, tau: (1 + k * y) ** (-1 / k),
        },
    )
    yield row(
        "a*",
        given.finite_moments,
        (k,),
        lambda k: 1 / k,
        {
            "The heavier the tail, the fewer moments are finite.": lambda k: k,
            "At k = 1/2 the variance, a = 2, is at the limit.": lambda k: 1 / (2 * k),
            "Bring the tail into the integral of a t^(a-1): at which a does it no longer "
            "converge?": lambda k: 1 - k,
        },
    )
