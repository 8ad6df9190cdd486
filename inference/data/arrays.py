"""Conversion of a user's arrays to tensors: images of any scale and layout, points and codes."""

import math

import numpy as np
import torch
from torch import Tensor

from inference.data.stored import Data, Rows, is_stored, slices
from inference.errors import UserError

CHUNK = 1_000  # images converted at a time
LAST_TOKEN = 2**20  # float32 has every whole number up to 2^24
TOLERANCE = 1e-3  # fraction of the scale by which floats may exceed it because of rounding; they are clipped
WHITES = (16, 255, 1023, 4095, 16383, 65535)  # usual values of white, for advice only


Tensors = tuple[dict[str, Data], int | None]


def read_images(x: dict[str, np.ndarray], name: str, dims: int | None = None) -> Tensors:
    """Converts the parts of a data set of images to levels 0..255.

    Args:
        x: arrays by part, such as `x_train` and `x_test`; the keys are for messages. They are images
            (n, height, width), (n, height, width, channels) or (n, channels, height, width) with 1 or 3
            channels.
        name: what messages call the data.
        dims: not used.

    Returns:
        Tensors by part, uint8 (n, channels, height, width), and the scale of the images (see `image_scale`).
        An array that stays on disk (see `stored.is_stored`) becomes `Rows`, which convert what is read.

    Raises:
        UserError: an array holds something else, or the parts do not fit together.
    """
    _check_numbers(x, name)
    axes = {part: _channel_axis(array.shape, f"{name}: {part}") for part, array in x.items()}
    scale = image_scale(x, name)
    levels = {part: _convert(array, axes[part], scale) for part, array in x.items()}
    return _of_one_shape(levels, name, "images"), scale


def read_codes(x: dict[str, np.ndarray], name: str, dims: int | None = None) -> Tensors:
    """Converts the parts of a data set of codes, whole numbers from 0 to 255, (n, height, width).

    Returns:
        Tensors by part, uint8 (n, 1, height, width), and None.

    Raises:
        UserError: an array holds something else, or the parts do not fit together.
    """
    _check_numbers(x, name)
    axes = {part: _channel_axis(array.shape, f"{name}: {part}") for part, array in x.items()}
    _check_codes(x, name)
    codes = {part: _convert(array, axes[part], 255) for part, array in x.items()}
    return _of_one_shape(codes, name, "images"), None


def read_points(x: dict[str, np.ndarray], name: str, dims: int | None = None) -> Tensors:
    """Converts the parts of a data set of points (n, d).

    Args:
        x: arrays by part; the keys are for messages.
        name: what messages call the data.
        dims: the dimensions of a point; None allows any number.

    Returns:
        Tensors by part, float32 (n, d), and None.

    Raises:
        UserError: an array holds something else, or the parts do not fit together.
    """
    _check_numbers(x, name)
    points: dict[str, Data] = {part: _to_points(array, f"{name}: {part}", dims) for part, array in x.items()}
    return _of_one_shape(points, name, "points"), None


def read_sequences(x: dict[str, np.ndarray], name: str, dims: int | None = None) -> Tensors:
    """Converts the parts of a data set of sequences, numbers of tokens (n, length).

    After the first 1 (`<end>`) or 0 (padding) of a sequence all numbers are 0.

    Returns:
        Tensors by part, int32 (n, length), and None.

    Raises:
        UserError: an array holds something else, or the parts do not fit together.
    """
    _check_numbers(x, name)
    for part, tokens in x.items():
        what = f"{name}: {part}"
        if tokens.ndim != 2 or tokens.dtype.kind not in "bui":
            raise UserError(
                f"{what} has type {tokens.dtype} and shape {tokens.shape}. Give whole numbers of tokens, (n, "
                "length)."
            )
        unknown = (tokens < 0) | (tokens > LAST_TOKEN)
        _refuse_where(
            unknown, f"{what} has {{}} outside 0..{LAST_TOKEN}", "Give the numbers of a vocabulary."
        )
        ended = np.cumsum(tokens <= 1, axis=1) > 0
        late = np.pad(ended, ((0, 0), (1, 0)))[:, :-1] & (tokens != 0)
        late[:, 0] |= tokens[:, 0] == 0
        _refuse_where(
            late, f"{what} has {{}} after the end of a sequence, or empty sequences", "Use 0 there."
        )
    sequences: dict[str, Data] = {
        part: torch.from_numpy(tokens.astype(np.int32)) for part, tokens in x.items()
    }
    return _of_one_shape(sequences, name, "sequences"), None


