"""Solution of exercise 14: the discretised mixture of logistics."""

import torch
from torch import Tensor


def inner(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(x), (batch,), of inner levels x, from -1 to 1 without the ends.  loc, scale: (batch,)."""
    upper, lower = (x + 1 / 255 - loc) / scale, (x - 1 / 255 - loc) / scale
    return (upper.sigmoid() - lower.sigmoid()).log()


def first(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(-1), (batch,), of the first level."""
    return ((-1 + 1 / 255 - loc) / scale).sigmoid().log()


def last(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(1), (batch,), of the last level."""
    return (1 - ((1 - 1 / 255 - loc) / scale).sigmoid()).log()


def mixture(x: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log P(x), (batch,), of a mixture of M logistics, for inner levels x (batch,).

    The weights of the components are softmax(logits).  logits, loc, scale: (batch, M).
    """
    each = inner(x[:, None], loc, scale)  # of each component, (batch, M)
    return torch.logsumexp(logits.log_softmax(-1) + each, -1)
