"""Solution of exercise 26: the aggregate posterior."""

import math

from torch import Tensor

from ppl_models import densities


def log_aggregate(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log q(z), (n,), at the sample of each image."""
    return densities.normal(z[:, None], loc, scale).logsumexp(-1) - math.log(len(loc))


def information(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the estimate, (), of the mutual information of the image's number and its code."""
    return (densities.normal(z, loc, scale) - log_aggregate(z, loc, scale)).mean()


def mismatch(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the estimate, (), of KL(q || p), the part of the KL term that another prior can save."""
    return (log_aggregate(z, loc, scale) - densities.normal(z, 0.0, 1.0)).mean()


def least_mismatch(kl: Tensor) -> Tensor:
    """Returns the smallest KL(q || p), (), that the KL term of each image, (n,), allows."""
    return kl.mean() - math.log(len(kl))


def aggregate_variance(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the variance, (d,), of q(z) in each dimension."""
    return (scale**2).mean(0) + loc.var(0, correction=0)
