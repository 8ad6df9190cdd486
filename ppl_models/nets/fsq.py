"""Finite scalar quantization (FSQ): each dimension of a vector is rounded to one of a few levels."""

import math

import torch
from torch import Tensor, nn

from ppl_models.nets.codebook import Quantizer

MARGIN = 1e-3  # the fraction by which the range of a squashed value is narrower than that of its levels
# Levels of each dimension. (8, 6, 5) is the choice of the paper for 2^8 codes. Other implementations have
# (5, 3) and (8, 8) for 2^4 and 2^6; (5, 5, 5) is ours for 2^7, with at least 5 levels as the paper advises.
LEVELS = ((5, 3), (8, 8), (5, 5, 5), (8, 6, 5))


def levels_for(codes: int) -> tuple[int, ...]:
    """Returns the levels of the largest grid in `LEVELS` with at most `codes` entries.

    Raises:
        ValueError: The smallest grid has more entries.

    Example:
        >>> levels_for(128)
        (5, 5, 5)
    """
    fitting = [levels for levels in LEVELS if math.prod(levels) <= codes]
    if not fitting:
        smallest = min(map(math.prod, LEVELS))
        raise ValueError(f"{codes} codes are too few for quantizer fsq. Use at least {smallest}.")
    return max(fitting, key=math.prod)


class Squash(nn.Module):
    """Maps each dimension smoothly into the range of its levels, `(n, d, height, width)` both.

    With L levels, m = floor(L / 2), s = (1 - MARGIN) (L - 1) / 2, and o = 1/2 if L is even, else 0:

        e = (s tanh(h + artanh(o / s)) - o) / m

    so that 0 is mapped to 0, and m e lies between the lowest level, -m, and the highest one, L - 1 - m.

    Mentzer, Minnen, Agustsson and Tschannen 2023, Finite Scalar Quantization: VQ-VAE Made Simple (arXiv
    2309.15505), appendix A.1. The paper's code has tan instead of artanh: for `LEVELS` they differ by less
    than 3e-5.

    Args:
        levels: the number of levels of each dimension, d of them, 3 or more each.
    """

    shift: Tensor  # (d, 1, 1), as the others
    scale: Tensor
    offset: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        count = torch.tensor(levels).view(-1, 1, 1)
        half = count // 2
        scale = (1 - MARGIN) * (count - 1) / 2 / half
        offset = torch.where(count % 2 == 0, 0.5, 0.0) / half
        self.register_buffer("shift", (offset / scale).atanh(), persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        return (h + self.shift).tanh() * self.scale - self.offset


class FSQ(Quantizer):
    """A fixed grid of entries: dimension j has L_j levels, and the nearest entry is found by rounding.

    The levels of a dimension are k / floor(L / 2) for the integers k from -floor(L / 2), L of them: -1, -1/2,
    0, 1/2 and 1 for L = 5. The index of an entry is sum_j k_j L_1 ... L_{j-1}, where k_j counts from 0.
    Nothing is learned.

    Mentzer, Minnen, Agustsson and Tschannen 2023 (arXiv 2309.15505), section 3.

    Args:
        levels: the number of levels of each dimension, d of them, 3 or more each.
    """

    levels: Tensor  # (d,)
    strides: Tensor  # in the index of an entry, (d,)

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        count = torch.tensor(levels)
        strides, half = count.cumprod(0) // count, count // 2
        digits = torch.arange(math.prod(levels))[:, None] // strides % count
        self.register_buffer("levels", count, persistent=False)
        self.register_buffer("strides", strides, persistent=False)
        self.register_buffer("entries", (digits - half) / half, persistent=False)

    def nearest(self, e: Tensor) -> Tensor:
        """Returns the nearest entries' indices `(..., height, width)`, by rounding each dimension."""
        with torch.no_grad(), torch.autocast(e.device.type, enabled=False):
            half = self.levels // 2
            digits = (e.movedim(-3, -1) * half).round().long() + half
            return (digits.clamp_min(0).minimum(self.levels - 1) * self.strides).sum(-1)
