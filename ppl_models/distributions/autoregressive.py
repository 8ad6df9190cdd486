"""Autoregressive distributions over binary images."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.distributions.bernoulli import BernoulliImage


class AutoregressiveImage(TorchDistribution):
    """p(x) = 1/k sum_j prod_i p_j(x_i | the pixels before i in the j-th ordering).

    Args:
        networks: k functions from pixels `(..., n)` to logits `(..., n)`. The logit of a pixel must depend
            only on the pixels before it in the function's ordering.
        orders: the position of each pixel in each ordering, 0 to n - 1, `(k, n)`.
        shape: the shape of an image, the event shape.
        dtype: the dtype of the networks.
        batch: the batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = False

    def __init__(
        self,
        networks: Sequence[Callable[[Tensor], Tensor]],
        orders: Tensor,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        batch: Sequence[int] = (),
        validate_args: bool | None = None,
    ):
        self.networks, self.orders, self.dtype = list(networks), orders, dtype
        super().__init__(torch.Size(batch), torch.Size(shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AutoregressiveImage":
        """Returns the distribution with another batch shape."""
        return AutoregressiveImage(
            self.networks, self.orders, self.event_shape, self.dtype, batch_shape, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of images of zeros and ones `(..., *shape)`, `(...)`."""
        if self._validate_args:
            self._validate_sample(value)
        pixels = value.flatten(-len(self.event_shape))
        each = [BernoulliImage(net(pixels), self.event_shape).log_prob(value) for net in self.networks]
        if len(each) == 1:
            return each[0]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples images `(*sample_shape, *batch, *shape)` pixel by pixel, each in a random ordering."""
        shape = (*sample_shape, *self.batch_shape)
        n, pixels = math.prod(shape), math.prod(self.event_shape)
        ordering = torch.randint(len(self.networks), (n,), device=self.orders.device)
        x = torch.zeros(n, pixels, dtype=self.dtype, device=self.orders.device)
        for j, net in enumerate(self.networks):
            rows = (ordering == j).nonzero()[:, 0]
            part = x[rows]
            for pixel in self.orders[j].argsort().tolist() if len(rows) else ():
                part[:, pixel] = net(part)[:, pixel].sigmoid().bernoulli()
            x[rows] = part
        return x.view(*shape, *self.event_shape)
