"""Activations at the speed of the processor's vector units."""

from typing import Any

import torch
from torch import Tensor


class _ELU(torch.autograd.Function):
    """dy/dx = 1 + min(y, 0), in three passes over one new tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _elu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return y.clamp(max=0).add_(1).mul_(gradient)


def _elu(x: Tensor) -> Tensor:
    """max(x, e^min(x, 0) - 1), in four passes over one new tensor."""
    y = x.clamp(max=0).exp_().sub_(1)
    return torch.maximum(x, y, out=y)


def elu(x: Tensor) -> Tensor:
    """The exponential linear unit: x above zero, e^x - 1 below. Clevert et al. 2016 (arXiv 1511.07289).

    torch's own, for the sake of digits of e^x - 1 near zero that no layer sees, goes through expm1, which was
    found to run number by number on some CPUs; the exponential runs by vectors on all.
    """
    return _ELU.apply(x) if torch.is_grad_enabled() else _elu(x)


def gate(x: Tensor) -> Tensor:
    """a sigmoid(b) of the halves a and b of the channels: (n, 2 c, height, width) to (n, c, height, width).

    Dauphin, Fan, Auli and Grangier 2017, Language Modeling with Gated Convolutional Networks
    (arXiv 1612.08083). torch's own was found to run number by number through half a pixel's channels on some
    CPUs, and its gradient to lay the channels apart, so that the convolution before it had to copy them back.
    """
    a, b = x.chunk(2, dim=1)
    return a * b.contiguous(memory_format=torch.channels_last).sigmoid()
