"""Exercises 23 and 27: free bits and posterior collapse in a linear model."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import leaf, positive
from ppl_models import densities

HALF = "The KL term of a normal has a factor 1/2."
NEGATIVE = "A KL term is never negative. Below the threshold it is zero."


def linear_kl(v: Tensor, s2: Tensor) -> Tensor:
    """Returns the mean KL term of the best linear model, (batch,), from its guide at x^2 = v."""
    variance = v.maximum(s2)  # the guide collapses below the threshold
    loc, scale = ((variance - s2) / variance).clamp(min=1e-300).sqrt(), (s2 / variance).sqrt()
    return densities.kl_normal_standard(loc[:, None], scale[:, None])


@exercise("23", "free bits", "17-free-bits.md", "penalty", "objective", "best_kl", "kl_weight")
def free_bits(given: Any) -> Iterator[Row]:
    """Penalty and objective on both sides of the floor, and the minimum of the linear model."""
    kl, reconstruction = torch.tensor([0.2, 0.5, 0.8, 0.9, 1.2, 1.4, 2.0]).requires_grad_(), leaf(7)
    for side, floor in (("below", 1.3), ("above", 0.7)):
        low = torch.tensor(floor)
        yield row(
            f"penalty, KL {side} the floor",
            lambda kl, floor=floor: given.penalty(kl, floor),
            (kl,),
            lambda kl, low=low: torch.maximum(kl.mean(), low) - kl.mean(),
            {
                "The maximum comes after the mean: one image may have less if another has more.": (
                    lambda kl, floor=floor: (floor - kl).clamp(min=0).mean()
                ),
                "Above the floor the penalty is zero. Yours is negative.": lambda kl, floor=floor: (
                    floor - kl.mean()
                ),
                "Your penalty is zero. Look at its sign, and take the mean over the batch.": lambda kl: (
                    0 * kl.mean()
                ),
                "The penalty is for a KL term below the floor, not above it.": lambda kl, floor=floor: (
                    kl.mean() - floor
                ).clamp(min=0),
                "This is max(G, floor). The penalty is what is added to G.": lambda kl, low=low: (
                    torch.maximum(kl.mean(), low)
                ),
            },
        )
        yield row(
            f"J, KL {side} the floor",
            lambda r, kl, floor=floor: given.objective(r, kl, floor),
            (reconstruction, kl),
            lambda r, kl, low=low: r.mean() + torch.maximum(kl.mean(), low),
            {
                "The maximum comes after the mean: one image may have less if another has more.": (
                    lambda r, kl, floor=floor: r.mean() + kl.clamp(min=floor).mean()
                ),
                "This is the bound. The penalty is missing.": lambda r, kl: r.mean() + kl.mean(),
                "The KL term is missing. The bound has both terms, and the penalty is added.": (
                    lambda r, kl, floor=floor: r.mean() + (floor - kl.mean()).clamp(min=0)
                ),
                "The KL term is counted twice: max(G, floor) contains it.": lambda r, kl, low=low: (
                    r.mean() + kl.mean() + torch.maximum(kl.mean(), low)
                ),
                "This is the smaller of G and the floor. J has the larger one.": lambda r, kl, low=low: (
                    r.mean() + torch.minimum(kl.mean(), low)
                ),
            },
        )
    yield from minimum_rows(given)


def minimum_rows(given: Any) -> Iterator[Row]:
    """Yields the rows of the minimum with free bits, and of the KL weight, a slope by autograd."""
    v = torch.tensor([0.5, 0.8, 1.0, 2.0, 3.0, 4.0, 6.0]).requires_grad_()
    s2, floor = positive(7), torch.tensor(0.6)

    def without(v: Tensor, s2: Tensor) -> Tensor:
        return 0.5 * (v / s2).log()

    yield row(
        "KL at the minimum",
        lambda v, s2: given.best_kl(v, s2, 0.6),
        (v, s2),
        lambda v, s2: linear_kl(v, s2).maximum(floor),
        {
            "This is the minimum without free bits. The floor is missing.": linear_kl,
            "Free bits never make the KL term smaller: take the larger value.": lambda v, s2: linear_kl(
                v, s2
            ).minimum(floor),
            HALF: lambda v, s2: (2 * without(v, s2)).maximum(floor),
            "The floor is not added. The KL term is the larger of the two.": lambda v, s2: (
                linear_kl(v, s2) + floor
            ),
            "The ratio is inverted: a larger variance of the data gives a larger KL term.": lambda v, s2: (
                without(s2, v).maximum(floor)
            ),
        },
    )

    def weight(v: Tensor, s2: Tensor) -> Tensor:
        g = torch.full((7,), 1.5, requires_grad=True)
        t2 = (-2 * g).exp()
        a = ((1 - t2) / v).sqrt()  # codes of variance one
        error = (1 - a * a * v) ** 2 * v + (a * v) ** 2 * t2
        return -torch.autograd.grad((error / (2 * s2)).sum(), g, create_graph=True)[0]

    yield row(
        "KL weight",
        lambda v, s2: given.kl_weight(v, s2, 1.5),
        (v, s2),
        weight,
        {
            "R* falls as exp(-2 G), not as exp(-G).": lambda v, s2: v / s2 * math.exp(-1.5),
            "The ratio of the variances is missing.": lambda v, s2: torch.full((7,), math.exp(-3.0)),
            "The ratio is inverted: a larger variance of the data gives a larger weight.": lambda v, s2: (
                s2 / v * math.exp(-3.0)
            ),
            "The exponent has the wrong sign: R* falls with G.": lambda v, s2: v / s2 * math.exp(3.0),
            "This is R* without its constant. The weight is minus its derivative in G.": lambda v, s2: (
                v / (2 * s2) * math.exp(-3.0)
            ),
        },
    )


@exercise(
    "27",
    "posterior collapse",
    "21-posterior-collapse.md",
    "gain",
    "determinant",
    "weight_slope",
    "best_kl",
)
def collapse(given: Any) -> Iterator[Row]:
    """The linear model: densities from torch, derivatives from autograd."""
    v = torch.tensor([0.3, 0.5, 0.9, 2.0, 3.0, 4.0, 6.0]).requires_grad_()
    s2, beta = positive(7), (0.5 * positive(7)).detach().requires_grad_()

    def log_p(v: Tensor, variance: Tensor) -> Tensor:
        return Normal(torch.zeros(7), variance.sqrt()).log_prob(v.sqrt())

    yield row(
        "gain",
        given.gain,
        (v, s2),
        lambda v, s2: log_p(v, v.maximum(s2)) - log_p(v, s2),
        {
            "Up to the threshold the best model is the collapsed one, and the gain is zero.": lambda v, s2: (
                log_p(v, v) - log_p(v, s2)
            ),
            "This is the KL term of the best model. The gain compares two likelihoods.": linear_kl,
            "The ratio is inverted: a direction of large variance gains.": lambda v, s2: (
                log_p(s2, v.maximum(s2)) - log_p(s2, v)
            ),
            "The -1 is missing: the squared error of the best model costs 1/2.": lambda v, s2: (
                log_p(v, v.maximum(s2)) - log_p(v, s2) + 0.5
            ),
            "The logarithm has the wrong sign.": lambda v, s2: (
                log_p(v, v.maximum(s2)) - log_p(v, s2) + 2 * linear_kl(v, s2)
            ),
        },
    )
    yield from derivative_rows(given, v, s2)
    yield row(
        "KL with a weight",
        given.best_kl,
        (v, s2, beta),
        lambda v, s2, beta: linear_kl(v, beta * s2),
        {
            NEGATIVE: lambda v, s2, beta: 0.5 * (v / (beta * s2)).log(),
            "The weight is missing.": lambda v, s2, beta: linear_kl(v, s2),
            "A smaller weight gives a larger KL term. Yours is the other way round.": lambda v, s2, beta: (
                linear_kl(v * beta, s2)
            ),
            HALF: lambda v, s2, beta: 2 * linear_kl(v, beta * s2),
            "The weight moves the threshold too: it is at beta s2.": lambda v, s2, beta: (
                linear_kl(v, s2) / beta
            ),
        },
    )


def linear_bound(w: Tensor, a: Tensor, t: Tensor, v: Tensor, s2: Tensor) -> Tensor:
    """Returns the mean of -ELBO of the linear model, (batch,).

    It is quadratic in x and in the noise, so that two values of each with the right variance give the mean.
    """
    x = v.sqrt() * torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None]
    z = a * x + t * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    kl = densities.kl_normal_standard((a * x)[..., None], t.expand_as(x)[..., None])
    return (kl - Normal(w * z, s2.sqrt()).log_prob(x)).mean(0)


def derivative_rows(given: Any, v: Tensor, s2: Tensor) -> Iterator[Row]:
    """Yields the rows of the derivatives at the collapsed model."""

    def slope(v: Tensor, s2: Tensor, a: Tensor, t: Tensor) -> Tensor:
        w = torch.zeros(7, requires_grad=True)
        return torch.autograd.grad(linear_bound(w, a, t, v, s2).sum(), w, create_graph=True)[0]

    def hessian(v: Tensor, s2: Tensor) -> Tensor:
        w, a = torch.zeros(7, requires_grad=True), torch.zeros(7, requires_grad=True)
        bound = linear_bound(w, a, torch.ones(7), v, s2).sum()
        first = torch.autograd.grad(bound, (w, a), create_graph=True)
        rows = [torch.stack(torch.autograd.grad(g.sum(), (w, a), create_graph=True), -1) for g in first]
        return torch.stack(rows, -2)

    yield row(
        "determinant",
        given.determinant,
        (v, s2),
        lambda v, s2: hessian(v, s2).det(),
        {
            "The mixed derivative is missing.": lambda v, s2: v / s2,
            "The product of the mixed derivatives is subtracted.": lambda v, s2: v / s2 * (1 + v / s2),
            "The second derivative in a is v, from the KL term.": lambda v, s2: (1 - v**2 / s2) / s2,
            "The mixed derivative is squared.": lambda v, s2: v / s2 * 2,
            "This is the trace of the second derivatives.": lambda v, s2: 1 / s2 + v,
        },
    )
    a, t = leaf(7), positive(7)
    yield row(
        "slope in w",
        given.weight_slope,
        (v, s2, a, t),
        slope,
        {
            "The noise variance is missing.": lambda v, s2, a, t: -a * v,
            "The guide's slope a is missing. If it is zero, so is the derivative.": lambda v, s2, a, t: (
                -v / s2
            ),
            "The term w^2 t^2 has no derivative at w = 0.": lambda v, s2, a, t: (t**2 - a * v) / s2,
            "The KL term does not depend on w.": lambda v, s2, a, t: -a * v / s2 + a * v,
            "The data enter by their variance v.": lambda v, s2, a, t: -a / s2,
        },
    )
