"""Exercise 22: find the bug in a normalizing flow.

In training the loss of this flow falls without an end, and all its samples are far from the data. One thing
is wrong. Run

    python -m exercises.check 22

then read docs/derivations/03-change-of-variables.md and correct it. The flow sends a point x to noise e =
N(0, I):

    e_1 = (x_1 - b_1) / s_1
    e_2 = (x_2 - b_2) exp(v x_1)
"""

import math

import torch
from torch import Tensor


def log_density(x: Tensor, b: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Returns log p(x) in nats, (batch,).  x: (batch, 2); b: (2,); s: positive, (); v: ()."""
    x1, x2 = x.unbind(-1)
    e = torch.stack([(x1 - b[0]) / s, (x2 - b[1]) * (v * x1).exp()], dim=-1)
    log_noise = (-0.5 * e**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    return log_noise
