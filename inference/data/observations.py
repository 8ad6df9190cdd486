"""How raw values of a data set become what a model observes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def binarize(x: Tensor) -> Tensor:
    """Converts levels 0..255 to 0 or 1, each 1 with probability x / 255. Every call samples again.

    Each pixel compares x / 255 with 16 random bits as a fraction of 65536. The probability is exact for 0 and
    255, and off by less than 1 / 65536 for the others. One random integer has the bits of four pixels:
    generating them is a visible part of a small step.
    """
    count = x.numel()
    integers = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),), dtype=torch.int64, device=x.device)
    high, low = integers.view(torch.uint8)[: 2 * count].to(torch.get_default_dtype()).view(2, *x.shape)
    # exact: all products are integers below 2^24
    return (255 * (256 * high + low) < 65536 * x.to(high.dtype)).to(high.dtype)


def fixed_binarization(x: Tensor) -> Tensor:
    """Converts levels 0..255 to 0 or 1 with fixed noise: one binomial sample per pixel by RandomState(0)."""
    ones = np.random.RandomState(0).binomial(1, x.cpu().numpy() / 255)
    return torch.from_numpy(ones.astype(np.uint8)).to(x.device)


def unit(x: Tensor) -> Tensor:
    """Converts levels 0..255 to 0..1."""
    return x.to(torch.get_default_dtype()) / 255


def centred(x: Tensor) -> Tensor:
    """Converts levels 0..255 to -1..1."""
    return 2 * unit(x) - 1


def dequantize(x: Tensor) -> Tensor:
    """Converts levels 0..255 to -1..1 and adds uniform noise as wide as a level. Every call samples again."""
    return (x + torch.rand(x.shape, dtype=torch.get_default_dtype(), device=x.device)) / 128 - 1


def fixed_dequantization(x: Tensor) -> Tensor:
    """Converts levels 0..255 as `dequantize` does, with fixed noise: NumPy's RandomState(0) samples it."""
    noise = np.random.RandomState(0).uniform(size=x.shape).astype(np.float32)
    return (x + torch.from_numpy(noise).to(x.device)) / 128 - 1


def identity(x: Tensor) -> Tensor:
    """Converts points or codes to the default dtype; the values stay the same."""
    return x.to(torch.get_default_dtype())


def _same(x: Tensor) -> Tensor:
    return x


def _centred_to_unit(x: Tensor) -> Tensor:
    return (x + 1) / 2


class ObservationKind(NamedTuple):
    """How raw values of a data set become the observation x of a model, and back.

    Attributes:
        train: converts raw values to x in training; may sample noise from torch's generator.
        test: converts raw values to x in held-out data; its noise is fixed.
        levels: converts raw values to the range of x, without noise where the model accepts such values.
        shown: converts x to the range 0..1 in which images are plotted; leaves points and codes as they are.
        label: describes x in results. The text before the colon names the kind.
    """

    train: Callable[[Tensor], Tensor]
    test: Callable[[Tensor], Tensor]
    levels: Callable[[Tensor], Tensor]
    shown: Callable[[Tensor], Tensor]
    label: str


NOISE = "resampled in training, fixed in the test set by RandomState(0)"
OBSERVATIONS = {
    "binary": ObservationKind(binarize, fixed_binarization, unit, _same, f"0 or 1: {NOISE}"),
    "unit": ObservationKind(unit, unit, unit, _same, "0 to 1"),
    "centred": ObservationKind(centred, centred, centred, _centred_to_unit, "-1 to 1"),
    "dequantised": ObservationKind(
        dequantize,
        fixed_dequantization,
        centred,
        _centred_to_unit,
        f"-1 to 1, with uniform noise of a level's width: {NOISE}",
    ),
    "codes": ObservationKind(identity, identity, identity, _same, "codes as they are"),
    "points": ObservationKind(identity, identity, identity, _same, "points as they are"),
}
