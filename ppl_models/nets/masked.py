"""A masked fully connected network, whose outputs see only the inputs that come before them."""

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedMLP(nn.Module):
    """A network of n inputs and n outputs, of which output i sees the inputs before i in an ordering alone.

    Every unit has a number: an input its place in the ordering, 1 to n, a hidden unit any number from 1 to
    n - 1. A connection survives where it leads to a number at least as large, in the last layer to one that
    is larger: so no path leads from an input to an output at its own place, or at an earlier one.

    There may be several sets of numbers; the parameters serve them all. The constructor samples them from
    torch's global generator, as it samples the parameters. `state_dict` holds the numbers and not the masks,
    which follow from them. A state without numbers is of a version that sampled them from a generator of its
    own with seed 0: loading it restores those. Hidden layers have rectified linear units.

    Germain, Gregor, Murray and Larochelle 2015, MADE (arXiv 1502.03509), equations 8 to 13.
    """

    def __init__(self, n: int, hidden: Sequence[int], random_order: bool = False, masks: int = 1):
        super().__init__()
        self.widths, self.random_order, self.masks = [n, *hidden], random_order, masks
        for layer, numbers in enumerate(self._sample_numbers()):
            self.register_buffer(f"units_{layer}", numbers)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise([*self.widths, n]))
        for index in range(masks):
            for layer, mask in enumerate(self._masks(index)):
                self.register_buffer(f"mask_{index}_{layer}", mask, persistent=False)

    def _sample_numbers(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """The numbers of the inputs and of each hidden layer's units, (masks, width) each."""
        n, *hidden = self.widths
        sets = []
        for _ in range(self.masks):
            order = torch.randperm(n, generator=generator) if self.random_order else torch.arange(n)
            sets.append(
                [order + 1, *(torch.randint(1, max(n, 2), (h,), generator=generator) for h in hidden)]
            )
        return [torch.stack(numbers).int() for numbers in zip(*sets, strict=True)]

    def _masks(self, index: int) -> list[Tensor]:
        """Which connections survive in one set, from the numbers: (out, in) for each layer."""
        *inner, last = itertools.pairwise(self.units(index))
        return [*(b[:, None] >= a for a, b in inner), last[1][:, None] > last[0]]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}layers.0.weight" in state_dict and f"{prefix}units_0" not in state_dict:
            for layer, numbers in enumerate(self._sample_numbers(torch.Generator().manual_seed(0))):
                state_dict[f"{prefix}units_{layer}"] = numbers
        super()._load_from_state_dict(state_dict, prefix, *args)
        for index in range(self.masks):
            for mask, loaded in zip(self.connections(index), self._masks(index), strict=True):
                mask.copy_(loaded)

    def units(self, index: int = 0) -> list[Tensor]:
        """The numbers of every layer's units in one set, inputs and outputs included: (width,) each."""
        numbers = [self.get_buffer(f"units_{layer}")[index] for layer in range(len(self.widths))]
        return [*numbers, numbers[0]]

    def connections(self, index: int = 0) -> list[Tensor]:
        """Which connections survive in one set, layer by layer: (out, in), true or false."""
        return [self.get_buffer(f"mask_{index}_{layer}") for layer in range(len(self.widths))]

    def forward(self, x: Tensor, index: int = 0) -> Tensor:
        """(..., n) to (..., n), by one set of masks, in the precision of x, also under autocast."""
        h = x
        for i, (module, mask) in enumerate(zip(self.layers, self.connections(index), strict=True)):
            layer = cast(nn.Linear, module)
            h = F.linear(torch.relu(h) if i else h, layer.weight * mask, layer.bias)
        return h.to(x.dtype)
