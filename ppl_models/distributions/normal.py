"""Images of normal values that share one known scale."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

LOG_2PI = math.log(2 * math.pi)


class NormalImage(TorchDistribution):
    """N(x; loc, scale^2 I) over an image (channels, height, width) as one event; loc (..., *shape).

    What `Normal(loc, scale).to_event(3)` is, with a `log_prob` that squares a difference and no more:
    Normal makes a variance and a logarithm for every value, though all are the same number.
    """

    arg_constraints = {"loc": constraints.independent(constraints.real, 3)}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(self, loc: Tensor, scale: float, validate_args: bool | None = None):
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) of images (..., *shape), in the shape their batch broadcasts to."""
        if self._validate_args:
            self._validate_sample(value)
        error = (value - self.loc).square().sum((-1, -2, -3))
        constant = math.prod(self.event_shape) * (math.log(self.scale) + LOG_2PI / 2)
        return -error / (2 * self.scale**2) - constant

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Images (*sample_shape, ..., *shape)."""
        return torch.normal(self.loc.expand(*sample_shape, *self.loc.shape), self.scale)
