"""Exercise 1: the chain rule and MADE.

Read docs/derivations/01-chain-rule-and-made.md. Then replace each TODO and run

    python -m exercises.check 01

MADE is a network with one hidden layer. It computes the logits of p(x_i | x_1, ..., x_{i-1}) for all pixels i
at once. Each unit has a number. An input and its output have the position of the pixel, from 1 to D. A hidden
unit has any number from 1 to D - 1. A mask is 1 where a connection is kept, and 0 where it is removed.

Use torch only, not torch.distributions.
"""

import math

import torch
from torch import Tensor

from exercises import TODO


def hidden_mask(inputs: Tensor, hidden: Tensor) -> Tensor:
    """Returns the mask from the inputs to the hidden units, zeros and ones, (H, D).

    inputs: the numbers of the inputs, (D,).  hidden: the numbers of the hidden units, (H,).
    """
    return TODO  # which connections are kept?


def output_mask(hidden: Tensor, outputs: Tensor) -> Tensor:
    """Returns the mask from the hidden units to the outputs, zeros and ones, (D, H).

    hidden: the numbers of the hidden units, (H,).  outputs: the numbers of the outputs, (D,).
    """
    return TODO  # an output must not see its own pixel


def log_density(x: Tensor, logits: Tensor) -> Tensor:
    """Returns log p(x) in nats, (batch,).

    p(x_i = 1 | ...) = 1 / (1 + exp(-logits_i)).  x: zeros and ones, (batch, D).  logits: (batch, D).
    """
    return TODO  # the sum over the pixels


def log_mixture(log_p: Tensor) -> Tensor:
    """Returns log p(x) in nats, (batch,), where p is the mean of k densities p_j, one for each ordering.

    log_p: log p_j(x), (k, batch).
    """
    return TODO  # the logarithm of a mean
