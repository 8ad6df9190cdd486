"""Exercise 15: bits per dimension, and dequantisation.

Read docs/derivations/15-bits-per-dimension.md. Then replace each TODO and run

    python -m exercises.check 15

An image has D values, each a level k from 0 to 255. Noise a, uniform on [0, 1), makes it a real number k + a.
The model sees x, which is k + a on a scale from -1 to 1, and gives a bound -ELBO(x) in nats for the density
of x.
"""

import math

from torch import Tensor

from exercises import TODO


def dequantise(level: Tensor, noise: Tensor) -> Tensor:
    """Returns x, (batch, D). The 256 levels fill the scale from -1 to 1.  level, noise: (batch, D)."""
    return TODO  # how wide is a level on this scale?


def bits_per_dimension(negative_elbo: Tensor, values: int) -> Tensor:
    """Returns the bits per dimension of the levels, (batch,).  negative_elbo: nats, (batch,); values: D."""
    return TODO  # from nats to bits, and from x to levels


def bits_of_scale(negative_elbo: Tensor, values: int, width: float) -> Tensor:
    """Returns the same if the 256 levels fill an interval of another width, instead of 2."""
    return TODO  # the constant depends on the width


def bits_of_terms(reconstruction: Tensor, kl: Tensor, values: int) -> Tensor:
    """Returns the bits per dimension on the scale from -1 to 1 from two terms in nats, (batch,) each."""
    return TODO  # which terms are converted to bits?
