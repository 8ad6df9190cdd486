"""How raw values of a data set become what a model observes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.data.arrays import Tensors, read_codes, read_images, read_points

Noise = np.random.RandomState | None  # the next images' fixed noise; None: that of the first images


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


def fixed_binarization(x: Tensor, noise: Noise = None) -> Tensor:
    """Converts levels 0..255 to 0 or 1 with fixed noise: one binomial sample per pixel by RandomState(0)."""
    ones = (noise or np.random.RandomState(0)).binomial(1, x.cpu().numpy() / 255)
    return torch.from_numpy(ones.astype(np.uint8)).to(x.device)


def unit(x: Tensor, noise: Noise = None) -> Tensor:
    """Converts levels 0..255 to 0..1."""
    return x.to(torch.get_default_dtype()) / 255


def centred(x: Tensor, noise: Noise = None) -> Tensor:
    """Converts levels 0..255 to -1..1."""
    return 2 * unit(x) - 1


def dequantize(x: Tensor) -> Tensor:
    """Converts levels 0..255 to -1..1 and adds uniform noise as wide as a level. Every call samples again."""
    return (x + torch.rand(x.shape, dtype=torch.get_default_dtype(), device=x.device)) / 128 - 1


def fixed_dequantization(x: Tensor, noise: Noise = None) -> Tensor:
    """Converts levels 0..255 as `dequantize` does, with fixed noise: NumPy's RandomState(0) samples it."""
    added = (noise or np.random.RandomState(0)).uniform(size=x.shape).astype(np.float32)
    return (x + torch.from_numpy(added).to(x.device)) / 128 - 1


def identity(x: Tensor, noise: Noise = None) -> Tensor:
    """Converts points or codes to the default dtype; the values stay the same."""
    return x.to(torch.get_default_dtype())


def _same(x: Tensor) -> Tensor:
    return x


def _centred_to_unit(x: Tensor) -> Tensor:
    return (x + 1) / 2


@dataclass(frozen=True, eq=False)
class DataKind:
    """What a data set holds: images, points or codes.

    Attributes:
        name: of the kind, in the plural.
        noun: one data point in words.
        read: converts a user's arrays by part to tensors of one shape; returns them and the value of white in
            the arrays, or None. It raises `UserError` if they hold something else.
        example: returns n random raw values of a shape; discrete ones are below a number.
        drawn: how `inference.plots` and the report draw data points: "images", "points", or None if they
            cannot be drawn as they are.
        samples: of the latents per data point in the evaluation after training.
        default: how to name data of this kind on the command line, for messages.
    """

    name: str
    noun: str
    read: Callable[[dict[str, np.ndarray], str, int | None], Tensors]
    example: Callable[[tuple[int, ...], int, int], Tensor]
    drawn: str | None
    samples: int
    default: str


def _integers(shape: tuple[int, ...], n: int, below: int) -> Tensor:
    return torch.randint(below, (n, *shape), dtype=torch.uint8)


def _bits(shape: tuple[int, ...], n: int, below: int) -> Tensor:
    return torch.randint(2, (n, *shape)).to(torch.get_default_dtype())


def _normals(shape: tuple[int, ...], n: int, below: int) -> Tensor:
    return torch.randn(n, *shape)


IMAGES = DataKind("images", "image", read_images, _integers, "images", 10, "--data digits")
POINTS = DataKind("points", "point", read_points, _normals, "points", 100, "--data smiley")
# Codes are shown decoded: see `inference.training.code_prior`.
CODES = DataKind("codes", "image", read_codes, _integers, None, 10, "--code-prior and --stage1-run")


@dataclass(frozen=True, eq=False)
class ObservationKind:
    """How raw values of a data set become the observation x of a model, and back.

    Attributes:
        data: what the data set holds.
        train: converts raw values to x in training; may sample noise from torch's generator.
        test: converts raw values to x in held-out data; its noise is fixed. A second argument continues the
            noise from one chunk of the data to the next.
        levels: converts raw values to the range of x, without noise where the model accepts such values.
        shown: converts x to the range 0..1 in which images are plotted; leaves points and codes as they are.
        label: describes x in results. The text before the colon names the kind.
        example: returns random raw values as `DataKind.example` does; None: that of `data`.
        values: the only values of x that the model accepts; None: any.
    """

    data: DataKind
    train: Callable[[Tensor], Tensor]
    test: Callable[..., Tensor]
    levels: Callable[[Tensor], Tensor]
    shown: Callable[[Tensor], Tensor]
    label: str
    example: Callable[[tuple[int, ...], int, int], Tensor] | None = None
    values: tuple[float, ...] | None = None


NOISE = "resampled in training, fixed in the test set by RandomState(0)"
# Models name their kind in `observation`. To add one, put it here under a name of your own.
OBSERVATIONS = {
    "binary": ObservationKind(IMAGES, binarize, fixed_binarization, unit, _same, f"0 or 1: {NOISE}"),
    "unit": ObservationKind(IMAGES, unit, unit, unit, _same, "0 to 1"),
    "centred": ObservationKind(IMAGES, centred, centred, centred, _centred_to_unit, "-1 to 1"),
    "dequantised": ObservationKind(
        IMAGES,
        dequantize,
        fixed_dequantization,
        centred,
        _centred_to_unit,
        f"-1 to 1, with uniform noise of a level's width: {NOISE}",
    ),
    "codes": ObservationKind(CODES, identity, identity, identity, _same, "codes as they are"),
    "points": ObservationKind(POINTS, identity, identity, identity, _same, "points as they are"),
    "bits": ObservationKind(
        POINTS, identity, identity, identity, _same, "zeros and ones as they are", _bits, (0.0, 1.0)
    ),
}