def _of_one_shape(tensors: dict[str, Data], name: str, what: str) -> dict[str, Data]:
    """Returns the parts. Raises UserError if they differ in shape."""
    if len({tensor.shape[1:] for tensor in tensors.values()}) > 1:
        raise UserError(
            f"{name}: {what} of {' and '.join(tensors)} differ in shape. Give them the same shape."
        )
    return tensors


def image_scale(x: dict[str, np.ndarray], name: str) -> int:
    """Returns the value of white in images, the same in all parts: 1, 255 or (for uint16 only) 65535.

    The largest value must be in the upper half of the scale, except that floats from 0 to 1 may be darker,
    down to 1 / 255. Every part that is not all 0 must reach an eighth of the scale. Floats may exceed the
    range by a thousandth of the scale.

    Args:
        x: the parts by name, arrays of finite numbers of any shape.
        name: what messages call the data.

    Raises:
        UserError: no scale fits, or the parts disagree. The message gives the range of each part.
    """
    ranges = {part: _range(images) for part, images in x.items()}
    low, high = ({part: found[end] for part, found in ranges.items()} for end in (0, 1))
    top = max(high.values())
    darkest = min((value for value in high.values() if value > 0), default=0.0)
    floats = any(images.dtype.kind == "f" for images in x.values())
    slack = TOLERANCE if floats else 0.0
    all_uint16 = all(images.dtype.kind == "u" and images.dtype.itemsize == 2 for images in x.values())
    for part, images in x.items():
        if low[part] < -slack * (1 if top <= 1 + slack else 255):
            both = max(top, -min(low.values())) <= 1 + slack
            advice = "Rescale -1..1 with (x + 1) / 2." if both else "Rescale the images to 0..1."
            what = f"{name}: {part} runs from {low[part]:.7g} to {high[part]:.7g} and has {{}} below 0"
            _refuse_where(images < 0, what, advice)
    if top <= 1 + slack and (top == 0 or darkest > 1 / 255):
        return 1
    for scale in (255, 65535) if all_uint16 else (255,):
        if scale / 2 <= top <= scale * (1 + slack) and darkest >= scale / 8:
            return scale
    white = next((value for value in WHITES if top <= value), None)
    advice = f"x / {white}" if white else "x / x.max(), with the same maximum for every part"
    if darkest < top / 8:  # no scale fits every part
        advice = "each part by its own, for example x / 255"
    elif top <= 1:
        advice = "x * 255 if they were divided by 255 twice"
    said = " and ".join(f"{part} runs from {low[part]:.7g} to {high[part]:.7g}" for part in x)
    raise UserError(
        f"{name}: {said}, so white may be 1, 255 or another value. "
        f"Give every part as floats in 0..1, divided by the value of white ({advice})."
    )


def _check_numbers(parts: dict[str, np.ndarray], name: str) -> None:
    """Raises UserError unless each part holds finite numbers, at least one."""
    for part, x in parts.items():
        what = f"{name}: {part}"
        if x.ndim == 0 or x.size == 0:
            raise UserError(f"{what} has shape {x.shape}, so it is empty. Give at least one image or point.")
        if x.dtype.kind not in "buif":
            raise UserError(f"{what} has type {x.dtype}. Give an array of numbers.")
        if x.dtype.kind == "f" and not all(np.isfinite(some).all() for some in slices(x)):
            _refuse_where(~np.isfinite(x), f"{what} has {{}} of NaN or infinity", "Replace or remove them.")


