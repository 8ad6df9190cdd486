"""Exercise 29: what an auto-encoder learns.

Read docs/derivations/23-auto-encoders.md. Then replace each TODO and run

    python -m exercises.check 29

The data have mean zero, D dimensions, and a covariance with eigenvalues `values` (D,), the largest first. The
codes have d dimensions, d < D. Use torch only, not torch.distributions.
"""

import torch
from torch import Tensor

from exercises import TODO


def least_error(values: Tensor, d: int) -> Tensor:
    """Returns the smallest mean of |x - B E x|^2, (), of a linear auto-encoder."""
    return TODO  # the directions without a code


def shrinkage(v: Tensor, variance: Tensor) -> Tensor:
    """Returns the factor, (batch,), of a direction in the mean reconstruction of `ppca`.

    v: variance of the data in the direction, noise included, (batch,); variance: of the noise, (batch,).
    """
    return TODO  # one without noise


def same_reconstructions(decoder: Tensor, a: Tensor) -> Tensor:
    """Returns the decoder of the codes a z, (D, d), with the reconstructions that `decoder` has from z.

    decoder: the decoder of z, (D, d); a: invertible, (d, d).
    """
    return TODO  # which codes does the old decoder read?


def narrow_kl(codes: Tensor, t: Tensor) -> Tensor:
    """Returns KL(N(code, t^2 I) || N(0, I)), (batch,), in nats.

    codes: (batch, d); t: a standard deviation, ().
    """
    return TODO  # it grows without limit as t goes to 0
