"""Images of zeros and ones, at the speed of the processor's vector units."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.nets.precision import at_least_float32, full_precision

HALVINGS = 4  # 16 factors between 1/2 and 1: their product is far from underflow


class _LogProb(torch.autograd.Function):
    """d/dl of -log(1 + e^u) at u = s l is -s sigmoid(u)."""

    @staticmethod
    def forward(ctx: Any, sign: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(sign, logits)
        return _log_prob(sign, logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        sign, logits = ctx.saved_tensors
        return None, (sign * logits).sigmoid_().mul_(sign).mul_(-gradient.unsqueeze(-1))


def _log_prob(sign: Tensor, logits: Tensor) -> Tensor:
    """sum_i -log(1 + e^u_i), where u = s l, s = 1 - 2 x, is the logit of the value that was not seen.

    log(1 + e^u) = max(u, 0) - log sigmoid(|u|), and the logarithm of many sigmoids is the logarithm of their
    product: one logarithm for sixteen pixels.
    """
    u = sign * logits
    above = u.sum(-1)  # max(u, 0) = (u + |u|) / 2
    above.add_(u.abs_().sum(-1)).div_(2)
    product = u.sigmoid_()
    for _ in range(HALVINGS):
        if product.shape[-1] % 2 == 0:
            half, other = product.chunk(2, dim=-1)
            product = half * other
    return product.log_().sum(-1).sub_(above)


class BernoulliImage(TorchDistribution):
    """Independent Bernoulli pixels that make one event of the given shape; logits (..., pixels).

    What `Bernoulli(logits=...).to_event()` is, with a `log_prob` of fewer passes over memory, and without
    log1p, which was found to run pixel by pixel on some CPUs. It is as exact in absolute terms, however
    large the logits. The value is data: no gradient flows to it.
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    has_rsample = False

    def __init__(self, logits: Tensor, shape: tuple[int, ...], validate_args: bool | None = None):
        if logits.shape[-1] != math.prod(shape):
            raise ValueError(f"{logits.shape[-1]} logits for an image of shape {shape}")
        self.logits = at_least_float32(logits)
        super().__init__(logits.shape[:-1], torch.Size(shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The probability of each pixel, (..., *shape)."""
        return self.logits.sigmoid().unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) of images (..., *shape) of zeros and ones, in the shape their batch broadcasts to."""
        if self._validate_args:
            self._validate_sample(value)
        sign = (1 - 2 * value).flatten(-len(self.event_shape))
        if not torch.is_grad_enabled():
            if sign.dim() == 2 < self.logits.dim() and self.logits.shape[-2] == 1 < len(sign):
                # every image under every row of logits: x . l - sum log(1 + e^l), a matrix product
                with full_precision(self.logits.squeeze(-2), value.flatten(1)) as (logits, ones):
                    return logits @ ones.T + _log_prob(torch.ones_like(self.logits), self.logits)
            return _log_prob(sign, self.logits)
        batch = torch.broadcast_shapes(sign.shape, self.logits.shape)
        return _LogProb.apply(sign, self.logits.expand(batch))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Images of zeros and ones, (*sample_shape, ..., *shape)."""
        return torch.bernoulli(self.mean.expand(*sample_shape, *self.batch_shape, *self.event_shape))