def _range(x: np.ndarray) -> tuple[float, float]:
    """Returns the smallest and the largest value, after one reading of what is on disk."""
    ends = [(some.min(), some.max()) for some in slices(x)]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def _refuse_where(wrong: np.ndarray, complaint: str, advice: str) -> None:
    """Raises UserError with the count and the first index if anything is wrong."""
    count = int(np.count_nonzero(wrong))
    if count:
        first = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        values = f"{count} value{'s' * (count > 1)}"
        raise UserError(f"{complaint.format(values)}, the first at index {first}. {advice}")


def _to_points(x: np.ndarray, what: str, dims: int | None) -> Tensor:
    """Converts points (n, dims) to float32."""
    if x.ndim != 2 or dims not in (None, x.shape[1]):
        takes = "points of shape (n, d)" if dims is None else "points in the plane, shape (n, 2)"
        raise UserError(f"{what} has shape {x.shape}. This model takes {takes}.")
    with np.errstate(over="ignore"):
        points = np.ascontiguousarray(x, dtype=np.float32)
    _refuse_where(~np.isfinite(points), f"{what} has {{}} beyond the range of float32", "Rescale the points.")
    return torch.from_numpy(points)


def _channel_axis(shape: tuple[int, ...], what: str) -> int | None:
    """Returns the axis of an image array that holds the channels, 1 or 3; None if there is none.

    If both the last and the second axis may hold channels, it is the last.
    """
    if len(shape) == 3:
        return None
    if len(shape) == 4:
        for axis in (3, 1):
            if shape[axis] in (1, 3):
                return axis
    layouts = "Give an array (n, height, width) or (n, height, width, 1 or 3)"
    advice = f"{layouts}."
    if len(shape) == 4 and shape[3] == 4:
        advice = "Drop the alpha channel, x[..., :3]."
    elif len(shape) == 4 and shape[1] == 4:
        advice = "Drop the alpha channel and move the axis, numpy.moveaxis(x[:, :3], 1, -1)."
    elif len(shape) == 4:
        advice = f"{layouts}. If the channels come first, move the axis: numpy.moveaxis(x, 1, -1)."
    elif len(shape) == 2 and shape[1] == 2:
        advice = f"{layouts}. For points in the plane use --model vae2d or flow."
    elif len(shape) == 2:
        side = math.isqrt(shape[1])
        sizes = f"{side}, {side}" if side**2 == shape[1] else "height, width"
        advice = f"If each row is an image, use x.reshape(len(x), {sizes})."
    raise UserError(
        f"{what} has shape {shape}, but images are (n, height, width) with 1 or 3 channels. {advice}"
    )


def _channel_first(x: np.ndarray, axis: int | None) -> np.ndarray:
    """Converts images to (n, channels, height, width)."""
    return np.ascontiguousarray(x[:, None] if axis is None else np.moveaxis(x, axis, 1))


def _check_codes(x: dict[str, np.ndarray], name: str) -> None:
    """Raises UserError unless every part holds whole numbers from 0 to 255."""
    for part, codes in x.items():
        low, high = _range(codes)
        if codes.dtype.kind not in "bui" or low < 0 or high > 255:
            raise UserError(
                f"{name}: {part} has type {codes.dtype} and runs from {low:g} to {high:g}. "
                "Codes are whole numbers from 0 to 255."
            )


def _convert(x: np.ndarray, axis: int | None, scale: int) -> Data:
    """Converts images to levels 0..255, (n, channels, height, width); rows on disk when they are read."""

    def convert(some: np.ndarray) -> Tensor:
        return _to_levels(_channel_first(some, axis), scale)

    return Rows(x, convert) if is_stored(x) else convert(x)


def _to_levels(x: np.ndarray, scale: int) -> Tensor:
    """Rounds images on a scale of 0..`scale` to levels 0..255, uint8, chunk by chunk to save memory."""
    if x.dtype == np.uint8 and scale == 255:
        usable = x.flags.writeable and min(x.strides) >= 0  # one reversed image counts as contiguous
        return torch.from_numpy(x if usable else x.copy())
    levels = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), CHUNK):
        levels[start : start + CHUNK] = np.rint(x[start : start + CHUNK] * (255 / scale)).clip(0, 255)
    return torch.from_numpy(levels)
