"""A mixture of many diagonal normals with equal weights, evaluated by matrix products."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import linear

from ppl_models.nets.precision import full_precision

LOG_2PI = math.log(2 * math.pi)


class MixtureOfNormals(TorchDistribution):
    """p(z) = 1/k sum_i N(z; loc_i, diag scale_i^2), an event of d dimensions; loc and scale (k, d).

    The quadratic form is expanded, sum_d (z - loc)^2 / scale^2 = z^2 . a - 2 z . (a loc) + loc^2 . a with
    a = 1 / scale^2, so that all k components are two matrix products (batch, d) x (d, k), where the direct
    form fills a tensor (batch, k, d). What cancels in it grows with the distance from the origin: z and the
    components are taken from the components' centre first.
    """

    arg_constraints = {"loc": constraints.independent(constraints.real, 2)}
    support = constraints.independent(constraints.real, 1)
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None):
        self.loc, self.scale = loc, scale
        super().__init__(torch.Size(), loc.shape[-1:], validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) for value (..., d): (...)."""
        if self._validate_args:
            self._validate_sample(value)
        k, d = self.loc.shape
        with full_precision(value, self.loc, self.scale) as (z, loc, scale):
            centre = loc.mean(0)
            z, loc, a = z - centre, loc - centre, scale**-2
            log_scale = scale.log().sum(-1)
            constant = -0.5 * ((loc**2 * a).sum(-1) + d * LOG_2PI) - log_scale  # (k,)
            rows = torch.cat([z**2, z], dim=-1)  # (..., 2 d)
            columns = torch.cat([-0.5 * a, a * loc], dim=-1)  # (k, 2 d)
            return linear(rows, columns, constant).logsumexp(-1) - math.log(k)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A component at random, then a normal draw from it: (*sample_shape, d)."""
        index = torch.randint(len(self.loc), tuple(sample_shape), device=self.loc.device)
        return torch.normal(self.loc[index], self.scale[index])
