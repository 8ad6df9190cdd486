"""A masked fully connected network, whose outputs see only the inputs that come before them."""

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedMLP(nn.Module):
    """A network of n inputs and n outputs, of which output i sees the inputs before i in an ordering alone.

    Every unit has a number: an input its place in the ordering, 1 to n, a hidden unit any number from 1 to
    n - 1. A connection survives where it leads to a number at least as large, in the last layer to one that
    is larger: so no path leads from an input to an output at its own place, or at an earlier one.

    There may be several sets of numbers, drawn once from `seed`; the parameters serve them all. Hidden
    layers have rectified linear units.

    Germain, Gregor, Murray and Larochelle 2015, MADE (arXiv 1502.03509), equations 8 to 13.
    """

    def __init__(
        self, n: int, hidden: Sequence[int], random_order: bool = False, masks: int = 1, seed: int = 0
    ):
        super().__init__()
        widths = [n, *hidden, n]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.masks = masks
        generator = torch.Generator().manual_seed(seed)
        for index in range(masks):
            order = torch.randperm(n, generator=generator) if random_order else torch.arange(n)
            middle = [torch.randint(1, max(n, 2), (width,), generator=generator) for width in hidden]
            units = [order + 1, *middle, order + 1]
            for layer, number in enumerate(units):
                self.register_buffer(f"units_{index}_{layer}", number, persistent=False)
            for layer, (a, b) in enumerate(itertools.pairwise(units)):
                mask = b[:, None] >= a if layer < len(hidden) else b[:, None] > a
                self.register_buffer(f"mask_{index}_{layer}", mask, persistent=False)

    def units(self, index: int = 0) -> list[Tensor]:
        """The numbers of every layer's units in one set, inputs and outputs included: (width,) each."""
        return [self.get_buffer(f"units_{index}_{layer}") for layer in range(len(self.layers) + 1)]

    def connections(self, index: int = 0) -> list[Tensor]:
        """Which connections survive in one set, layer by layer: (out, in), true or false."""
        return [self.get_buffer(f"mask_{index}_{layer}") for layer in range(len(self.layers))]

    def forward(self, x: Tensor, index: int = 0) -> Tensor:
        """(..., n) to (..., n), by one set of masks."""
        for i, (module, mask) in enumerate(zip(self.layers, self.connections(index), strict=True)):
            layer = cast(nn.Linear, module)
            x = F.linear(torch.relu(x) if i else x, layer.weight * mask, layer.bias)
        return x
