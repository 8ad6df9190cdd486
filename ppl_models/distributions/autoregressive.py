"""Autoregressive distributions over binary images and over vectors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.distributions.bernoulli import BernoulliImage
from ppl_models.nets.heads import bounded_scale


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
        return type(self)(
            self.networks, self.orders, self.event_shape, self.dtype, batch_shape, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of images of zeros and ones `(..., *shape)`, `(...)`."""
        if self._validate_args:
            self._validate_sample(value)
        pixels = value.flatten(-len(self.event_shape))
        each = [self._conditionals(net(pixels)).log_prob(value) for net in self.networks]
        if len(each) == 1:
            return each[0]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def _conditionals(self, outputs: Tensor) -> TorchDistribution:
        """Returns the distribution of all pixels given the pixels before them, from a network's outputs."""
        return BernoulliImage(outputs, self.event_shape)

    def _sample_pixel(self, outputs: Tensor, pixel: int) -> Tensor:
        """Samples one pixel given the pixels before it, `(n,)`, from the outputs `(n, outputs)`."""
        return outputs[:, pixel].sigmoid().bernoulli()

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
                part[:, pixel] = self._sample_pixel(net(part), pixel)
            x[rows] = part
        return x.view(*shape, *self.event_shape)


class AutoregressiveVector(AutoregressiveImage):
    """p(x) = 1/k sum_j prod_i N(x_i; loc_j(x)_i, scale_j(x)_i^2) of vectors `(d,)`, in the j-th ordering.

    The arguments are those of `AutoregressiveImage`. A function's outputs `(..., 2 d)` are the means and the
    values that `bounded_scale` converts to standard deviations.
    """

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 1)

    def _conditionals(self, outputs: Tensor) -> TorchDistribution:
        loc, log_scale = outputs.chunk(2, dim=-1)
        return Normal(loc, bounded_scale(log_scale)).to_event(1)

    def _sample_pixel(self, outputs: Tensor, pixel: int) -> Tensor:
        loc, log_scale = outputs.chunk(2, dim=-1)
        return torch.normal(loc[:, pixel], bounded_scale(log_scale[:, pixel]))
