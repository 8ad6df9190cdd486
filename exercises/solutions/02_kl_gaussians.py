"""Solution of exercise 2: KL divergences between Gaussians."""

from torch import Tensor


def kl_standard(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns KL(N(loc, diag scale^2) || N(0, I)), (batch,).

    loc, scale: (batch, d).
    """
    return 0.5 * (loc**2 + scale**2 - 2 * scale.log() - 1).sum(-1)


def kl_normals(loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
    """Returns KL(N(loc, diag scale^2) || N(prior_loc, diag prior_scale^2)), (batch,).

    loc, scale, prior_loc, prior_scale: (batch, d).
    """
    square = (scale**2 + (loc - prior_loc) ** 2) / (2 * prior_scale**2)
    return ((prior_scale / scale).log() + square - 0.5).sum(-1)


def kl_full(loc: Tensor, tril: Tensor) -> Tensor:
    """Returns KL(N(loc, L L^T) || N(0, I)), (batch,).

    loc: (batch, d).  tril: L, lower triangular with a positive diagonal, (d, d).
    """
    trace, log_det = (tril**2).sum(), tril.diagonal().log().sum()
    return 0.5 * ((loc**2).sum(-1) + trace - loc.shape[-1]) - log_det
