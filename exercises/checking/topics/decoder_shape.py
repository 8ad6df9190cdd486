"""Exercise 28: the shape of a decoder's noise."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import REVERSED, positive
from exercises.checking.topics.linear import HALF


@exercise(
    "28",
    "what the decoder cannot say goes into z",
    "22-what-the-decoder-cannot-say.md",
    "entropy",
    "conditional_entropy",
    "one_scale",
    "scale_per_axis",
    "price",
)
def decoder_shape(given: Any) -> Iterator[Row]:
    """Entropies against torch, and the KL term that the eigenvalues of the covariance demand."""
    covariance = torch.tensor([[5.0, 2.0], [2.0, 3.0]])
    log_2pi, log_det = math.log(2 * math.pi), covariance.logdet()
    yield row(
        "h(x)",
        given.entropy,
        (covariance,),
        lambda c: MultivariateNormal(torch.zeros(2), c).entropy(),
        {
            "The determinant is that of the covariance: its logarithm has a factor 1/2.": lambda c: (
                log_2pi + 1 + log_det
            ),
            "The mean of the square costs 1/2 in each dimension: log(2 pi e), not log(2 pi).": lambda c: (
                log_2pi + 0.5 * log_det
            ),
            "The constant is 1/2 log(2 pi e) in each of the two dimensions.": lambda c: (
                0.5 * (log_2pi + 1 + log_det)
            ),
            "Only the diagonal is used. The entropy needs the determinant.": lambda c: (
                log_2pi + 1 + 0.5 * c.diagonal().log().sum()
            ),
            "The constant is missing.": lambda c: 0.5 * log_det,
        },
    )
    yield row(
        "h(x | z)",
        given.conditional_entropy,
        (positive(7, 2),),
        lambda s: Normal(0.0, s).entropy().sum(-1).mean(),
        {
            "1/2 log det T is the sum of log scale over both axes: no half and no mean.": lambda s: (
                log_2pi + 1 + s.log().mean()
            ),
            "The factor 1/2 cancels the square of the scale. Yours is twice too large.": lambda s: (
                log_2pi + 1 + 2 * s.log().sum(-1).mean()
            ),
            "The mean is over the logarithms, outside of them.": lambda s: (
                log_2pi + 1 + s.prod(-1).mean().log()
            ),
            "The constant is missing.": lambda s: s.log().sum(-1).mean(),
        },
    )
    yield from information_rows(given, covariance)
    yield price_row(given)


def information_rows(given: Any, covariance: Tensor) -> Iterator[Row]:
    """Yields the rows of the smallest KL terms."""

    def needed(covariance: Tensor) -> Tensor:
        largest, smallest = torch.linalg.eigvalsh(covariance).flip(-1).unbind(-1)
        return 0.5 * (largest / smallest).log()

    half = 0.5 * covariance.logdet()
    yield row(
        "least KL, one scale",
        given.one_scale,
        (covariance,),
        needed,
        {
            "h(x | z) has the noise too. It is the smallest eigenvalue in both axes.": lambda c: half,
            "The noise fits into the data in no direction more than the smallest eigenvalue.": lambda c: (
                half - torch.linalg.eigvalsh(c)[1].log()
            ),
            "The mean variance does not fit into the narrow direction.": lambda c: (
                half - (c.trace() / 2).log()
            ),
            "An axis of the coordinates is not the narrowest direction. Use the eigenvalues.": lambda c: (
                half - c.diagonal().min().log()
            ),
            "h(x | z) has the noise in both axes, 1/2 log for each.": lambda c: (
                half - 0.5 * torch.linalg.eigvalsh(c)[0].log()
            ),
            HALF: lambda c: 2 * needed(c),
        },
    )
    a, c = (2 + positive(7)).detach().requires_grad_(), (positive(7) - 1.2).detach().requires_grad_()
    yield row(
        "least KL, scale per axis",
        given.scale_per_axis,
        (a, c),
        lambda a, c: needed(torch.stack([torch.stack([a, c], -1), torch.stack([c, a], -1)], -2)),
        {
            "T may not be the diagonal of the covariance: the rest must be positive semidefinite.": (
                lambda a, c: 0.5 * (1 - (c / a) ** 2).log()
            ),
            "A negative covariance is as good as a positive one: take |c|.": lambda a, c: (
                0.5 * ((a + c) / (a - c)).log()
            ),
            HALF: lambda a, c: ((a + c.abs()) / (a - c.abs())).log(),
            "h(x | z) has the noise in both axes, 1/2 log for each.": lambda a, c: 0.5 * (a + c.abs()).log(),
            "The largest noise is a - |c|, the variance of the narrow direction.": lambda a, c: (
                0.5 * ((a - c.abs()) / (a + c.abs())).log()
            ),
        },
    )


def price_row(given: Any) -> Row:
    """Returns the row of the price of a smaller KL term."""

    def price(kappa: Tensor, v: Tensor) -> Tensor:
        return kl_divergence(Normal(0.0, v.sqrt()), Normal(0.0, (1 + kappa).sqrt()))

    return row(
        "price",
        given.price,
        (positive(7), (2 * positive(7)).detach().requires_grad_()),
        price,
        {
            REVERSED: lambda k, v: kl_divergence(Normal(0.0, (1 + k).sqrt()), Normal(0.0, v.sqrt())),
            "The variance of the model is 1 + kappa, not kappa.": lambda k, v: price(k - 1, v),
            HALF: lambda k, v: 2 * price(k, v),
            "The -1 is missing: at the right variance the price is zero.": lambda k, v: price(k, v) + 0.5,
            "The logarithm has the wrong sign.": lambda k, v: price(k, v) - ((1 + k) / v).log(),
        },
    )
