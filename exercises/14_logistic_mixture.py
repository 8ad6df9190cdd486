"""Exercise 14: the discretised mixture of logistics.

Read docs/derivations/14-discretised-logistic-mixture.md. Then replace each TODO and run

    python -m exercises.check 14

A pixel has one of 256 levels x_k = 2 k / 255 - 1, k = 0, ..., 255. The bin of a level reaches from x - 1/255
to x + 1/255. Its probability is the mass that a logistic distribution puts there, with the distribution
function

    F(t) = sigmoid((t - loc) / scale)

The first level has all the mass below it too, and the last level all the mass above it. Use torch only.
"""

import torch
from torch import Tensor

from exercises import TODO


def inner(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(x), (batch,), of inner levels x, from -1 to 1 without the ends.  loc, scale: (batch,)."""
    return TODO  # the mass between the two borders


def first(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(-1), (batch,), of the first level."""
    return TODO  # all the mass below the upper border


def last(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(1), (batch,), of the last level."""
    return TODO  # all the mass above the lower border


def mixture(x: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(x), (batch,), of a mixture of M logistics, for inner levels x (batch,).

    The weights of the components are softmax(logits).  logits, loc, scale: (batch, M).
    """
    each = inner(x[:, None], loc, scale)  # of each component, (batch, M)
    return TODO  # the logarithm of the weighted mean
