"""Solution of exercise 27: posterior collapse."""

from torch import Tensor
from torch.nn.functional import relu


def gain(v: Tensor, s2: Tensor) -> Tensor:
    """Returns how much the best model gains in mean log p(x) against the collapsed one, w = 0, (batch,)."""
    ratio = (v / s2).clamp(min=1)
    return 0.5 * (ratio - 1 - ratio.log())


def determinant(v: Tensor, s2: Tensor) -> Tensor:
    """Returns the determinant, (batch,), of the second derivatives in w and a at w = a = 0, t = 1."""
    return v / s2 * (1 - v / s2)


def weight_slope(v: Tensor, s2: Tensor, a: Tensor, t: Tensor) -> Tensor:
    """Returns the derivative of -ELBO in w at w = 0, (batch,), for any guide."""
    return -a * v / s2


def best_kl(v: Tensor, s2: Tensor, beta: Tensor) -> Tensor:
    """Returns the KL term, (batch,), at the minimum if the KL term has the weight beta."""
    return 0.5 * relu((v / (beta * s2)).log())
