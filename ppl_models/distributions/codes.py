"""Maps of vectors out of a codebook, all equally likely."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.nets.codebook import Codebook


class UniformCodes(TorchDistribution):
    """Each place of a map (d, height, width), one event, is any entry of the codebook with probability 1 / k.

    A value is taken to be made of entries; that it is so is not looked into.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self,
        codebook: Codebook,
        grid: tuple[int, int],
        batch: tuple[int, ...] = (),
        validate_args: bool | None = None,
    ):
        self.codebook, self.grid = codebook, grid
        d = codebook.entries.shape[1]
        super().__init__(torch.Size(batch), torch.Size((d, *grid)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "UniformCodes":
        """The same over more maps."""
        return UniformCodes(self.codebook, self.grid, tuple(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """-places log k for each map (..., d, height, width): (...)."""
        codes = len(self.codebook.entries)
        return value.new_full(value.shape[:-3], -math.prod(self.grid) * math.log(codes))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Maps (*sample_shape, *batch, d, height, width)."""
        entries = self.codebook.entries
        shape = (*sample_shape, *self.batch_shape, *self.grid)
        return self.codebook.look_up(torch.randint(len(entries), shape, device=entries.device))
