"""Solution of exercise 28: what the decoder cannot say goes into z."""

import math

import torch
from torch import Tensor


def entropy(covariance: Tensor) -> Tensor:
    """Returns h(x), (), of a normal x in the plane.  covariance: (2, 2)."""
    return math.log(2 * math.pi * math.e) + 0.5 * covariance.logdet()


def conditional_entropy(scales: Tensor) -> Tensor:
    """Returns h(x | z), (), the mean over the samples of z.

    scales: standard deviations of p(x | z), (batch, 2).
    """
    return math.log(2 * math.pi * math.e) + scales.log().sum(-1).mean()


def one_scale(covariance: Tensor) -> Tensor:
    """Returns the smallest mean KL term, (), if the decoder has one scale for both axes."""
    noise = torch.linalg.eigvalsh(covariance)[0]
    return 0.5 * covariance.logdet() - noise.log()


def scale_per_axis(a: Tensor, c: Tensor) -> Tensor:
    """Returns the smallest mean KL term, (batch,), if the decoder has a scale for each axis.

    The data have the variance a along both axes, and the covariance c, |c| < a.  a, c: (batch,).
    """
    noise = a - c.abs()
    return 0.5 * (a**2 - c**2).log() - noise.log()


def price(kappa: Tensor, v: Tensor) -> Tensor:
    """Returns by how much a wrong variance 1 + kappa along a direction makes the bound worse, (batch,).

    v: the variance of the data in this direction; kappa, v: (batch,).
    """
    return 0.5 * ((1 + kappa).log() - v.log() + v / (1 + kappa) - 1)
