"""Heads: functions from the output of a network to the parameters of a distribution."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

# The standard deviations of a Normal likelihood are at least this. Without a bound the density of a column
# with repeated values has no maximum. Columns are standardised, so that it is a hundredth of their own.
MIN_SCALE = 0.01


def loc_scale(h: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Splits an output into a mean and a standard deviation sqrt(softplus(.) + 1e-8).

    The parameterisation of the variance is that of Stanford's CS236.

    Args:
        h: `(..., 2 * d)`.
        dim: the dimension to split; -3 for maps `(..., 2 * channels, height, width)`.

    Returns:
        loc and scale, `(..., d)` each.
    """
    loc, raw = h.chunk(2, dim=dim)
    return loc, torch.sqrt(softplus(raw) + 1e-8)


def loc_log_scale(h: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Splits an output into a mean and a standard deviation exp(.), with the shapes of `loc_scale`."""
    loc, log_scale = h.chunk(2, dim=dim)
    return loc, log_scale.exp()


def bounded_scale(log_scale: Tensor) -> Tensor:
    """Returns standard deviations exp(log_scale) + `MIN_SCALE`, of the same shape."""
    return MIN_SCALE + log_scale.exp()


def loc_bounded_scale(h: Tensor) -> tuple[Tensor, Tensor]:
    """Splits an output into a mean and a standard deviation, whose log variance is limited to [-6, 2].

    The limits are those of the code of Tomczak and Welling 2018, VAE with a VampPrior.
    """
    loc, log_variance = h.chunk(2, dim=-1)
    return loc, (0.5 * log_variance.clamp(-6, 2)).exp()
