"""Log densities and KL divergences in plain torch, from which every `bound` is built.

An event is a vector: unless stated otherwise, a function sums over the last dimension, so that parameters and
values of shape `(..., d)` broadcast and give `(...)`. Results are in nats. Nothing here uses
`torch.distributions` or Pyro, so that a bound built from these functions is an independent derivation.
"""

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def normal(x: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """Returns log N(x; loc, diag scale^2); scale is the standard deviation."""
    scale = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
    return (-0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * LOG_2PI).sum(-1)


def multivariate_normal(x: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Returns log N(x; loc, L L^T), where log|det L| = sum_i log L_ii.

    Args:
        x: `(..., d)`.
        loc: `(..., d)`.
        scale_tril: L, lower triangular, `(d, d)`.
    """
    return normal(whiten(x - loc, scale_tril), 0.0, 1.0) - scale_tril.diagonal().log().sum()


def whiten(e: Tensor, scale_tril: Tensor) -> Tensor:
    """Returns L^-1 e, `(..., d)`.

    Args:
        e: `(..., d)`.
        scale_tril: L, lower triangular, `(d, d)`.
    """
    rows = e.reshape(-1, e.shape[-1])
    return torch.linalg.solve_triangular(scale_tril, rows.T, upper=False).T.reshape(e.shape)


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Returns log p(x) of independent pixels with p(x_i = 1) = 1 / (1 + exp(-logits_i)).

    The sum of x_i l_i - log(1 + e^{l_i}), with log(1 + e^l) = max(l, 0) + log(1 + e^{-|l|}), which does not
    overflow for large logits.
    """
    return (x * logits - logits.clamp(min=0) - (1 + (-logits.abs()).exp()).log()).sum(-1)


def mixture_of_normals(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns log 1/k sum_i N(x; loc_i, diag scale_i^2), `(...)`.

    Args:
        x: `(..., d)`.
        loc: the components' means, `(k, d)`.
        scale: the components' standard deviations, `(k, d)`.
    """
    return normal(x.unsqueeze(-2), loc, scale).logsumexp(-1) - math.log(len(loc))


def logistic_mixture(x: Tensor, raw: Tensor, components: int) -> Tensor:
    """Returns log p(x) of images under a discretised mixture of logistics per pixel, `(...)`.

    A level has the probability mass of a logistic distribution between the level's borders, u and l in units
    of the scale: sigmoid(u) - sigmoid(l) = sinh(h) / (cosh(m) + cosh(h)), where m is their midpoint and h
    half their distance. The first and the last level have all the mass beyond their inner border.
    Salimans, Karpathy, Chen and Kingma 2017, PixelCNN++ (arXiv 1701.05517), section 2.

    Args:
        x: levels 2 k / 255 - 1 for k from 0 to 255, `(..., channels, height, width)`.
        raw: the parameters, `(..., parts * components, height, width)`. The parts are, per component: the
            logit of its weight, each channel's loc, each channel's log scale, clamped to [-7, 7], and the
            coefficients of the channels before, before tanh.
        components: the number of components.
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
        log_sinh = h + (1 - (-2 * h).exp()).log()  # log(2 sinh(h))
        log_cosh = torch.stack(torch.broadcast_tensors(m, -m, h, -h)).logsumexp(
            0
        )  # log(2 cosh(m) + 2 cosh(h))
        first = -(1 + (-(m + h).abs()).exp()).log() - (-(m + h)).clamp(min=0)
        last = -(1 + (-(m - h).abs()).exp()).log() - (m - h).clamp(min=0)
        inner = log_sinh - log_cosh
        total = total + torch.where(levels[c] == -1, first, torch.where(levels[c] == 1, last, inner))
    return total.logsumexp(-3).sum((-1, -2))


def log_softmax(logits: Tensor) -> Tensor:
    """Normalises logits to log probabilities, `(..., k)` both; it does not sum."""
    return logits - logits.logsumexp(-1, keepdim=True)


def kl_normal_standard(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns KL(N(loc, diag scale^2) || N(0, I)) = 1/2 sum(loc^2 + scale^2 - log scale^2 - 1).

    Kingma and Welling 2014, appendix B.
    """
    return 0.5 * (loc**2 + scale**2 - 2 * scale.log() - 1).sum(-1)


def kl_normals(loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
    """Returns KL(N(loc, diag scale^2) || N(prior_loc, diag prior_scale^2)), for a learned prior.

    It equals KL(N(m, diag s^2) || N(0, I)) with m = (loc - prior_loc) / prior_scale, s = scale / prior_scale.
    """
    return kl_normal_standard((loc - prior_loc) / prior_scale, scale / prior_scale)


def kl_multivariate_normal_standard(loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Returns KL(N(loc, L L^T) || N(0, I)) = 1/2 (|loc|^2 + |L|^2 - d) - sum_i log L_ii.

    Args:
        loc: `(..., d)`.
        scale_tril: L, lower triangular, `(d, d)`.
    """
    trace = (scale_tril**2).sum()
    return 0.5 * ((loc**2).sum(-1) + trace - loc.shape[-1]) - scale_tril.diagonal().log().sum()


def kl_multivariate_normals(
    loc: Tensor, scale_tril: Tensor, prior_loc: Tensor, prior_scale_tril: Tensor
) -> Tensor:
    """Returns KL(N(loc, L L^T) || N(prior_loc, P P^T)), from that of the whitened normal to N(0, I).

    Args:
        loc: `(..., d)`.
        scale_tril: L, lower triangular, `(d, d)`.
        prior_loc: `(..., d)`.
        prior_scale_tril: P, lower triangular, `(d, d)`.
    """
    tril = whiten(scale_tril.T, prior_scale_tril).T  # P^-1 L, also lower triangular
    return kl_multivariate_normal_standard(whiten(loc - prior_loc, prior_scale_tril), tril)


def kl_categorical_uniform(logits: Tensor) -> Tensor:
    """Returns KL(Categorical(logits) || uniform over the k classes) = log k + sum_y q(y) log q(y)."""
    log_q = log_softmax(logits)
    return math.log(logits.shape[-1]) + (log_q.exp() * log_q).sum(-1)
