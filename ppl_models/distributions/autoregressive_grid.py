"""Autoregressive distributions over images and maps of codes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.nets.pixelcnn import CausalNetwork

Family = Callable[[Tensor], TorchDistribution]


class AutoregressiveGrid(TorchDistribution):
    """p(x) = prod_i p(x_i | the positions before i, the condition), with events (channels, height, width).

    Args:
        network: a causal network.
        family: a function from the network's outputs `(..., out, h, w)` to a distribution of values
            `(..., channels, h, w)`, for any h and w: `log_prob` calls it for all positions, `sample` for one.
        shape: the event shape, `(channels, height, width)`.
        condition: further inputs of the network, `(..., c, height, width)`.
        batch: the batch shape, if there is no condition.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = False

    def __init__(
        self,
        network: CausalNetwork,
        family: Family,
        shape: Sequence[int],
        condition: Tensor | None = None,
        batch: Sequence[int] = (),
        validate_args: bool | None = None,
    ):
        self.network, self.family, self.condition = network, family, condition
        batch = batch if condition is None else condition.shape[:-3]
        super().__init__(torch.Size(batch), torch.Size(shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 3)  # the family checks its own support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AutoregressiveGrid":
        """Returns the distribution with another batch shape."""
        condition = self.condition
        if condition is not None:
            condition = condition.expand(*batch_shape, *condition.shape[-3:])
        return AutoregressiveGrid(self.network, self.family, self.event_shape, condition, batch_shape, False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of `(..., channels, height, width)`, with the broadcast batch shape."""
        return self.family(self.network(value, self.condition)).log_prob(value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples `(*sample_shape, *batch, channels, height, width)`, one position at a time."""
        shape, condition = (*sample_shape, *self.batch_shape), self.condition
        if condition is not None:
            condition = condition.expand(*shape, *condition.shape[-3:]).flatten(0, len(shape) - 1)
        x = next(self.network.parameters()).new_zeros(math.prod(shape), *self.event_shape)
        for (row, column), raw in self.network.sequential(x, condition):
            x[..., row, column] = self.family(raw[..., None, None]).sample()[..., 0, 0]
        return x.view(*shape, *self.event_shape)
