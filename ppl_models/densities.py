"""Log-densities and divergences worked out by hand, in plain torch: the vocabulary of every `bound`.

An event is a vector: each function sums over the last dimension, so that parameters and values of shape
(..., d), broadcast against each other, give (...,). All results are in nats. Nothing here uses
`torch.distributions` or Pyro, so that a bound built from these functions is a derivation of its own.
"""

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def normal(x: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """log N(x; loc, diag scale^2), with scale the standard deviation."""
    scale = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
    return (-0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * LOG_2PI).sum(-1)


def multivariate_normal(x: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """log N(x; loc, L L^T), with scale_tril L (d, d) lower triangular: log|det L| is the sum of log L_ii."""
    return normal(whitened(x - loc, scale_tril), 0.0, 1.0) - scale_tril.diagonal().log().sum()


def whitened(e: Tensor, scale_tril: Tensor) -> Tensor:
    """L^-1 e, for e (..., d) and scale_tril L (d, d) lower triangular: (..., d)."""
    rows = e.reshape(-1, e.shape[-1])
    return torch.linalg.solve_triangular(scale_tril, rows.T, upper=False).T.reshape(e.shape)


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x) of independent pixels with p(x_i = 1) = 1 / (1 + exp(-logits_i)).

    x_i l_i - log(1 + e^{l_i}), the logarithm as max(l_i, 0) + log(1 + e^{-|l_i|}): exact at x = 0 and
    x = 1, however large the logits.
    """
    return (x * logits - logits.clamp(min=0) - (1 + (-logits.abs()).exp()).log()).sum(-1)


def mixture_of_normals(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log of 1/k sum_i N(x; loc_i, diag scale_i^2), for x (..., d) and loc, scale (k, d): (...)."""
    return normal(x.unsqueeze(-2), loc, scale).logsumexp(-1) - math.log(len(loc))


def logistic_mixture(x: Tensor, raw: Tensor, components: int) -> Tensor:
    """log p of levels x (..., channels, height, width), 2 k / 255 - 1 for k of 256, as mixtures of logistics.

    raw (..., parts, height, width), where a part is a number for each component: the logit of its weight,
    each channel's loc, then each one's logarithm of the scale, kept within 7 of zero, then the coefficients
    of the channels before, through tanh. A level has what a logistic distribution has between its borders,
    u and l in units of the scale: sigmoid(u) - sigmoid(l) = sinh(h) / (cosh(m) + cosh(h)), m half way
    between them and h half their distance; the first and the last level have all that is beyond them.
    PixelCNN++ (arXiv 1701.05517), section 2.
    """
    channels = x.shape[-3]
    parts = raw.unflatten(-3, (-1, components)).unbind(-4)  # (..., components, height, width) each
    logits, locs, logs = parts[0], parts[1 : 1 + channels], parts[1 + channels : 1 + 2 * channels]
    coefficients = list(parts[1 + 2 * channels :])
    total = log_softmax(logits.movedim(-3, -1)).movedim(-1, -3)
    levels = x.unsqueeze(-3).unbind(-4)  # (..., 1, height, width) each
    for c in range(channels):
        loc = locs[c] + sum(coefficients.pop(0).tanh() * levels[before] for before in range(c))
        scale = logs[c].clamp(-7, 7).exp()
        m, h = (levels[c] - loc) / scale, 1 / (255 * scale)
        log_sinh = h + (1 - (-2 * h).exp()).log()  # and log 2 less
        log_cosh = torch.stack(torch.broadcast_tensors(m, -m, h, -h)).logsumexp(0)  # of both, and log 2 less
        first = -(1 + (-(m + h).abs()).exp()).log() - (-(m + h)).clamp(min=0)
        last = -(1 + (-(m - h).abs()).exp()).log() - (m - h).clamp(min=0)
        inner = log_sinh - log_cosh
        total = total + torch.where(levels[c] == -1, first, torch.where(levels[c] == 1, last, inner))
    return total.logsumexp(-3).sum((-1, -2))


def log_softmax(logits: Tensor) -> Tensor:
    """Logits to normalised log-probabilities, (..., k) both: the one function here that does not sum."""
    return logits - logits.logsumexp(-1, keepdim=True)


def kl_normal_standard(loc: Tensor, scale: Tensor) -> Tensor:
    """KL(N(loc, diag scale^2) || N(0, I)) = 1/2 sum(loc^2 + scale^2 - log scale^2 - 1).

    Kingma and Welling 2014, appendix B.
    """
    return 0.5 * (loc**2 + scale**2 - 2 * scale.log() - 1).sum(-1)


def kl_multivariate_normal_standard(loc: Tensor, scale_tril: Tensor) -> Tensor:
    """KL(N(loc, L L^T) || N(0, I)) = 1/2 (|loc|^2 + |L|^2 - d) - sum log L_ii, for scale_tril L (d, d)."""
    trace = (scale_tril**2).sum()
    return 0.5 * ((loc**2).sum(-1) + trace - loc.shape[-1]) - scale_tril.diagonal().log().sum()


def kl_multivariate_normals(
    loc: Tensor, scale_tril: Tensor, prior_loc: Tensor, prior_scale_tril: Tensor
) -> Tensor:
    """KL(N(loc, L L^T) || N(prior_loc, P P^T)): that of N(P^-1 (loc - prior_loc), ...) from N(0, I)."""
    tril = whitened(scale_tril.T, prior_scale_tril).T  # P^-1 L, lower triangular too
    return kl_multivariate_normal_standard(whitened(loc - prior_loc, prior_scale_tril), tril)


def kl_categorical_uniform(logits: Tensor) -> Tensor:
    """KL(Categorical(logits) || uniform over the k classes) = log k + sum_y q(y) log q(y)."""
    log_q = log_softmax(logits)
    return math.log(logits.shape[-1]) + (log_q.exp() * log_q).sum(-1)
