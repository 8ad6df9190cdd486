"""Solution of exercise 10: beta-VAE, a weight that is a variance."""

import math

import torch
from torch import Tensor


def decoder_variance(beta: Tensor, pixels: int) -> Tensor:
    """Returns s^2, the variance for which J is beta (-ELBO(x)) plus a constant.  beta: (); pixels: D."""
    return beta * pixels / 2


def negative_log_likelihood(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Returns -log N(x; mean, s^2 I) in nats, (batch,).  x, mean: (batch, D); variance: s^2, ()."""
    squares = ((x - mean) ** 2).sum(-1)
    return squares / (2 * variance) + x.shape[-1] / 2 * torch.log(2 * math.pi * variance)


def course_loss(negative_elbo: Tensor, beta: Tensor, pixels: int) -> Tensor:
    """Returns J, (batch,), from -ELBO(x) of the model with that variance.

    negative_elbo: (batch,); beta: (); pixels: D.
    """
    return beta * negative_elbo - beta * pixels / 2 * torch.log(math.pi * beta * pixels)


def best_variance(x: Tensor, mean: Tensor) -> Tensor:
    """Returns the s^2, (), with the smallest batch mean of -log N(x; mean, s^2 I), for fixed means."""
    return ((x - mean) ** 2).mean()
