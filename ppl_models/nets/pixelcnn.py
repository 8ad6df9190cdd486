"""Causal networks over a grid: the output at a position depends only on the positions before it.

The order is row by row from the left. `forward` computes all outputs at once; `sequential` computes the same
outputs one position at a time, for sampling, and caches what later positions need.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import glu, linear, pad

from ppl_models.nets.activations import gate
from ppl_models.nets.conv import channels_last


class CausalNetwork(nn.Module):
    """A network over a grid whose output at a position depends only on the positions before it.

    The output has the dtype of the parameters, also for integer codes and under autocast.
    """

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Computes the outputs at all positions.

        Args:
            x: `(..., channels, height, width)`.
            condition: further inputs at each position, `(..., c, height, width)`; its leading dimensions must
                broadcast with those of x.

        Returns:
            `(..., out, height, width)`.
        """
        raise NotImplementedError

    def sequential(
        self, x: Tensor, condition: Tensor | None = None
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Computes the outputs one position at a time.

        The caller writes the value of a position into x before it asks for the next position.

        Args:
            x: `(n, channels, height, width)`.
            condition: `(n, c, height, width)`.

        Yields:
            The row and column of a position, and the output there, `(n, out)`.
        """
        raise NotImplementedError


class PixelCNN(CausalNetwork):
    """A gated PixelCNN, from `(..., channels, height, width)` to `(..., out, height, width)`.

    With a receptive field r, the output at a position depends on the r rows above it, from r columns to its
    left to r columns to its right, and on the r positions to its left. A vertical stack of r layers covers
    the rows above and a horizontal stack the row itself, so that the receptive field has no blind spot.

    Van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders (arXiv 1606.05328).

    Args:
        channels: the channels of x.
        width: the channels of each layer.
        out: the channels of the output.
        receptive_field: r, the number of layers.
        codes: if not 0, x has one channel of integers below `codes`, which are embedded first.
        condition: the channels of the condition, which every layer receives; 0 for none.
    """

    def __init__(
        self, channels: int, width: int, out: int, receptive_field: int, codes: int = 0, condition: int = 0
    ):
        super().__init__()
        self.embedding = nn.Embedding(codes, width) if codes else None
        inputs = width if codes else channels
        self.layers = nn.ModuleList(
            PixelCNNLayer(width if i else inputs, width, condition, first=i == 0)
            for i in range(receptive_field)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, out, 1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        lead = x.shape[:-3]
        if condition is not None:
            lead = torch.broadcast_shapes(lead, condition.shape[:-3])
            condition = channels_last(
                condition.expand(*lead, *condition.shape[-3:]).flatten(0, len(lead) - 1)
            )
        v = h = self._embed(channels_last(x.expand(*lead, *x.shape[-3:]).flatten(0, len(lead) - 1)))
        for layer in self.layers:
            v, h = layer(v, h, condition)
        return self.head(h).unflatten(0, lead).to(self.dtype)

    def _embed(self, x: Tensor) -> Tensor:
        """Returns the input of the first layer for values `(n, channels, ...)`."""
        return x if self.embedding is None else self.embedding(x[:, 0].long()).movedim(-1, 1)

    def sequential(
        self, x: Tensor, condition: Tensor | None = None
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        layers = cast(list[PixelCNNLayer], self.layers)
        biases = [layer.condition_bias(condition) for layer in layers]
        first = self._embed(x[..., :1, :1])  # for its shape and dtype
        blank = torch.zeros_like(first).expand(-1, -1, 1, x.shape[-1])
        above = [blank, *(first.new_zeros(len(x), layer.width, 1, x.shape[-1]) for layer in layers)]
        for row in range(x.shape[-2]):
            v, from_vertical = self._embed(x[..., row - 1 : row, :]) if row else blank, []
            for i, layer in enumerate(layers):
                previous, (v, to_h) = v, layer.vertical_row(above[i], v, biases[i], row)
                above[i] = previous
                from_vertical.append(to_h)
            left = [torch.zeros_like(first[..., 0, 0])]
            left += [first.new_zeros(len(x), layer.width) for layer in layers]
            for column in range(x.shape[-1]):
                h = self._embed(x[..., row, column - 1]) if column else left[0]
                for i, layer in enumerate(layers):
                    previous, h = h, layer.horizontal_pixel(left[i], h, from_vertical[i][..., 0, column])
                    left[i] = previous
                yield (row, column), self.head(h[..., None, None])[..., 0, 0].to(self.dtype)


class PixelCNNLayer(nn.Module):
    """One layer of both stacks of a PixelCNN.

    The vertical stack extends its receptive field by one row above and one column on either side. The
    horizontal stack extends its own by one position to the left, and adds the output of the vertical stack.
    Each stack is a gated convolution with a residual connection. The first layer has no residual connection
    and excludes the position itself: its vertical convolution covers only the row above.
    """

    def __init__(self, inputs: int, width: int, condition: int, first: bool):
        super().__init__()
        self.first, self.width = first, width
        self.vertical = nn.Conv2d(inputs, 2 * width, (1 if first else 2, 3))
        self.horizontal = nn.Conv2d(inputs, 2 * width, (1, 1 if first else 2))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.condition = nn.Conv2d(condition, 2 * width, 1, bias=False) if condition else None

    def forward(self, v: Tensor, h: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps both stacks, `(n, inputs, height, width)` each; both inputs of the first layer are x."""
        above, left = pad(v, (1, 1, 1, 0)), pad(h, (1, 0))
        if self.first:
            above, left = channels_last(above[..., :-1, :]), channels_last(left[..., :-1])
        up, to_h = self._vertical(above, self.condition_bias(condition))
        return self._add(v, gate(up)), self._add(h, self.out(gate(self.horizontal(left) + to_h)))

    def condition_bias(self, condition: Tensor | None) -> Tensor | None:
        """Returns the condition's contribution, `(n, 2 * width, height, width)`."""
        return None if self.condition is None else self.condition(condition)

    def vertical_row(self, above: Tensor, v: Tensor, bias: Tensor | None, row: int) -> tuple[Tensor, Tensor]:
        """Maps one row of the vertical stack, `(n, inputs, 1, width)`; returns also the horizontal input."""
        window = v if self.first else torch.cat([above, v], dim=-2)
        up, to_h = self._vertical(pad(window, (1, 1)), None if bias is None else bias[..., row : row + 1, :])
        return self._add(v, gate(up)), to_h

    def horizontal_pixel(self, left: Tensor, h: Tensor, to_h: Tensor) -> Tensor:
        """Maps one position of the horizontal stack, `(n, inputs)`."""
        window = h if self.first else torch.stack([left, h], dim=-1).flatten(1)
        own = linear(window, self.horizontal.weight.flatten(1), self.horizontal.bias)
        return self._add(h, linear(glu(own + to_h, dim=1), self.out.weight.flatten(1), self.out.bias))

    def _vertical(self, window: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the vertical stack before its gate, and its contribution to the horizontal stack."""
        up = self.vertical(window)
        up = up if bias is None else up + bias
        return up, self.across(up)

    def _add(self, h: Tensor, update: Tensor) -> Tensor:
        """Applies the residual connection, which the first layer does not have."""
        return update if self.first else h + update
