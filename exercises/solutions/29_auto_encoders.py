"""Solution of exercise 29: what an auto-encoder learns."""

import torch
from torch import Tensor


def least_error(values: Tensor, d: int) -> Tensor:
    """Returns the smallest mean of |x - B E x|^2, (), of a linear auto-encoder."""
    return values[d:].sum()


def shrinkage(v: Tensor, variance: Tensor) -> Tensor:
    """Returns the factor, (batch,), of a direction in the mean reconstruction of `ppca`.

    v: variance of the data in the direction, noise included, (batch,); variance: of the noise, (batch,).
    """
    return (v - variance) / v


def same_reconstructions(decoder: Tensor, a: Tensor) -> Tensor:
    """Returns the decoder of the codes a z, (D, d), with the reconstructions that `decoder` has from z.

    decoder: the decoder of z, (D, d); a: invertible, (d, d).
    """
    return decoder @ torch.linalg.inv(a)


def narrow_kl(codes: Tensor, t: Tensor) -> Tensor:
    """Returns KL(N(code, t^2 I) || N(0, I)), (batch,), in nats.

    codes: (batch, d); t: a standard deviation, ().
    """
    d = codes.shape[-1]
    return 0.5 * (codes**2).sum(-1) + 0.5 * d * (t**2 - 1) - d * t.log()
