"""Recurrent networks over sequences of tokens."""

import torch
from torch import Tensor, nn


class SequenceEncoder(nn.Module):
    """Maps sequences of tokens `(batch, length)` to the outputs `(batch, outputs)` of a GRU's last state.

    The last state is the one after the last token that is not padding, token 0.

    Args:
        tokens: the number of different tokens.
        embedding: the dimensions of a token's embedding.
        hidden: the dimensions of the state.
        outputs: the dimensions of the output.
    """

    def __init__(self, tokens: int, embedding: int, hidden: int, outputs: int):
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(x.long()))
        last = (x != 0).sum(-1).clamp(min=1) - 1
        at = last.view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        return self.head(states.gather(1, at)[:, 0]).to(self.head.weight.dtype)


class SequenceDecoder(nn.Module):
    """Maps the tokens before each place, and z, to logits of the token at that place.

    A GRU reads the embedding of the token before, with z appended. Token 0, padding, has no logit: logit k
    is that of token k + 1. As an input it starts a sequence.

    Args:
        tokens: the number of different tokens.
        z_dim: the dimensions of z.
        embedding: the dimensions of a token's embedding.
        hidden: the dimensions of the state.
    """

    def __init__(self, tokens: int, z_dim: int, embedding: int, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        self.gru = nn.GRU(embedding + z_dim, hidden, batch_first=True)
        self.head = nn.Linear(hidden, tokens - 1)

    def forward(self, before: Tensor, z: Tensor) -> Tensor:
        """Returns logits `(..., length, tokens - 1)` for `before` `(..., length)` and z `(..., z_dim)`."""
        lead = torch.broadcast_shapes(before.shape[:-1], z.shape[:-1])
        before = before.expand(*lead, before.shape[-1]).reshape(-1, before.shape[-1])
        logits, _ = self.step(before, z.expand(*lead, z.shape[-1]).reshape(-1, z.shape[-1]))
        return logits.unflatten(0, lead)

    def step(self, before: Tensor, z: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns logits `(n, length, tokens - 1)` and the state after the last place.

        Args:
            before: tokens `(n, length)`.
            z: `(n, z_dim)`.
            state: the state before the first place; None at the start of a sequence.
        """
        inputs = torch.cat(
            [self.embedding(before.long()), z.unsqueeze(1).expand(-1, before.shape[1], -1)], -1
        )
        states, state = self.gru(inputs, state)
        return self.head(states).to(self.head.weight.dtype), state
