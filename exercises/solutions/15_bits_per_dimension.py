"""Solution of exercise 15: bits per dimension, and dequantisation."""

import math

from torch import Tensor


def dequantise(level: Tensor, noise: Tensor) -> Tensor:
    """Returns x, (batch, D). The 256 levels fill the scale from -1 to 1.  level, noise: (batch, D)."""
    return (level + noise) / 128 - 1


def bits_per_dimension(negative_elbo: Tensor, values: int) -> Tensor:
    """Returns the bits per dimension of the levels, (batch,).  negative_elbo: nats, (batch,); values: D."""
    return negative_elbo / (values * math.log(2)) + 7


def bits_of_scale(negative_elbo: Tensor, values: int, width: float) -> Tensor:
    """Returns the same if the 256 levels fill an interval of another width, instead of 2."""
    return negative_elbo / (values * math.log(2)) + math.log2(256 / width)


def bits_of_terms(reconstruction: Tensor, kl: Tensor, values: int) -> Tensor:
    """Returns the bits per dimension on the scale from -1 to 1 from two terms in nats, (batch,) each."""
    return (reconstruction + kl) / (values * math.log(2)) + 7
