"""Solution of exercise 1: the chain rule and MADE."""

import math

import torch
from torch import Tensor


def hidden_mask(inputs: Tensor, hidden: Tensor) -> Tensor:
    """Returns the mask from the inputs to the hidden units, zeros and ones, (H, D).

    inputs: the numbers of the inputs, (D,).  hidden: the numbers of the hidden units, (H,).
    """
    return (hidden[:, None] >= inputs).double()


def output_mask(hidden: Tensor, outputs: Tensor) -> Tensor:
    """Returns the mask from the hidden units to the outputs, zeros and ones, (D, H).

    hidden: the numbers of the hidden units, (H,).  outputs: the numbers of the outputs, (D,).
    """
    return (outputs[:, None] > hidden).double()


def log_density(x: Tensor, logits: Tensor) -> Tensor:
    """Returns log p(x) in nats, (batch,).

    p(x_i = 1 | ...) = 1 / (1 + exp(-logits_i)).  x: zeros and ones, (batch, D).  logits: (batch, D).
    """
    return (x * logits - torch.log1p(logits.exp())).sum(-1)


def log_mixture(log_p: Tensor) -> Tensor:
    """Returns log p(x) in nats, (batch,), where p is the mean of k densities p_j, one for each ordering.

    log_p: log p_j(x), (k, batch).
    """
    return log_p.logsumexp(0) - math.log(len(log_p))
