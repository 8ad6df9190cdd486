"""Solution of exercise 16: Pareto k-hat."""

from torch import Tensor


def log_weight(z: Tensor, s: Tensor) -> Tensor:
    """Returns log p(z | x) - log q(z), (batch,).  z: (batch, d); s: standard deviations, (d,)."""
    return (s.log() - 0.5 * z**2 + 0.5 * (z / s) ** 2).sum(-1)


def shape_of_tail(s: Tensor) -> Tensor:
    """Returns the shape k, (), of the weights' tail, for several independent dimensions.  s: (d,)."""
    return 1 - s.min() ** 2


def tail_probability(y: Tensor, k: Tensor, tau: Tensor) -> Tensor:
    """Returns Pr(w - t0 > y | w > t0), (batch,), of a generalised Pareto distribution.

    y: positive, (batch,); k: its shape, (); tau: its scale, ().
    """
    return (1 + k * y / tau) ** (-1 / k)


def finite_moments(k: Tensor) -> Tensor:
    """Returns a*, (): the mean of w^a is finite for a < a*, and infinite for a > a*.  k: (), positive."""
    return 1 / k
