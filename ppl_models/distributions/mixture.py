"""The equally weighted mixture of diagonal normals, evaluated with matrix products."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import linear

LOG_2PI = math.log(2 * math.pi)


class MixtureOfNormals(TorchDistribution):
    """p(z) = 1/k sum_i N(z; loc_i, diag scale_i^2), with events of d dimensions.

    `log_prob` expands the quadratic form, sum_d (z - loc)^2 / scale^2 = z^2 . a - 2 z . (a loc) + loc^2 . a
    with a = 1 / scale^2. So all k components are one matrix product instead of a tensor `(batch, k, d)`. The
    cancellation error grows with the distance from the origin: the mean of the locs is subtracted first.

    Args:
        loc: the components' means, `(k, d)`.
        scale: the components' standard deviations, `(k, d)`.
    """

    arg_constraints = {"loc": constraints.independent(constraints.real, 2)}
    support = constraints.independent(constraints.real, 1)
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None):
        self.loc, self.scale = loc, scale
        super().__init__(torch.Size(), loc.shape[-1:], validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of `(..., d)`, `(...)`."""
        if self._validate_args:
            self._validate_sample(value)
        k, d = self.loc.shape
        centre = self.loc.mean(0)
        z, loc, a = value - centre, self.loc - centre, self.scale**-2
        log_scale = self.scale.log().sum(-1)
        constant = -0.5 * ((loc**2 * a).sum(-1) + d * LOG_2PI) - log_scale  # (k,)
        rows = torch.cat([z**2, z], dim=-1)  # (..., 2 d)
        columns = torch.cat([-0.5 * a, a * loc], dim=-1)  # (k, 2 d)
        return linear(rows, columns, constant).logsumexp(-1) - math.log(k)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples a component, then a value of it, `(*sample_shape, d)`."""
        index = torch.randint(len(self.loc), tuple(sample_shape), device=self.loc.device)
        return torch.normal(self.loc[index], self.scale[index])
