"""Images of one's own, in an .npz."""

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.datasets import NAMES, Dataset
from inference.disk import check_memory
from inference.errors import BadInput

CHUNK = 1_000  # images at a time


def load(path: Path) -> Dataset:
    """The data set of a file that holds x_train and x_test, images as 0..255 or as 0..1.

    These are (n, height, width) or (n, height, width, channels). y_train and y_test, (n,), are whole numbers
    from 0 on; both may be missing for a model that needs no labels. Raises BadInput for anything else, before
    an array is read that is larger than the memory there is.
    """
    try:
        check_memory(3 * _size(path), str(path))  # as they are, with the channel first, and as levels
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise BadInput(f"no file {path}: give the path of an .npz, or one of {', '.join(NAMES)}") from None
    except BadInput:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise BadInput(
            f"{path} cannot be read as an .npz without pickles ({error}): write it again"
        ) from None
    for key in ("x_train", "x_test"):
        if key not in arrays:
            raise BadInput(
                f"{path} has no {key}, only {', '.join(arrays) or 'nothing'}: save it with numpy.savez"
            )
    if ("y_train" in arrays) != ("y_test" in arrays):
        raise BadInput(f"{path} has labels for one part only: give both y_train and y_test, or neither")
    grey = {part: _images(arrays[f"x_{part}"], f"{path}: x_{part}") for part in ("train", "test")}
    if grey["train"].shape[1:] != grey["test"].shape[1:]:
        raise BadInput(f"{path}: images of x_train and x_test differ in shape: make them the same")
    # No set of images is all but black: where nothing exceeds 1, the range is 0..1. Codes say what they are.
    unit = "codes" not in arrays and max(part.max() for part in grey.values()) <= 1
    factor = 255.0 if unit else 1.0
    x = {part: _levels(grey[part], factor) for part in grey}
    y: dict[str, Tensor | None] = {
        part: _labels(arrays[f"y_{part}"], len(x[part]), f"{path}: y_{part}")
        if f"y_{part}" in arrays
        else None
        for part in ("train", "test")
    }
    data = Dataset(str(path.resolve()), x["train"], y["train"], x["test"], y["test"])
    if data.y_train is not None and len(data.y_train.unique()) < data.classes:
        raise BadInput(
            f"{path}: some of the {data.classes} classes have no training image: number them 0, 1, 2, ..."
        )
    return data


def _levels(x: np.ndarray, factor: float) -> Tensor:
    """Images times a factor as uint8, the nearest whole numbers; some at a time, for memory's sake."""
    if x.dtype == np.uint8 and factor == 1:
        return torch.from_numpy(x)
    levels = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), CHUNK):
        levels[start : start + CHUNK] = np.rint(x[start : start + CHUNK] * factor)
    return torch.from_numpy(levels)


def _size(path: Path) -> int:
    """The bytes of all arrays, as their headers have it. Raises ValueError where a header does not say so."""
    total = 0
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            with archive.open(record) as file:
                major, _ = np.lib.format.read_magic(file)
                read = (
                    np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject or file.tell() + size != record.file_size:
                    raise ValueError(f"{record.filename} has pickles, or another size than it says")
                total += size
    return total


def _images(x: np.ndarray, what: str) -> np.ndarray:
    """The images with the channel first, once they are seen to be images. Raises BadInput if they are not."""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or x.size == 0:
        raise BadInput(
            f"{what} has shape {x.shape}: images are (n, height, width) or (n, height, width, 1 or 3)"
        )
    if x.dtype.kind not in "buif":
        raise BadInput(f"{what} has type {x.dtype}: images are numbers, 0 to 255 or 0 to 1")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise BadInput(
            f"{what} has {np.count_nonzero(~np.isfinite(x))} values that are not finite: clean them first"
        )
    if x.min() < 0 or x.max() > 255:
        raise BadInput(f"{what} runs from {x.min()} to {x.max()}: images run from 0 to 255, or from 0 to 1")
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def _labels(y: np.ndarray, n: int, what: str) -> Tensor:
    if y.shape != (n,):
        raise BadInput(f"{what} has shape {y.shape} beside {n} images: give one label an image, shape ({n},)")
    if y.dtype.kind not in "ui" or y.min() < 0 or y.max() >= 2**31:
        raise BadInput(f"{what} must be whole numbers from 0 on: number the classes 0, 1, 2, ...")
    return torch.from_numpy(y.astype(np.int64))
