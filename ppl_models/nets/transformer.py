"""A causal Transformer over the codes of a grid, taken row by row from the left."""

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from ppl_models.nets.pixelcnn import Causal


class CausalTransformer(Causal):
    """Codes (..., 1, height, width), whole numbers below `codes`, to (..., codes, height, width).

    The output at a place sees the codes before it, all of them: the sequence is moved on by one place, behind
    a learned start. Positions are learned; layer norm comes before attention, and before the two linear
    layers with GELU between. In `along` the keys and values of the places before are kept. No condition is
    taken.

    Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762); sizes of the homework on
    autoregressive models of Berkeley's CS294-158 (2024).
    """

    def __init__(self, codes: int, side: tuple[int, int], width: int, heads: int, layers: int):
        super().__init__()
        self.side = side
        self.embedding = nn.Embedding(codes, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn(side[0] * side[1], width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, codes))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        lead = x.shape[:-3]
        codes = self.embedding(x.flatten(-3).flatten(0, -2).long())
        h = torch.cat([self.start.expand(len(codes), 1, -1), codes[:, :-1]], dim=1) + self.positions
        for block in self.blocks:
            h = block(h)
        return self.head(h).transpose(-1, -2).reshape(*lead, -1, *self.side).to(self.dtype)

    def along(self, x: Tensor, condition: Tensor | None = None) -> Iterator[tuple[tuple[int, int], Tensor]]:
        _, width = self.side
        kept: list[Tensor | None] = [None] * len(self.blocks)
        h = self.start.expand(len(x), 1, -1)
        for place, position in enumerate(self.positions):
            h = h + position
            for i, block in enumerate(cast(list[Block], self.blocks)):
                h, kept[i] = block.next(h, kept[i])
            row, column = divmod(place, width)
            yield (row, column), self.head(h[:, 0]).to(self.dtype)
            h = self.embedding(x[:, :, row, column].long())


class Block(nn.Module):
    """Attention of each place to itself and to those before, then two linear layers; both are added."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.attention, self.join = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        """(n, places, width), both."""
        q, k, v = self._split(h)
        return self._finish(h, attend(q, k, v))

    def next(self, h: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """One more place, (n, 1, width), and the keys and values of all so far, (2, n, heads, places, d)."""
        q, k, v = self._split(h)
        new = torch.stack([k, v])
        kept = new if kept is None else torch.cat([kept, new], dim=-2)
        return self._finish(h, attend(q, *kept)), kept

    def _split(self, h: Tensor) -> Tensor:
        """Queries, keys and values: (3, n, heads, places, d)."""
        return self.attention(self.norm(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def _finish(self, h: Tensor, seen: Tensor) -> Tensor:
        h = h + self.join(seen.transpose(1, 2).flatten(2))
        return h + self.mlp(h)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the queries of the last n of m places, (..., n, d), find there and before, (..., m, d) both.

    In so many words: on a CPU the gradient of torch's own takes several times as long for a few dozen places.
    """
    n, m = q.shape[-2], k.shape[-2]
    later = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(m - n + 1)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v
