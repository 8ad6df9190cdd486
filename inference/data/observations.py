"""How raw values of a data set become what a model observes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.data.arrays import Tensors, read_codes, read_images, read_points, read_sequences
from inference.errors import UserError, unknown
from ppl_models.distributions.token_sequence import END, PAD, UNKNOWN

MAX_SHIFT = 1 / 14  # of the height and of the width, see `shifted`
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


def shifted(x: Tensor) -> Tensor:
    """Converts levels 0..255 to 0..1 and shifts each image at random, with zeros from outside.

    The shifts along height and width are independent and uniform, at most 1/14 of the side: 2 of 28 pixels.
    Every call samples again. Values between pixels are interpolated linearly along each axis, by a product
    with a matrix whose rows have the weights 1 - f and f.

    Args:
        x: `(n, channels, height, width)`.
    """
    moved = unit(x)
    for axis in (-2, -1):
        place = torch.arange(x.shape[axis], device=x.device)
        by = (
            x.shape[axis] * MAX_SHIFT * (2 * torch.rand(len(x), 1, 1, dtype=moved.dtype, device=x.device) - 1)
        )
        weights = (1 - (place[:, None] - place - by).abs()).clamp(min=0).unsqueeze(1)  # (n, 1, side, side)
        moved = weights @ moved if axis == -2 else moved @ weights.mT
    return moved.clamp(max=1)  # rounding


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
    """What a data set holds, such as images, points, codes or sequences.

    Attributes:
        name: of the kind, in the plural.
        noun: one data point in words.
        read: converts a user's arrays by part to tensors of one shape; returns them and the value of white in
            the arrays, or None. It raises `UserError` if they hold something else.
        example: returns random raw values, (n, *shape), from the shape, n, and a number below which discrete
            values are.
        drawn: how `inference.plots` and the report draw data points: "images", "points", "text", or None if
            they cannot be drawn as they are.
        samples: of the latents per data point in the evaluation after training.
        default: how to name data of this kind on the command line, for messages.
        raw: converts what `ObservationKind.shown` returns to raw values.
    """

    name: str
    noun: str
    read: Callable[[dict[str, np.ndarray], str, int | None], Tensors]
    example: Callable[[tuple[int, ...], int, int], Tensor]
    drawn: str | None = None
    samples: int = 10
    default: str = "--data FILE.npz"
    raw: Callable[[Tensor], Tensor] = _same


def _integers(shape: tuple[int, ...], n: int, below: int) -> Tensor:
    return torch.randint(below, (n, *shape), dtype=torch.uint8)


def _bits(shape: tuple[int, ...], n: int, below: int) -> Tensor:
    return torch.randint(2, (n, *shape)).to(torch.get_default_dtype())


def _sequences(shape: tuple[int, ...], n: int, below: int) -> Tensor:
    """Returns sequences of random lengths; some are cut."""
    x = torch.randint(UNKNOWN, below, (n, *shape), dtype=torch.int32)
    end, place = torch.randint(shape[0] + 1, (n, 1)), torch.arange(shape[0])
    return torch.where(place < end, x, torch.where(place == end, END, PAD).to(x.dtype))


def _levels(x: Tensor) -> Tensor:
    return (255 * x).round().clamp(0, 255).to(torch.uint8)


def _whole(x: Tensor) -> Tensor:
    return x.to(torch.int32)


def _normals(shape: tuple[int, ...], n: int, below: int) -> Tensor:
    return torch.randn(n, *shape)


IMAGES = DataKind("images", "image", read_images, _integers, "images", 10, "--data digits", _levels)
POINTS = DataKind("points", "point", read_points, _normals, "points", 100, "--data smiley")
# Codes are shown decoded: see `inference.training.code_prior`.
CODES = DataKind(
    "codes",
    "image",
    read_codes,
    _integers,
    default="--code-prior and --stage1-run",
    raw=lambda x: x.to(torch.uint8),
)
SEQUENCES = DataKind(
    "sequences", "sequence", read_sequences, _sequences, "text", 10, "--data FILE.txt", _whole
)


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
    shown: Callable[[Tensor], Tensor] = _same
    label: str = "values as they are"
    example: Callable[[tuple[int, ...], int, int], Tensor] | None = None
    values: tuple[float, ...] | None = None


class _Kinds(dict[str, ObservationKind]):
    """Kinds of observation by name."""

    def __missing__(self, name: str) -> ObservationKind:
        raise unknown("kind of observation", name, self)


NOISE = "resampled in training, fixed in the test set by RandomState(0)"
# Models name their kind in `observation`. `register_observation` adds one.
OBSERVATIONS = _Kinds(
    {
        "binary": ObservationKind(IMAGES, binarize, fixed_binarization, unit, _same, f"0 or 1: {NOISE}"),
        "unit": ObservationKind(IMAGES, unit, unit, unit, _same, "0 to 1"),
        "shifted": ObservationKind(
            IMAGES, shifted, unit, unit, _same, "0 to 1: shifted by up to 1/14 of the sides in training only"
        ),
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
        "tokens": ObservationKind(SEQUENCES, identity, identity, identity, _same, "numbers of tokens"),
    }
)
SUITE = frozenset(OBSERVATIONS)


def register_observation(name: str, kind: ObservationKind) -> ObservationKind:
    """Registers a kind of observation, so that a model class can name it in `observation`.

    Call it in the file of the model. A kind that is registered again, as in a notebook, replaces the earlier
    one.

    Args:
        name: a lower-case identifier.
        kind: how raw values become observations. `kind.data` says what a file or an array holds.

    Returns:
        The kind.

    Raises:
        UserError: the name is malformed or belongs to a kind of the suite, or `kind` is something else.

    Example:
        >>> from inference.data import DataKind, ObservationKind, register_observation
        >>> from inference.data.arrays import read_points
        >>> from inference.data.observations import identity
        >>> rows = DataKind("rows", "row", read_points, lambda shape, n, below: torch.randn(n, *shape))
        >>> register_observation("rows", ObservationKind(rows, identity, identity, identity)).data.noun
        'row'
    """
    if not (isinstance(name, str) and name.isidentifier() and name == name.lower()):
        raise UserError(f"{name!r} is not a lower-case identifier. Choose a name such as 'counts'.")
    if name in SUITE:
        raise UserError(f"{name!r} is a kind of observation of the suite. Choose another name.")
    if not (isinstance(kind, ObservationKind) and isinstance(kind.data, DataKind)):
        raise UserError(f"{kind!r:.100} is not an ObservationKind with a DataKind. Register such an object.")
    OBSERVATIONS[name] = kind
    return kind
