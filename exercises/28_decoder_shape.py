"""Exercise 28: what the decoder cannot say goes into z.

Read docs/derivations/22-what-the-decoder-cannot-say.md. Then replace each TODO and run

    python -m exercises.check 28

The data are normal points in the plane, and the decoder is p(x | z) = N(x; mean(z), T(z)), with one scale for
both axes or one for each. h is the entropy of a density, in nats. The model is perfect, apart from the last
function. Use torch only, not torch.distributions.
"""

import math

import torch
from torch import Tensor

from exercises import TODO


def entropy(covariance: Tensor) -> Tensor:
    """Returns h(x), (), of a normal x in the plane.  covariance: (2, 2)."""
    return TODO  # from the determinant


def conditional_entropy(scales: Tensor) -> Tensor:
    """Returns h(x | z), (), the mean over the samples of z.

    scales: standard deviations of p(x | z), (batch, 2).
    """
    return TODO  # log det T of a diagonal T


def one_scale(covariance: Tensor) -> Tensor:
    """Returns the smallest mean KL term, (), if the decoder has one scale for both axes."""
    return TODO  # how large can the scale be?


def scale_per_axis(a: Tensor, c: Tensor) -> Tensor:
    """Returns the smallest mean KL term, (batch,), if the decoder has a scale for each axis.

    The data have the variance a along both axes, and the covariance c, |c| < a.  a, c: (batch,).
    """
    return TODO  # the largest determinant of T


def price(kappa: Tensor, v: Tensor) -> Tensor:
    """Returns by how much a wrong variance 1 + kappa along a direction makes the bound worse, (batch,).

    v: the variance of the data in this direction; kappa, v: (batch,).
    """
    return TODO  # a KL divergence between two normals
