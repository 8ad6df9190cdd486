"""Independent Bernoulli pixels, with a log density that is faster on CPUs than that of torch."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

HALVINGS = 4  # products of 16 factors between 1/2 and 1, which do not underflow


class _LogProb(torch.autograd.Function):
    """`_log_prob` with the gradient d/dl of -log(1 + e^u) at u = s l, which is -s sigmoid(u)."""

    @staticmethod
    def forward(ctx: Any, sign: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(sign, logits)
        return _log_prob(sign, logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        sign, logits = ctx.saved_tensors
        return None, (sign * logits).sigmoid_().mul_(sign).mul_(-gradient.unsqueeze(-1))


def _log_prob(sign: Tensor, logits: Tensor) -> Tensor:
    """Returns sum_i -log(1 + e^u_i), where u = s l and s = 1 - 2 x.

    log(1 + e^u) = max(u, 0) - log sigmoid(|u|). The logarithms of 16 sigmoids are computed as one logarithm
    of their product.
    """
    u = sign * logits
    positive = u.sum(-1)  # max(u, 0) = (u + |u|) / 2
    positive.add_(u.abs_().sum(-1)).div_(2)
    product = u.sigmoid_()
    for _ in range(HALVINGS):
        if product.shape[-1] % 2 == 0:
            half, other = product.chunk(2, dim=-1)
            product = half * other
    return product.log_().sum(-1).sub_(positive)


class BernoulliImage(TorchDistribution):
    """Independent Bernoulli pixels as one event of the given shape, as `Bernoulli(logits=...).to_event()`.

    `log_prob` needs fewer passes over memory and avoids log1p, which is not vectorised on some CPUs. Its
    absolute error is as small for logits of any size. The value has no gradient.

    Args:
        logits: `(..., pixels)`.
        shape: the event shape.
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    has_rsample = False

    def __init__(self, logits: Tensor, shape: tuple[int, ...], validate_args: bool | None = None):
        if logits.shape[-1] != math.prod(shape):
            raise ValueError(
                f"{logits.shape[-1]} logits do not fit images of shape {shape}. Pass {math.prod(shape)}."
            )
        self.logits = logits
        super().__init__(logits.shape[:-1], torch.Size(shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The probability of each pixel, `(..., *shape)`."""
        return self.logits.sigmoid().unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of binary images `(..., *shape)`, with the broadcast batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        sign = (1 - 2 * value).flatten(-len(self.event_shape))
        if not torch.is_grad_enabled():
            if sign.dim() == 2 < self.logits.dim() and self.logits.shape[-2] == 1 < len(sign):
                # every image with every row of logits: x . l - sum log(1 + e^l), a matrix product
                ones = value.flatten(1)
                return self.logits.squeeze(-2) @ ones.T + _log_prob(torch.ones_like(self.logits), self.logits)
            return _log_prob(sign, self.logits)
        batch = torch.broadcast_shapes(sign.shape, self.logits.shape)
        return _LogProb.apply(sign, self.logits.expand(batch))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples images of zeros and ones `(*sample_shape, ..., *shape)`."""
        return torch.bernoulli(self.mean.expand(*sample_shape, *self.batch_shape, *self.event_shape))


class _MeanLogProb(torch.autograd.Function):
    """sum_i x_i l_i - log(1 + e^l_i) with its gradient x - sigmoid(l), in few passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(x, logits)
        return torch.linalg.vecdot(x, logits) + _log_prob(torch.ones_like(logits), logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        x, logits = ctx.saved_tensors
        return None, logits.sigmoid().neg_().add_(x).mul_(gradient.unsqueeze(-1))


class GreyBernoulliImage(BernoulliImage):
    """`BernoulliImage` for grey levels from 0 to 1: the mean of its log density over binarizations.

    A binarization b of x has independent pixels with p(b_i = 1) = x_i. The mean of log p(b) over b is
    sum_i x_i l_i - log(1 + e^l_i), where l are the logits: log p is linear in each pixel. For zeros and ones
    it is log p(x) itself.

    Args:
        logits: `(..., pixels)`.
        shape: the event shape.
    """

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.unit_interval, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the mean log density of grey images `(..., *shape)`, with the broadcast batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        levels = value.flatten(-len(self.event_shape))
        batch = torch.broadcast_shapes(levels.shape, self.logits.shape)
        return _MeanLogProb.apply(levels, self.logits.expand(batch))
