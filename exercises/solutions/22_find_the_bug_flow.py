"""Solution of exercise 22: find the bug in a normalizing flow."""

import math

import torch
from torch import Tensor


def log_density(x: Tensor, b: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Returns log p(x) in nats, (batch,).  x: (batch, 2); b: (2,); s: positive, (); v: ()."""
    x1, x2 = x.unbind(-1)
    e = torch.stack([(x1 - b[0]) / s, (x2 - b[1]) * (v * x1).exp()], dim=-1)
    log_noise = (-0.5 * e**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_det = v * x1 - s.log()
    return log_noise + log_det
