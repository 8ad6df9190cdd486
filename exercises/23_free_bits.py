"""Exercise 23: free bits.

Read docs/derivations/17-free-bits.md. Then replace each TODO and run

    python -m exercises.check 23

The objective is J = R + max(G, floor), in nats. R is the mean reconstruction term, G the mean KL term. The
last two functions are about the linear model of the page: data of variance v, a decoder with noise variance
s2, and the smallest reconstruction term R*(G) that a KL term of G allows.
"""

import torch
from torch import Tensor
from torch.nn.functional import relu

from exercises import TODO


def penalty(kl: Tensor, floor: float) -> Tensor:
    """Returns the penalty, (), that turns R + G into J.  kl: the KL term of each data point, (batch,)."""
    return TODO  # zero if the mean is above the floor


def objective(reconstruction: Tensor, kl: Tensor, floor: float) -> Tensor:
    """Returns J, (), from the two terms of each data point, (batch,)."""
    return TODO  # the bound and its penalty


def best_kl(v: Tensor, s2: Tensor, floor: float) -> Tensor:
    """Returns the KL term, (batch,), at the minimum of J.  v, s2: variances, (batch,), v may be below s2."""
    return TODO  # the minimum without free bits, or the floor


def kl_weight(v: Tensor, s2: Tensor, floor: float) -> Tensor:
    """Returns the weight beta, (batch,), for which R*(G) + beta G has its minimum at G = floor.

    v, s2: variances, (batch,), whose minimum without free bits is below the floor.
    """
    return TODO  # minus the slope of R* at the floor
