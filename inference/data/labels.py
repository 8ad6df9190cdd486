"""The labels of an .npz file: whole numbers, one per image."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.errors import UserError

RENUMBER = "number the classes 0, 1, 2, ..., alike in y_train and y_test"


class Header(NamedTuple):
    """The shape and type of an array in an .npz file, known before the array is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


def both_labels(
    path: Path, arrays: dict[str, np.ndarray], headers: dict[str, Header], n: dict[str, int], required: bool
) -> tuple[dict[str, Tensor | None], str | None]:
    """The labels of both parts, `train` and `test`, as int64 (n,); None if there are none or they do not fit.

    Args:
        path: the file, for messages.
        arrays: the arrays of the file by key.
        headers: the headers of `y_train` and `y_test` if the file has them, of arrays not read too.
        n: the number of images in each part.
        required: whether the model needs labels. If not, labels that do not fit are left out.

    Returns:
        The labels, and one line that says why labels in the file are not used, or None.

    Raises:
        UserError: if labels are required, and these are not 0, 1, 2, ... with each class in training.
    """
    none: dict[str, Tensor | None] = {"train": None, "test": None}
    given = [key for key in ("y_train", "y_test") if key in headers]
    if not given and not required:
        return none, None
    try:
        if len(given) < 2:
            missing = " and no ".join(key for key in ("y_train", "y_test") if key not in given)
            raise UserError(
                f"{path} has no {missing}: add labels to numpy.savez, y_train=... and y_test=..., one whole "
                "number per image"
            )
        y = {
            part: _labels(arrays.get(f"y_{part}"), headers[f"y_{part}"], n[part], f"{path}: y_{part}")
            for part in none
        }
        if required:
            _check_classes(path, y["train"], y["test"])
    except UserError as error:
        if required:
            raise
        return none, f"labels are not used, since {error}"
    return {**y}, None


def _labels(y: np.ndarray | None, header: Header, n: int, what: str) -> Tensor:
    """Labels (n,) as int64. Raises UserError if they are not whole numbers, one per image."""
    shape, dtype = header
    if shape not in ((n,), (n, 1)):
        advice = "save y.argmax(1) if they are one-hot" if len(shape) == 2 else "give one label per image"
        raise UserError(f"{what} has shape {shape}, not ({n},): {advice}")
    whole = y is not None and y.dtype.kind in "buif" and np.isfinite(y).all() and (np.rint(y) == y).all()
    if y is None or not whole or (y.size and float(np.abs(y.astype(float)).max()) >= 2**62):
        raise UserError(f"{what} has type {dtype} or values that are not whole numbers: {RENUMBER}")
    return torch.from_numpy(y.reshape(n).astype(np.int64))


def _check_classes(path: Path, train: Tensor, test: Tensor) -> None:
    """Raises UserError unless the labels of both parts are 0, 1, 2, ... and each has a training image."""
    low, high = int(min(train.min(), test.min())), int(max(train.max(), test.max()))
    if low < 0:
        raise UserError(
            f"{path}: labels run from {low} to {high}, and this model needs 0, 1, 2, ...: {RENUMBER}"
        )
    seen = set(train.unique().tolist())
    if len(seen) <= high:
        missing = next(label for label in range(high + 1) if label not in seen)
        advice = "save y - 1" if missing == 0 and low == 1 else RENUMBER
        raise UserError(
            f"{path}: labels run from {low} to {high}, and class {missing} has no training image: {advice}"
        )
