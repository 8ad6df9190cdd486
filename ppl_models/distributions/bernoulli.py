"""Bernoulli pixels, at the speed of the processor's vector units."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class _LogProb(torch.autograd.Function):
    """x l - log(1 + e^l), the logarithm as max(l, 0) - log sigmoid(|l|); its derivative x - sigmoid(l)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, logits: Tensor) -> Tensor:
        return logits.abs().sigmoid_().log_().sub_(logits.clamp(min=0)).addcmul_(x, logits)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, logits = ctx.saved_tensors
        by_x = gradient * logits if ctx.needs_input_grad[0] else None
        return by_x, logits.sigmoid().neg_().add_(x).mul_(gradient)


class Bernoulli(dist.Bernoulli):
    """Pyro's `Bernoulli` by its logits, with a `log_prob` that is several times as fast on a CPU.

    torch works it out through log1p, which runs number by number there, where the sigmoid and the logarithm
    run by vectors. In absolute terms it is as exact, to a rounding of a number near 1, however large the
    logits.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) of each pixel, zero or one, in the shape to which value and logits broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        value, logits = torch.broadcast_tensors(value, self.logits)
        return _LogProb.apply(value, logits) if torch.is_grad_enabled() else _LogProb.forward(value, logits)
