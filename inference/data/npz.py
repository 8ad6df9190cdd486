"""Images, points or codes of the user's own, in an .npz file."""

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.data.datasets import NAMES, Dataset
from inference.data.labels import Header, both_labels
from inference.errors import UserError
from inference.rundir.files import check_memory
from ppl_models.base import LatentVariableModel

CHUNK = 1_000  # images converted at a time
TOLERANCE = 1e-3  # share of the scale by which floats may exceed it, from rounding; they are clipped
WHITES = (1, 16, 255, 1023, 4095, 16383, 65535)  # usual values of white, for advice alone
SPLIT = "numpy.savez('own.npz', x_train=x[:-1000], x_test=x[-1000:])"
KEYS = ("x_train", "x_test", "y_train", "y_test")  # no other key is read


def load(path: Path, model: type[LatentVariableModel] | None = None) -> tuple[Dataset, str | None]:
    """Reads the data set of an .npz with x_train and x_test, and y_train and y_test if there are labels.

    Images are (n, height, width), (n, height, width, channels) or (n, channels, height, width) with 1 or 3
    channels. Their scale, 0..1, 0..255 or 0..65535, is detected (see `image_scale`). Points are (n, 2) and
    codes (n, height, width); neither is scaled. Labels are whole numbers, (n,). Other keys are not read.

    Args:
        path: the file.
        model: the class that the data are for. It decides whether x holds images, points or codes, and
            whether labels are required; without it x holds images and no labels are required.

    Returns:
        The data set, and one line for the user about scale and labels, or None.

    Raises:
        UserError: for anything else, before an array is read that is larger than the free memory.
    """
    kind = model.observation if model else "binary"
    labelled = bool(model and {"y", "x_labelled"} & set(model.inputs))
    arrays, headers = _read(path)
    x = {part: arrays.pop(f"x_{part}") for part in ("train", "test")}
    for part in x:
        _check_numbers(x[part], f"{path}: x_{part}")
    y, note = both_labels(path, arrays, headers, {part: len(x[part]) for part in x}, labelled)
    scale = None
    if kind == "points":
        tensors = {part: _points(x[part], f"{path}: x_{part}") for part in x}
    else:
        axes = {part: _channel_axis(x[part].shape, f"{path}: x_{part}") for part in x}
        if kind == "codes":
            _check_codes(path, x)
        else:
            scale = image_scale(x, str(path))
        tensors = {part: _levels(_channel_first(x[part], axes[part]), scale or 255) for part in x}
        if tensors["train"].shape[1:] != tensors["test"].shape[1:]:
            raise UserError(f"{path}: images of x_train and x_test differ in shape: make them the same")
    data = Dataset(str(path.resolve()), tensors["train"], y["train"], tensors["test"], y["test"], scale=scale)
    lines = [f"{path}: images are read on a scale of 0 to {scale}"] if scale else []
    return data, "; ".join(lines + ([note] if note else [])) or None


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Header]]:
    """The arrays of KEYS by name, but for labels of Python objects; and the headers of all of KEYS."""
    try:
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise UserError(f"{path} is a .npy, one array: load it as x and split it with {SPLIT}")
        headers, names = _headers(path)
        sizes = (math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())
        check_memory(3 * sum(sizes), str(path))  # as they are, with the channel first, and as levels
        for key in ("x_train", "x_test"):
            if key not in headers:
                raise UserError(
                    f"{path} has no {key}, only {', '.join(names) or 'nothing'}: "
                    f"split the images in two parts and save both, as in {SPLIT}"
                )
            if headers[key].dtype.hasobject:
                raise UserError(
                    f"{path} cannot be read, {key} is an array of Python objects: "
                    "save an array of numbers; numpy.stack makes one of images of the same size"
                )
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key, header in headers.items() if not header.dtype.hasobject}
    except FileNotFoundError:
        raise UserError(f"no file {path}: give the path of an .npz, or one of {', '.join(NAMES)}") from None
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise UserError(f"{path} cannot be read as an .npz ({error}): write it again") from None
    return arrays, headers


