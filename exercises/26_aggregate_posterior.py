"""Exercise 26: the aggregate posterior.

Read docs/derivations/20-aggregate-posterior.md. Then replace each TODO and run

    python -m exercises.check 26

The guide of image n is q_n(z) = N(z; loc_n, diag scale_n^2), with loc, scale (n, d). The aggregate posterior
q(z) is the mean of all q_n, and the prior is p(z) = N(z; 0, I). z (n, d) has one sample for each image,
z_n ~ q_n. Logarithms and KL terms are in nats. You may use densities.normal(x, loc, scale), which is
log N(x; loc, diag scale^2), summed over the last axis.
"""

import math

from torch import Tensor

from exercises import TODO
from ppl_models import densities


def log_aggregate(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log q(z), (n,), at the sample of each image."""
    return TODO  # each sample, under the guides of all images


def information(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the estimate, (), of the mutual information of the image's number and its code."""
    return TODO  # a mean over the images


def mismatch(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the estimate, (), of KL(q || p), the part of the KL term that another prior can save."""
    return TODO  # a mean over the images


def least_mismatch(kl: Tensor) -> Tensor:
    """Returns the smallest KL(q || p), (), that the KL term of each image, (n,), allows."""
    return TODO  # how large can the mutual information be?


def aggregate_variance(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the variance, (d,), of q(z) in each dimension."""
    return TODO  # of the guides, and between them
