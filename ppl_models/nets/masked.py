"""A masked fully connected network, whose outputs depend only on the inputs before them."""

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedMLP(nn.Module):
    """A network from n inputs to n outputs: each output depends only on the inputs before it in an ordering.

    Every unit has a degree: an input or output its position in the ordering, from 1 to n, a hidden unit a
    random number from 1 to n - 1. The mask keeps a connection if the degree does not decrease, in the last
    layer if it increases. So no path leads from an input to an output with the same or a lower degree.
    Germain, Gregor, Murray and Larochelle 2015, MADE (arXiv 1502.03509), equations 8 to 13.

    The hidden layers use ReLU. Several sets of masks share the parameters. The constructor samples the
    degrees with torch's global generator. `state_dict` holds the degrees, from which the masks follow. A
    state without degrees is from an older version, which sampled them with seed 0: loading samples the same.

    Args:
        n: the number of inputs.
        hidden: the widths of the hidden layers.
        random_order: whether the ordering is random; otherwise it is that of the inputs.
        masks: the number of sets of masks.
        outputs: the number k of outputs per input. The k n outputs are k vectors of n.
    """

    def __init__(
        self, n: int, hidden: Sequence[int], random_order: bool = False, masks: int = 1, outputs: int = 1
    ):
        super().__init__()
        self.widths, self.random_order = [n, *hidden], random_order
        self.masks, self.outputs = masks, outputs
        for layer, degrees in enumerate(self._sample_degrees()):
            self.register_buffer(f"units_{layer}", degrees)
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in itertools.pairwise([*self.widths, n * outputs])
        )
        for index in range(masks):
            for layer, mask in enumerate(self._masks(index)):
                self.register_buffer(f"mask_{index}_{layer}", mask, persistent=False)

    def _sample_degrees(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """Samples the degrees of the inputs and of each hidden layer's units, `(masks, width)` each."""
        n, *hidden = self.widths
        sets = []
        for _ in range(self.masks):
            order = torch.randperm(n, generator=generator) if self.random_order else torch.arange(n)
            sets.append(
                [order + 1, *(torch.randint(1, max(n, 2), (h,), generator=generator) for h in hidden)]
            )
        return [torch.stack(degrees).int() for degrees in zip(*sets, strict=True)]

    def _masks(self, index: int) -> list[Tensor]:
        """Computes one set of masks from the degrees, `(out, in)` per layer."""
        *inner, last = itertools.pairwise(self.degrees(index))
        masks = [*(b[:, None] >= a for a, b in inner), last[1][:, None] > last[0]]
        return [mask.to(torch.get_default_dtype()) for mask in masks]  # faster than booleans in a product

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}layers.0.weight" in state_dict and f"{prefix}units_0" not in state_dict:
            for layer, degrees in enumerate(self._sample_degrees(torch.Generator().manual_seed(0))):
                state_dict[f"{prefix}units_{layer}"] = degrees
        super()._load_from_state_dict(state_dict, prefix, *args)
        for index in range(self.masks):
            for mask, loaded in zip(self.connections(index), self._masks(index), strict=True):
                mask.copy_(loaded)

    def degrees(self, index: int = 0) -> list[Tensor]:
        """Returns the degrees of the inputs, hidden units and outputs in one set, `(width,)` per layer."""
        degrees = [self.get_buffer(f"units_{layer}")[index] for layer in range(len(self.widths))]
        return [*degrees, degrees[0].repeat(self.outputs)]

    def connections(self, index: int = 0) -> list[Tensor]:
        """Returns one set of masks, zeros and ones, `(out, in)` per layer."""
        return [self.get_buffer(f"mask_{index}_{layer}") for layer in range(len(self.widths))]

    def forward(self, x: Tensor, index: int = 0) -> Tensor:
        """Maps `(..., n)` to `(..., outputs * n)` with one set of masks, in the dtype of x."""
        h = x
        for i, (module, mask) in enumerate(zip(self.layers, self.connections(index), strict=True)):
            layer = cast(nn.Linear, module)
            h = F.linear(torch.relu(h) if i else h, layer.weight * mask, layer.bias)
        return h.to(x.dtype)
