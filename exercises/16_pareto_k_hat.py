"""Exercise 16: Pareto k-hat.

Read docs/derivations/16-pareto-k-hat.md. Then replace each TODO and run

    python -m exercises.check 16

The posterior is p(z | x) = N(z; 0, I), and the guide is q(z) = N(z; 0, diag s^2), with d dimensions. The
importance weights have the tail Pr(w > t) ~ t^(-1/k). Use torch only, not torch.distributions.
"""

import torch
from torch import Tensor

from exercises import TODO


def log_weight(z: Tensor, s: Tensor) -> Tensor:
    """Returns log p(z | x) - log q(z), (batch,).  z: (batch, d); s: standard deviations, (d,)."""
    return TODO  # the constants cancel


def shape_of_tail(s: Tensor) -> Tensor:
    """Returns the shape k, (), of the weights' tail, for several independent dimensions.  s: (d,)."""
    return TODO  # which dimension decides?


def tail_probability(y: Tensor, k: Tensor, tau: Tensor) -> Tensor:
    """Returns Pr(w - t0 > y | w > t0), (batch,), of a generalised Pareto distribution.

    y: positive, (batch,); k: its shape, (); tau: its scale, ().
    """
    return TODO  # a power of y


def finite_moments(k: Tensor) -> Tensor:
    """Returns a*, (): the mean of w^a is finite for a < a*, and infinite for a > a*.  k: (), positive."""
    return TODO  # for which k is the variance finite?
