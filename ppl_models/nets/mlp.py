"""Fully connected networks."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_models.nets.activations import elu


class MLP(nn.Module):
    """Linear layers with an activation between them: FC(in, hidden), activation, ..., FC(hidden, out).

    The input may come as several tensors, (..., in_features[i]) each, which count as one laid end to end.
    The leading dimensions need only broadcast: where they differ the first layer, which is linear, is applied
    to each part alone and the results are added, W [x; y] = W_x x + W_y y. So x (batch, 784) beside ten
    labels y (10, 1, 10) gives (10, batch, out), and the product with x is computed once, not ten times.
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        hidden: Sequence[int],
        out_features: int,
        activation: Callable[[Tensor], Tensor] = elu,
    ):
        super().__init__()
        self.in_features = [in_features] if isinstance(in_features, int) else list(in_features)
        widths = [sum(self.in_features), *hidden, out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.activation = activation

    def forward(self, *inputs: Tensor) -> Tensor:
        first, *rest = cast(Iterable[nn.Linear], self.layers)
        if len({part.shape[:-1] for part in inputs}) == 1:
            h = first(torch.cat(inputs, dim=-1) if len(inputs) > 1 else inputs[0])
        else:
            weights = first.weight.split(self.in_features, dim=1)
            h = F.linear(inputs[0], weights[0], first.bias)
            for part, weight in zip(inputs[1:], weights[1:], strict=True):
                h = h + F.linear(part, weight)
        for layer in rest:
            h = layer(self.activation(h))
        return h.to(inputs[0].dtype)  # also where autocast works in another precision
