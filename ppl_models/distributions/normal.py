"""Independent normal pixels with one known scale."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

LOG_2PI = math.log(2 * math.pi)


class NormalImage(TorchDistribution):
    """N(x; loc, scale^2 I) over images as one event, as `Normal(loc, scale).to_event(3)`.

    `log_prob` is faster: it computes the log scale once instead of once per value.

    Args:
        loc: `(..., channels, height, width)`.
        scale: the standard deviation of every value.
    """

    arg_constraints = {"loc": constraints.independent(constraints.real, 3)}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(self, loc: Tensor, scale: float, validate_args: bool | None = None):
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean image, `(..., *shape)`."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of images `(..., *shape)`, with the broadcast batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        error = (value - self.loc).square().sum((-1, -2, -3))
        constant = math.prod(self.event_shape) * (math.log(self.scale) + LOG_2PI / 2)
        return -error / (2 * self.scale**2) - constant

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples images `(*sample_shape, ..., *shape)`."""
        return torch.normal(self.loc.expand(*sample_shape, *self.loc.shape), self.scale)
