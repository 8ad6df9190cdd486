"""Solution of exercise 23: free bits."""

import torch
from torch import Tensor
from torch.nn.functional import relu


def penalty(kl: Tensor, floor: float) -> Tensor:
    """Returns the penalty, (), that turns R + G into J.  kl: the KL term of each data point, (batch,)."""
    return relu(floor - kl.mean())


def objective(reconstruction: Tensor, kl: Tensor, floor: float) -> Tensor:
    """Returns J, (), from the two terms of each data point, (batch,)."""
    return reconstruction.mean() + kl.mean() + penalty(kl, floor)


def best_kl(v: Tensor, s2: Tensor, floor: float) -> Tensor:
    """Returns the KL term, (batch,), at the minimum of J.  v, s2: variances, (batch,), v may be below s2."""
    without = relu(0.5 * (v / s2).log())
    return without.clamp(min=floor)


def kl_weight(v: Tensor, s2: Tensor, floor: float) -> Tensor:
    """Returns the weight beta, (batch,), for which R*(G) + beta G has its minimum at G = floor.

    v, s2: variances, (batch,), whose minimum without free bits is below the floor.
    """
    return v / s2 * torch.tensor(-2 * floor).exp()
