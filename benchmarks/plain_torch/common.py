"""Functions that several of the plain PyTorch models share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)
TorchModel = tuple[list[nn.Module], Callable[..., Tensor]]  # the networks, and the loss of a batch


def sample_and_kl(h: Tensor) -> tuple[Tensor, Tensor]:
    """Samples z from a diagonal normal and computes its KL divergence from N(0, I) in closed form.

    Args:
        h: Output of the encoder, (batch, 2 * z_dim): means, then variances before softplus.

    Returns:
        z, (batch, z_dim), and the KL term, (batch,).
    """
    mean, raw = h.chunk(2, -1)
    variance = F.softplus(raw) + 1e-8
    z = mean + variance.sqrt() * torch.randn_like(mean)
    return z, 0.5 * (mean**2 + variance - variance.log() - 1).sum(-1)


def sample_and_kl_log_std(h: Tensor) -> tuple[Tensor, Tensor]:
    """Does the same as `sample_and_kl` for an encoder that outputs log standard deviations."""
    mean, log_std = h.chunk(2, -1)
    z = mean + log_std.exp() * torch.randn_like(mean)
    return z, 0.5 * (mean**2 + (2 * log_std).exp() - 2 * log_std - 1).sum(-1)


def bernoulli_error(logits: Tensor, x: Tensor) -> Tensor:
    """Returns -log p(x | z) of binary pixels, (batch,)."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