def _headers(path: Path) -> tuple[dict[str, Header], list[str]]:
    """The headers of KEYS, and the names of all arrays. Raises ValueError if a header and its data differ."""
    headers, names = {}, []
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            key = record.filename.removesuffix(".npy")
            names.append(key)
            if key not in KEYS:
                continue
            with archive.open(record) as file:
                major, _ = np.lib.format.read_magic(file)
                read = (
                    np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
                size = math.prod(shape) * dtype.itemsize
                if not dtype.hasobject and file.tell() + size != record.file_size:
                    raise ValueError(f"{record.filename} has another size than it says")
                headers[key] = Header(shape, dtype)
    return headers, names


def _check_numbers(x: np.ndarray, what: str) -> None:
    """Raises UserError unless x holds finite numbers, at least one."""
    if x.ndim == 0 or x.size == 0:
        raise UserError(f"{what} has shape {x.shape}, so it holds nothing: give at least one image or point")
    if x.dtype.kind not in "buif":
        raise UserError(f"{what} has type {x.dtype}: save an array of numbers")
    if x.dtype.kind == "f":
        _refuse_where(~np.isfinite(x), f"{what} has {{}} that are not finite", "replace or remove them")


def _refuse_where(wrong: np.ndarray, complaint: str, advice: str) -> None:
    """Raises UserError if anything is wrong, with the count and the first index."""
    count = int(np.count_nonzero(wrong))
    if count:
        first = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        values = f"{count} value{'s' * (count > 1)}"
        raise UserError(f"{complaint.format(values)}, the first at index {first}: {advice}")


def _points(x: np.ndarray, what: str) -> Tensor:
    """Points (n, 2) as float32."""
    if x.ndim != 2 or x.shape[1] != 2:
        raise UserError(f"{what} has shape {x.shape}: this model takes points in the plane, shape (n, 2)")
    with np.errstate(over="ignore"):
        points = np.ascontiguousarray(x, dtype=np.float32)
    _refuse_where(~np.isfinite(points), f"{what} has {{}} beyond the range of float32", "rescale the points")
    return torch.from_numpy(points)


def _channel_axis(shape: tuple[int, ...], what: str) -> int | None:
    """The axis of an image array that holds the channels, 1 or 3; None if there is none.

    The last axis is taken if both the last and the second may be meant.
    """
    if len(shape) == 3:
        return None
    if len(shape) == 4:
        for axis in (3, 1):
            if shape[axis] in (1, 3):
                return axis
    advice = "save them as (n, height, width) or (n, height, width, 1 or 3)"
    if len(shape) == 4 and shape[3] == 4:
        advice = "drop the alpha channel, x[..., :3]"
    elif len(shape) == 4 and shape[1] == 4:
        advice = "drop the alpha channel and move the axis, numpy.moveaxis(x[:, :3], 1, -1)"
    elif len(shape) == 4:
        advice += "; if the channels come first, move the axis: numpy.moveaxis(x, 1, -1)"
    elif len(shape) == 2 and shape[1] == 2:
        advice += "; points in the plane are for --model vae2d or flow"
    elif len(shape) == 2:
        side = math.isqrt(shape[1])
        sizes = f"{side}, {side}" if side**2 == shape[1] else "height, width"
        advice = f"if each row is an image, save x.reshape(len(x), {sizes})"
    raise UserError(f"{what} has shape {shape}: images are (n, height, width) and 1 or 3 channels; {advice}")


def _channel_first(x: np.ndarray, axis: int | None) -> np.ndarray:
    """Images as (n, channels, height, width)."""
    return np.ascontiguousarray(x[:, None] if axis is None else np.moveaxis(x, axis, 1))


def _check_codes(path: Path, x: dict[str, np.ndarray]) -> None:
    """Raises UserError unless both parts hold whole numbers from 0 to 255."""
    for part, codes in x.items():
        if codes.dtype.kind not in "bui" or codes.min() < 0 or codes.max() > 255:
            raise UserError(
                f"{path}: x_{part} has type {codes.dtype} and runs from {codes.min()} to {codes.max()}: "
                "codes are whole numbers from 0 to 255"
            )


def image_scale(x: dict[str, np.ndarray], name: str) -> int:
    """The value of white in images, the same in all parts: 1, 255 or (of uint16 alone) 65535.

    It is the one whose upper half the largest value reaches; floats from 0 to 1 may be darker, but not as
    dark as 1 / 255. No part with an image that is not all 0 stays below an eighth of it. Floats may leave
    the range by a thousandth of the scale.

    Args:
        x: the parts by name, arrays of finite numbers of any shape.
        name: what the message calls the file.

    Raises:
        UserError: if the range fits none of these or the parts disagree, with the range of each part.
    """
    low = {part: float(images.min()) for part, images in x.items()}
    high = {part: float(images.max()) for part, images in x.items()}
    top = max(high.values())
    darkest = min((value for value in high.values() if value > 0), default=0.0)
    floats = any(images.dtype.kind == "f" for images in x.values())
    slack = TOLERANCE if floats else 0.0
    deep = all(images.dtype.kind == "u" and images.dtype.itemsize == 2 for images in x.values())
    for part, images in x.items():
        if low[part] < -slack * (1 if top <= 1 + slack else 255):
            both = max(top, -min(low.values())) <= 1 + slack
            advice = "rescale -1..1 with (x + 1) / 2" if both else "rescale the images to 0..1"
            what = f"{name}: x_{part} runs from {low[part]:.7g} to {high[part]:.7g} and has {{}} below 0"
            _refuse_where(images < 0, what, advice)
    if top <= 1 + slack and (top == 0 or darkest > 1 / 255):
        return 1
    for scale in (255, 65535) if deep else (255,):
        if scale / 2 <= top <= scale * (1 + slack) and darkest >= scale / 8:
            return scale
    white = next((value for value in WHITES if top <= value), None)
    advice = f"x / {white}" if white else "x / x.max(), with one maximum for both"
    if darkest < top / 8:  # no scale fits both parts
        advice = "each part by its own, for example x / 255"
    elif top <= 1:
        advice = "x * 255 if they were divided by 255 twice"
    ranges = " and ".join(f"x_{part} runs from {low[part]:.7g} to {high[part]:.7g}" for part in x)
    raise UserError(
        f"{name}: {ranges}, so white may be 1, 255 or another value: "
        f"save both parts as floats in 0..1, divided by the value of white ({advice})"
    )


def _levels(x: np.ndarray, scale: int) -> Tensor:
    """Images on a scale of 0..`scale` as uint8, the nearest of 0..255; some at a time, for memory's sake."""
    if x.dtype == np.uint8 and scale == 255:
        return torch.from_numpy(x)
    levels = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), CHUNK):
        levels[start : start + CHUNK] = np.rint(x[start : start + CHUNK] * (255 / scale)).clip(0, 255)
    return torch.from_numpy(levels)
