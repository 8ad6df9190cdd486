"""Exercise 10: beta-VAE, a weight that is a variance.

Read docs/derivations/10-beta-as-a-variance.md. Then replace each TODO and run

    python -m exercises.check 10

A course minimises, for an image x with D pixels,

    J = mean squared error over the D pixels + beta KL(q(z | x) || p(z))

With the decoder p(x | z) = N(x; mean(z), s^2 I), J is beta (-ELBO(x)) and a constant, for one value of s^2.
Derive it. Use torch only.
"""

import math

import torch
from torch import Tensor

from exercises import TODO


def decoder_variance(beta: Tensor, pixels: int) -> Tensor:
    """Returns s^2, the variance for which J is beta (-ELBO(x)) plus a constant.  beta: (); pixels: D."""
    return TODO  # compare the factors of the squared error and of KL


def negative_log_likelihood(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Returns -log N(x; mean, s^2 I) in nats, (batch,).  x, mean: (batch, D); variance: s^2, ()."""
    return TODO  # with its constant


def course_loss(negative_elbo: Tensor, beta: Tensor, pixels: int) -> Tensor:
    """Returns J, (batch,), from -ELBO(x) of the model with that variance.

    negative_elbo: (batch,); beta: (); pixels: D.
    """
    return TODO  # beta (-ELBO), a constant


def best_variance(x: Tensor, mean: Tensor) -> Tensor:
    """Returns the s^2, (), with the smallest batch mean of -log N(x; mean, s^2 I), for fixed means."""
    return TODO  # where is the derivative zero?
