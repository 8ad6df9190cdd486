"""Exercise 30: causal convolutions and causal attention.

Read docs/derivations/24-causal-networks.md. Then replace each TODO and run

    python -m exercises.check 30

A network gives log p(x_i | x_1, ..., x_{i-1}) for all positions i in one pass. Use torch only, not
torch.distributions and not torch.nn.functional.scaled_dot_product_attention.
"""

import math

import torch
from torch import Tensor

from exercises import TODO


def in_field(rows: Tensor, columns: Tensor, layers: int) -> Tensor:
    """Returns which pixels an output of a PixelCNN depends on, zeros and ones, (height, width).

    rows, columns: the position of each pixel minus the position of the output, (height, width).
    """
    return TODO  # the rows above, and the output's own row


def shifted(x: Tensor, start: Tensor) -> Tensor:
    """Returns the input of a Transformer, (batch, n, c), from x (batch, n, c) and the start token (c,)."""
    return TODO  # position i gets x_{i-1}


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns the output of causal attention, (batch, n, d), from queries, keys and values (batch, n, d)."""
    later = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
    return TODO  # scores, mask, softmax, in this order


def log_probability(logits: Tensor, codes: Tensor) -> Tensor:
    """Returns log p(x), (batch,), from the logits of each position (batch, n, codes) and x (batch, n)."""
    return TODO  # the chain rule
