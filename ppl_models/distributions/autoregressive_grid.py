"""Images, or maps of codes, whose places come one after another."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.nets.pixelcnn import Causal

Family = Callable[[Tensor], TorchDistribution]


class AutoregressiveGrid(TorchDistribution):
    """p(x) = prod_i p(x_i | the places before i, the condition), over x (channels, height, width), one event.

    `family` makes of the network's outputs (..., out, h, w) a distribution of values (..., channels, h, w),
    whatever h and w are: of all places at once where the values are known, of one at a time where they are
    drawn. `condition` (..., c, height, width) is what the network is told besides.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = False

    def __init__(
        self,
        network: Causal,
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
        return constraints.independent(constraints.real, 3)  # the family knows better, and checks

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AutoregressiveGrid":
        """The same over more images."""
        condition = self.condition
        if condition is not None:
            condition = condition.expand(*batch_shape, *condition.shape[-3:])
        return AutoregressiveGrid(self.network, self.family, self.event_shape, condition, batch_shape, False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) of images (..., channels, height, width), in the shape their batch broadcasts to."""
        return self.family(self.network(value, self.condition)).log_prob(value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Images (*sample_shape, *batch, channels, height, width), a place after another."""
        shape, condition = (*sample_shape, *self.batch_shape), self.condition
        if condition is not None:
            condition = condition.expand(*shape, *condition.shape[-3:]).flatten(0, len(shape) - 1)
        x = next(self.network.parameters()).new_zeros(math.prod(shape), *self.event_shape)
        for (row, column), raw in self.network.along(x, condition):
            x[..., row, column] = self.family(raw[..., None, None]).sample()[..., 0, 0]
        return x.view(*shape, *self.event_shape)
