"""Exercise 26: the aggregate posterior."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.bounds import standard
from exercises.checking.topics.densities import VARIANCE, leaf, positive


def aggregate(loc: Tensor, scale: Tensor) -> MixtureSameFamily:
    """Returns the aggregate posterior of normal guides, (n, d)."""
    return MixtureSameFamily(Categorical(torch.ones(len(loc))), Independent(Normal(loc, scale), 1))


def own(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log q_n(z_n), (n,)."""
    return Normal(loc, scale).log_prob(z).sum(-1)


def each(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log q_m(z_n), (n, m)."""
    return Normal(loc, scale).log_prob(z[:, None]).sum(-1)


def mixed(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log q(z_n), (n,)."""
    return aggregate(loc, scale).log_prob(z)


@exercise(
    "26",
    "the aggregate posterior",
    "20-aggregate-posterior.md",
    "log_aggregate",
    "information",
    "mismatch",
    "least_mismatch",
    "aggregate_variance",
)
def aggregate_posterior(given: Any) -> Iterator[Row]:
    """The two parts of the KL term against torch's mixture."""
    loc, scale = leaf(7, 3), positive(7, 3)
    z = (loc + scale * torch.randn(7, 3)).detach().requires_grad_()

    count = math.log(7)
    yield row(
        "log q(z)",
        given.log_aggregate,
        (z, loc, scale),
        mixed,
        {
            "This is a mean of log densities. The mean of the densities must be inside the "
            "logarithm.": lambda *p: each(*p).mean(-1),
            "The weights 1/n of the images are missing.": lambda *p: each(*p).logsumexp(-1),
            "Each sample needs the guides of all images, not only its own.": own,
            "You summed over the samples. Sum over the guides.": lambda *p: each(*p).logsumexp(0) - count,
            "This is the prior. The aggregate posterior is a mean of guides.": lambda z, *_: standard(z),
        },
    )
    yield row(
        "information",
        given.information,
        (z, loc, scale),
        lambda *p: (own(*p) - mixed(*p)).mean(),
        {
            "This is the whole KL term, information and mismatch.": lambda z, *p: (
                own(z, *p) - standard(z)
            ).mean(),
            "This is the mismatch. The information compares each guide with the aggregate.": lambda z, *p: (
                mixed(z, *p) - standard(z)
            ).mean(),
            "The weights 1/n of the images are missing.": lambda *p: (own(*p) - mixed(*p)).mean() - count,
            "log q_n is missing.": lambda *p: -mixed(*p).mean(),
        },
    )
    yield row(
        "mismatch",
        given.mismatch,
        (z, loc, scale),
        lambda z, *p: (mixed(z, *p) - standard(z)).mean(),
        {
            "This is the whole KL term, information and mismatch.": lambda z, *p: (
                own(z, *p) - standard(z)
            ).mean(),
            "This is the information. The mismatch compares the aggregate with the prior.": lambda *p: (
                own(*p) - mixed(*p)
            ).mean(),
            "The weights 1/n of the images are missing.": lambda z, *p: (
                (mixed(z, *p) - standard(z)).mean() + count
            ),
            "The log density of the prior is missing.": lambda *p: mixed(*p).mean(),
        },
    )
    yield from moment_rows(given, loc, scale)


def moment_rows(given: Any, loc: Tensor, scale: Tensor) -> Iterator[Row]:
    """Yields the rows of the least mismatch, from distant guides, and of the variance."""
    far = 100.0 * torch.arange(7)[:, None]
    one = torch.ones(7, 1)
    most = (Normal(far, one).log_prob(far).sum(-1) - aggregate(far, one).log_prob(far)).mean()
    yield row(
        "least mismatch",
        given.least_mismatch,
        ((10 * positive(7)).detach().requires_grad_(),),
        lambda kl: kl.mean() - most,
        {
            "The sign of log n is wrong: the information is the other part of the KL term.": lambda kl: (
                kl.mean() + math.log(7)
            ),
            "The information is at most log n, not n.": lambda kl: kl.mean() - 7,
            "The KL term also has the information, which is at most log n.": lambda kl: kl.mean(),
            "This is in bits. The KL term is in nats.": lambda kl: kl.mean() - math.log2(7),
            "The mean KL term over the images is needed, not the sum.": lambda kl: kl.sum() - math.log(7),
        },
    )
    yield row(
        "variance of q(z)",
        given.aggregate_variance,
        (loc, scale),
        lambda loc, scale: aggregate(loc, scale).variance,
        {
            "The variance between the guides is missing.": lambda loc, scale: (scale**2).mean(0),
            "The variance of each guide is missing.": lambda loc, scale: loc.var(0, correction=0),
            "The mean of the variances is needed, not the square of the mean scale.": lambda loc, scale: (
                scale.mean(0) ** 2 + loc.var(0, correction=0)
            ),
            "Divide by n, not by n - 1: the mixture has exactly these n guides.": lambda loc, scale: (
                (scale**2).mean(0) + loc.var(0)
            ),
            VARIANCE: lambda loc, scale: scale.mean(0) + loc.var(0, correction=0),
            "This is the mean square. Subtract the square of the mean.": lambda loc, scale: (
                scale**2 + loc**2
            ).mean(0),
        },
    )
