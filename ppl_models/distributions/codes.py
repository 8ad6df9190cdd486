"""The uniform distribution over maps of codebook entries."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.nets.codebook import Quantizer


class UniformCodes(TorchDistribution):
    """Each position of a map (d, height, width) is one of the k codebook entries with probability 1 / k.

    `log_prob` does not check that a value consists of entries.

    Args:
        codebook: the entries, learned or a grid.
        grid: height and width of a map.
        batch: the batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self,
        codebook: Quantizer,
        grid: tuple[int, int],
        batch: tuple[int, ...] = (),
        validate_args: bool | None = None,
    ):
        self.codebook, self.grid = codebook, grid
        d = codebook.entries.shape[1]
        super().__init__(torch.Size(batch), torch.Size((d, *grid)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "UniformCodes":
        """Returns the distribution with another batch shape."""
        return UniformCodes(self.codebook, self.grid, tuple(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns -height width log k for maps `(..., d, height, width)`, `(...)`."""
        codes = len(self.codebook.entries)
        return value.new_full(value.shape[:-3], -math.prod(self.grid) * math.log(codes))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples maps `(*sample_shape, *batch, d, height, width)`."""
        entries = self.codebook.entries
        shape = (*sample_shape, *self.batch_shape, *self.grid)
        return self.codebook.lookup(torch.randint(len(entries), shape, device=entries.device))
