"""Networks over a grid whose output at a place sees only the places before it, row by row from the left.

Each has two ways to the same numbers: `forward`, everywhere at once, and `along`, place by place in order,
for drawing: there nothing is worked out twice.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import glu, linear, pad

from ppl_models.nets.activations import gate
from ppl_models.nets.conv import channels_last


class Causal(nn.Module):
    """A network over a grid whose output at a place sees only the places before it.

    x is (..., channels, height, width), and a condition (..., c, height, width). The output has the precision
    of the parameters: not the whole numbers of codes, nor the precision of autocast.
    """

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the parameters."""
        return next(self.parameters()).dtype

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The outputs everywhere, (..., out, height, width); leading dimensions need only broadcast."""
        raise NotImplementedError

    def along(self, x: Tensor, condition: Tensor | None = None) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Row and column of each place in order, and the output there, (n, out), for x (n, ...).

        x is read as it goes: whoever draws fills in a place before asking for the next.
        """
        raise NotImplementedError


class PixelCNN(Causal):
    """(..., channels, height, width) to (..., out, height, width), of a receptive field of a stated size.

    The output at a place sees `reach` rows above its own, `reach` columns to the left and the right of it
    there, and `reach` places to its left: 2 reach + 1 by reach + 1. Two stacks of `reach` layers see the rows
    above and the row itself, so that nothing of the field is blind.

    With `codes` the values are whole numbers below it, one channel, and are embedded first. With `condition`
    channels, every layer is told a map of as many, (..., condition, height, width), at each place.

    Van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders (arXiv 1606.05328).
    """

    def __init__(self, channels: int, width: int, out: int, reach: int, codes: int = 0, condition: int = 0):
        super().__init__()
        self.embedding = nn.Embedding(codes, width) if codes else None
        before = width if codes else channels
        self.layers = nn.ModuleList(
            Layer(width if i else before, width, condition, first=i == 0) for i in range(reach)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, out, 1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        lead = x.shape[:-3]
        if condition is not None:
            lead = torch.broadcast_shapes(lead, condition.shape[:-3])
            condition = channels_last(
                condition.expand(*lead, *condition.shape[-3:]).flatten(0, len(lead) - 1)
            )
        v = h = self._read(channels_last(x.expand(*lead, *x.shape[-3:]).flatten(0, len(lead) - 1)))
        for layer in self.layers:
            v, h = layer(v, h, condition)
        return self.head(h).unflatten(0, lead).to(self.dtype)

    def _read(self, x: Tensor) -> Tensor:
        """The values (n, channels, ...) as the first layer takes them."""
        return x if self.embedding is None else self.embedding(x[:, 0].long()).movedim(-1, 1)

    def along(self, x: Tensor, condition: Tensor | None = None) -> Iterator[tuple[tuple[int, int], Tensor]]:
        layers = cast(list[Layer], self.layers)
        said = [layer.said(condition) for layer in layers]
        first = self._read(x[..., :1, :1])  # of the right size and kind
        blank = torch.zeros_like(first).expand(-1, -1, 1, x.shape[-1])
        above = [blank, *(first.new_zeros(len(x), layer.width, 1, x.shape[-1]) for layer in layers)]
        for row in range(x.shape[-2]):
            v, from_above = self._read(x[..., row - 1 : row, :]) if row else blank, []
            for i, layer in enumerate(layers):
                before, (v, to_h) = v, layer.row(above[i], v, said[i], row)
                above[i] = before
                from_above.append(to_h)
            left = [torch.zeros_like(first[..., 0, 0])]
            left += [first.new_zeros(len(x), layer.width) for layer in layers]
            for column in range(x.shape[-1]):
                h = self._read(x[..., row, column - 1]) if column else left[0]
                for i, layer in enumerate(layers):
                    before, h = h, layer.place(left[i], h, from_above[i][..., 0, column])
                    left[i] = before
                yield (row, column), self.head(h[..., None, None])[..., 0, 0].to(self.dtype)


class Layer(nn.Module):
    """One step further up, and one further to the left and the right, of both stacks of a PixelCNN.

    The vertical stack at a place has seen the rows above it. It takes a row more and a column more on either
    side. The horizontal one has seen the places to the left in its own row; it takes one more, and what the
    vertical stack has seen, and been told. Each is a convolution and a gate, and adds to what came in, but
    for the first layer, which leaves out the place itself and its row.
    """

    def __init__(self, before: int, width: int, condition: int, first: bool):
        super().__init__()
        self.first, self.width = first, width
        self.vertical = nn.Conv2d(before, 2 * width, (1 if first else 2, 3))
        self.horizontal = nn.Conv2d(before, 2 * width, (1, 1 if first else 2))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.condition = nn.Conv2d(condition, 2 * width, 1, bias=False) if condition else None

    def forward(self, v: Tensor, h: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks, (n, before, height, width) each, a layer on; the first layer takes x for both."""
        above, left = pad(v, (1, 1, 1, 0)), pad(h, (1, 0))
        if self.first:
            above, left = channels_last(above[..., :-1, :]), channels_last(left[..., :-1])
        up, to_h = self._vertical(above, self.said(condition))
        return self._add(v, gate(up)), self._add(h, self.out(gate(self.horizontal(left) + to_h)))

    def said(self, condition: Tensor | None) -> Tensor | None:
        """What the condition adds, (n, 2 width, height, width)."""
        return None if self.condition is None else self.condition(condition)

    def row(self, above: Tensor, v: Tensor, said: Tensor | None, row: int) -> tuple[Tensor, Tensor]:
        """The vertical stack of one row, (n, before, 1, width), a layer on, and what it tells the other."""
        seen = v if self.first else torch.cat([above, v], dim=-2)
        up, to_h = self._vertical(pad(seen, (1, 1)), None if said is None else said[..., row : row + 1, :])
        return self._add(v, gate(up)), to_h

    def place(self, left: Tensor, h: Tensor, to_h: Tensor) -> Tensor:
        """The horizontal stack at one place, (n, before), a layer on."""
        seen = h if self.first else torch.stack([left, h], dim=-1).flatten(1)
        own = linear(seen, self.horizontal.weight.flatten(1), self.horizontal.bias)
        return self._add(h, linear(glu(own + to_h, dim=1), self.out.weight.flatten(1), self.out.bias))

    def _vertical(self, seen: Tensor, said: Tensor | None) -> tuple[Tensor, Tensor]:
        """The vertical stack before its gate, and what it tells the horizontal one."""
        up = self.vertical(seen)
        up = up if said is None else up + said
        return up, self.across(up)

    def _add(self, before: Tensor, more: Tensor) -> Tensor:
        return more if self.first else before + more
