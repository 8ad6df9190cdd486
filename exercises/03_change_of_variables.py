"""Exercise 3: change of variables.

Read docs/derivations/03-change-of-variables.md. Then replace each TODO and run

    python -m exercises.check 03

A flow sends a point x to noise e = f(x). The noise is standard normal, so

    log p(x) = log N(f(x); 0, I) + log |det df/dx|

Each function returns log p(x) in nats, (batch,), for points x (batch, 2). Write the determinant by hand,
without autograd. Use torch only, not torch.distributions.
"""

import math

import torch
from torch import Tensor

from exercises import TODO


def log_noise(e: Tensor) -> Tensor:
    """Returns log N(e; 0, I), (batch,)."""
    return (-0.5 * e**2 - 0.5 * math.log(2 * math.pi)).sum(-1)


def shift_and_scale(x: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """The map e_i = (x_i - b_i) / s_i.  b, s: (2,), s is positive."""
    log_det = TODO  # the Jacobian is diagonal
    return log_noise((x - b) / s) + log_det


def linear(x: Tensor, a: Tensor) -> Tensor:
    """The map e = A x.  a: the matrix A, (2, 2); its determinant may be negative."""
    log_det = TODO  # a volume has no sign
    return log_noise(x @ a.T) + log_det


def coupling(x: Tensor, v: Tensor) -> Tensor:
    """The map e_1 = x_1, e_2 = x_2 exp(v_1 x_1) + v_2 x_1.  v: (2,)."""
    x1, x2 = x.unbind(-1)
    e = torch.stack([x1, x2 * (v[0] * x1).exp() + v[1] * x1], dim=-1)
    log_det = TODO  # the Jacobian is triangular
    return log_noise(e) + log_det
