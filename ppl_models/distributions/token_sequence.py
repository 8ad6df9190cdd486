"""The distribution of a sequence of tokens that a recurrent decoder generates."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.nets.recurrent import SequenceDecoder

PAD, END, UNKNOWN = 0, 1, 2  # tokens: padding, the end of a sequence, and a token that has no number


class TokenSequence(TorchDistribution):
    """p(x | z) = prod_i p(x_i | x_1, ..., x_{i-1}, z), with events `(length,)`.

    The product ends with the first `END`. All places after it are `PAD` and have no factor, so that they
    contribute zero to `log_prob`. A sequence without `END` is cut: its probability is that of all sequences
    that begin so. `log_prob` does not check that padding is at the end only.

    Args:
        decoder: the network.
        z: `(..., z_dim)`; its leading dimensions are the batch shape.
        length: the number of places.
        dropped: `(..., length)`, places whose token the decoder reads as `UNKNOWN`; None drops none.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_rsample = False

    def __init__(
        self,
        decoder: SequenceDecoder,
        z: Tensor,
        length: int,
        dropped: Tensor | None = None,
        validate_args: bool | None = None,
    ):
        self.decoder, self.z, self.dropped, self.temperature = decoder, z, dropped, 1.0
        super().__init__(z.shape[:-1], torch.Size((length,)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "TokenSequence":
        """Returns the distribution with another batch shape."""
        z, dropped = self.z.expand(*batch_shape, self.z.shape[-1]), self.dropped
        dropped = None if dropped is None else dropped.expand(*batch_shape, *self.event_shape)
        new = TokenSequence(self.decoder, z, self.event_shape[0], dropped, validate_args=False)
        new.temperature = self.temperature
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of `(..., length)`, with the broadcast batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        before = torch.cat([torch.full_like(value[..., :1], PAD), value[..., :-1]], dim=-1)
        if self.dropped is not None:
            lost = torch.cat([torch.zeros_like(self.dropped[..., :1]), self.dropped[..., :-1]], dim=-1)
            before = before.masked_fill(lost & (before != PAD), UNKNOWN)
        token = Categorical(logits=self.decoder(before, self.z) / self.temperature, validate_args=False)
        return token.mask(value != PAD).to_event(1).log_prob((value - 1).clamp(min=0))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples `(*sample_shape, *batch, length)`, one place at a time."""

        def choose(logits: Tensor) -> Tensor:
            return Categorical(logits=logits / self.temperature, validate_args=False).sample()

        return self._generate(choose, sample_shape)

    @torch.no_grad()
    def greedy(self) -> Tensor:
        """Returns the sequences whose token is the most probable one at each place, `(*batch, length)`."""
        return self._generate(lambda logits: logits.argmax(-1))

    def _generate(self, choose: Callable[[Tensor], Tensor], sample_shape: Any = ()) -> Tensor:
        """Chooses the tokens from the logits of each place, in order, until every sequence has ended."""
        shape, length = (*sample_shape, *self.batch_shape), self.event_shape[0]
        z = self.z.expand(*shape, self.z.shape[-1]).reshape(math.prod(shape), -1)
        x = torch.full((len(z), length), PAD, dtype=torch.long, device=z.device)
        ended = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        before, state = x[:, 0], None
        lost = None if self.dropped is None else self.dropped.expand(*shape, length).reshape(-1, length)
        for place in range(length):
            logits, state = self.decoder.step(before[:, None], z, state)
            token = (choose(logits[:, 0]) + 1).masked_fill(ended, PAD)
            x[:, place], ended = token, ended | (token == END)
            if ended.all():
                break
            before = token if lost is None else token.masked_fill(lost[:, place] & (token != PAD), UNKNOWN)
        return x.to(z.dtype).view(*shape, length)
