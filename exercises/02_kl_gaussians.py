"""Exercise 2: KL divergences between Gaussians.

Read docs/derivations/02-kl-between-gaussians.md. Then replace each TODO and run

    python -m exercises.check 02

KL(q || p) = E_q [log q(z) - log p(z)], in nats. A scale is a standard deviation, not a variance. The vectors
have d dimensions. Use torch only, not torch.distributions.
"""

from torch import Tensor

from exercises import TODO


def kl_standard(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns KL(N(loc, diag scale^2) || N(0, I)), (batch,).

    loc, scale: (batch, d).
    """
    return TODO  # four parts in each dimension


def kl_normals(loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
    """Returns KL(N(loc, diag scale^2) || N(prior_loc, diag prior_scale^2)), (batch,).

    loc, scale, prior_loc, prior_scale: (batch, d).
    """
    return TODO  # what are E_q log q and E_q log p?


def kl_full(loc: Tensor, tril: Tensor) -> Tensor:
    """Returns KL(N(loc, L L^T) || N(0, I)), (batch,).

    loc: (batch, d).  tril: L, lower triangular with a positive diagonal, (d, d).
    """
    return TODO  # E_q |z|^2 has the trace of L L^T
