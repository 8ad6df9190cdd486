"""Solution of exercise 21: find the bug in bits per dimension."""

import math

from torch import Tensor


def dequantise(level: Tensor, noise: Tensor) -> Tensor:
    """Returns x = level + noise on a scale from -1 to 1, which the 256 levels fill, (batch, D).

    level: (batch, D); noise: uniform on [0, 1), (batch, D).
    """
    return (level + noise) / 128 - 1


def bits_per_dimension(negative_elbo: Tensor, values: int) -> Tensor:
    """Returns the bits per dimension of the levels, (batch,).  negative_elbo: nats, (batch,); values: D."""
    return negative_elbo / (values * math.log(2)) + math.log2(128)
