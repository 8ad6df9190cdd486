"""A causal Transformer over the codes of a grid, row by row from the left."""

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ppl_models.nets.pixelcnn import CausalNetwork

FEW = 64  # positions, those of a map of 8 x 8


class CausalTransformer(CausalNetwork):
    """Maps codes `(..., 1, height, width)` to logits `(..., codes, height, width)`.

    The output at a position depends on all codes before it: the sequence is shifted by one position and
    begins with a learned start token. The position embeddings are learned. Layer norm precedes attention and
    MLP. `sequential` caches keys and values. The network ignores a condition.

    Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762); sizes of the homework on
    autoregressive models of Berkeley's CS294-158 (2024).

    Args:
        codes: the number of different codes.
        grid: height and width.
        width: the dimensions of the embedding.
        heads: the attention heads per layer.
        layers: the number of layers.
    """

    def __init__(self, codes: int, grid: tuple[int, int], width: int, heads: int, layers: int):
        super().__init__()
        self.grid = grid
        self.embedding = nn.Embedding(codes, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn(grid[0] * grid[1], width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, codes))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        lead = x.shape[:-3]
        codes = self.embedding(x.flatten(-3).flatten(0, -2).long())
        h = torch.cat([self.start.expand(len(codes), 1, -1), codes[:, :-1]], dim=1) + self.positions
        for block in self.blocks:
            h = block(h)
        return self.head(h).transpose(-1, -2).reshape(*lead, -1, *self.grid).to(self.dtype)

    def sequential(
        self, x: Tensor, condition: Tensor | None = None
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        _, width = self.grid
        cache: list[Tensor | None] = [None] * len(self.blocks)
        h = self.start.expand(len(x), 1, -1)
        for index, position in enumerate(self.positions):
            h = h + position
            for i, block in enumerate(cast(list[TransformerBlock], self.blocks)):
                h, cache[i] = block.step(h, cache[i])
            row, column = divmod(index, width)
            yield (row, column), self.head(h[:, 0]).to(self.dtype)
            h = self.embedding(x[:, :, row, column].long())


class TransformerBlock(nn.Module):
    """Causal self-attention and an MLP, each after layer norm and with a residual connection."""

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
        """Maps `(n, positions, width)` to the same shape."""
        q, k, v = self._split(h)
        return self._finish(h, causal_attention(q, k, v))

    def step(self, h: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps the next position, `(n, 1, width)`, and extends the cache.

        Args:
            h: the input at the next position.
            cache: keys and values of the positions so far, `(2, n, heads, positions, d)`; None at first.

        Returns:
            The output at the next position, and the extended cache.
        """
        q, k, v = self._split(h)
        new = torch.stack([k, v])
        cache = new if cache is None else torch.cat([cache, new], dim=-2)
        return self._finish(h, causal_attention(q, *cache)), cache

    def _split(self, h: Tensor) -> Tensor:
        """Computes queries, keys and values, `(3, n, heads, positions, d)`."""
        return self.attention(self.norm(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def _finish(self, h: Tensor, attention: Tensor) -> Tensor:
        """Applies both residual connections, given the output of the attention."""
        h = h + self.join(attention.transpose(1, 2).flatten(2))
        return h + self.mlp(h)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns causal attention for the last n of m positions.

    Up to FEW positions on a CPU its gradient is several times as fast as that of torch's
    `scaled_dot_product_attention`, which needs less time and memory for more positions.

    Args:
        q: queries, `(..., n, d)`.
        k: keys, `(..., m, d)`.
        v: values, `(..., m, d)`.

    Returns:
        `(..., n, d)`.
    """
    n, m = q.shape[-2], k.shape[-2]
    if n == m > FEW:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    later = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(m - n + 1)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v
