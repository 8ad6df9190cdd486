"""Fully connected networks."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_models.nets.activations import elu


class MLP(nn.Module):
    """Linear layers with an activation between them.

    The input can be several tensors, which count as one concatenated tensor. Their leading dimensions must
    broadcast. If they differ, the first layer is applied to each part and the results are added, W [x; y] =
    W_x x + W_y y. So x `(batch, 784)` and ten labels y `(10, 1, 10)` give `(10, batch, out_features)`, and
    the product with x is computed once instead of ten times.

    Args:
        in_features: the last dimension of the input, or of each input tensor.
        hidden: the widths of the hidden layers.
        out_features: the last dimension of the output.
        activation: the activation of the hidden layers.
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

    @property
    def output_bias(self) -> Tensor:
        """The bias of the last layer, `(out_features,)`."""
        return cast(nn.Linear, self.layers[-1]).bias

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
        return h.to(inputs[0].dtype)  # also under autocast


class GatedMLP(nn.Module):
    """Two layers of gated linear units and a linear layer: each hidden layer is (W h + b) sigmoid(V h + c).

    The input can be several tensors. Each has a first layer of its own, and the second layer takes the
    concatenation of their outputs. Their leading dimensions must broadcast. The second layer multiplies each
    part separately: x `(batch, d)` once for all particles of z `(particles, batch, d)`.

    Dauphin, Fan, Auli and Grangier 2017 (arXiv 1612.08083). The layers are those of Tomczak and Welling 2018,
    VAE with a VampPrior (arXiv 1705.07120), and so are the gated layers' initial weights, N(0, 2 / inputs).

    Args:
        in_features: the last dimension of each input tensor.
        hidden: the width of the hidden layers.
        out_features: the last dimension of the output.
    """

    def __init__(self, in_features: Sequence[int], hidden: int, out_features: int):
        super().__init__()
        parts = len(in_features)
        self.first = nn.ModuleList(nn.Linear(d, 2 * hidden) for d in in_features)
        self.second = nn.ModuleList(nn.Linear(hidden, 2 * hidden, bias=i == 0) for i in range(parts))
        self.last = nn.Linear(hidden, out_features)
        for layer in (*self.first, *self.second):
            inputs = hidden * parts if layer in self.second else layer.in_features
            nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        gated = [F.glu(layer(part)) for layer, part in zip(self.first, inputs, strict=True)]
        products = [layer(h) for layer, h in zip(self.second, gated, strict=True)]
        h = F.glu(sum(products[1:], products[0]))
        return self.last(h).to(inputs[0].dtype)  # also under autocast


def glorot_(module: nn.Module) -> None:
    """Initialises linear layers for tanh: weights uniform in +-sqrt(6 / (in + out)), biases zero.

    Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
