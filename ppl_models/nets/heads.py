"""Heads: how the output of a network becomes the parameters of a distribution, in at least float32."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_models.nets.precision import at_least_float32


def loc_scale(h: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """The two halves of (..., 2 d) as mean and standard deviation, (..., d) each; of maps along `dim` -3.

    The second half stands for the variance, softplus(.) + 1e-8 (the convention of Stanford's CS236), of
    which the square root is returned.
    """
    loc, raw = at_least_float32(h).chunk(2, dim=dim)
    return loc, torch.sqrt(softplus(raw) + 1e-8)


def loc_log_scale(h: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """The two halves of (..., 2 d) as mean and standard deviation, the second given by its logarithm."""
    loc, log_scale = at_least_float32(h).chunk(2, dim=dim)
    return loc, log_scale.exp()
