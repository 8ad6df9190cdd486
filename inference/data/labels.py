"""Labels of a user's data: whole numbers, one per image."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.errors import UserError

RENUMBER = "Number the classes 0, 1, 2, ..., alike in every part."


class Header(NamedTuple):
    """The shape and type of an array in a file, known before the array is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_labels(
    name: str,
    arrays: Mapping[str, np.ndarray],
    headers: Mapping[str, Header],
    counts: Mapping[str, int],
    required: bool,
) -> tuple[dict[str, Tensor | None], str | None]:
    """Converts the labels of all parts to int64, (n,).

    Args:
        name: what messages call the data.
        arrays: the arrays of labels by part, such as `y_train` and `y_test`.
        headers: the headers of the same, also of arrays that could not be read.
        counts: the number of images by part, the training part first.
        required: whether the model needs labels. If not, labels that do not fit are left out.

    Returns:
        The labels by part, all None if they are missing or left out, and one line that says why labels are
        not used, or None.

    Raises:
        UserError: labels are required, and these are not 0, 1, 2, ... with each class in training.
    """
    none: dict[str, Tensor | None] = dict.fromkeys(counts)
    missing = [part for part in counts if part not in headers]
    if len(missing) == len(counts) and not required:
        return none, None
    try:
        if missing:
            raise UserError(
                f"{name} has no {' and no '.join(missing)}. Add labels of every part, one whole number each."
            )
        y = {
            part: _to_labels(arrays.get(part), headers[part], n, f"{name}: {part}")
            for part, n in counts.items()
        }
        if required:
            _check_classes(name, list(y.values()))
    except UserError as error:
        if required:
            raise
        return none, f"labels are not used, since {error}"
    return {**y}, None


def _to_labels(y: np.ndarray | None, header: Header, n: int, what: str) -> Tensor:
    """Converts labels to int64, (n,). Raises UserError if they are not whole numbers, one per image."""
    shape, dtype = header
    if shape not in ((n,), (n, 1)):
        advice = "Use y.argmax(1) if they are one-hot." if len(shape) == 2 else "Give one label per image."
        raise UserError(f"{what} has shape {shape}, not ({n},). {advice}")
    whole = y is not None and y.dtype.kind in "buif" and np.isfinite(y).all() and (np.rint(y) == y).all()
    if y is None or not whole or (y.size and float(np.abs(y.astype(float)).max()) >= 2**62):
        raise UserError(f"{what} has type {dtype} or values that are not whole numbers. {RENUMBER}")
    return torch.from_numpy(y.reshape(n).astype(np.int64))


def _check_classes(name: str, parts: list[Tensor]) -> None:
    """Raises UserError unless the labels are 0, 1, 2, ... and each is in the training part, the first."""
    low, high = min(int(y.min()) for y in parts), max(int(y.max()) for y in parts)
    if low < 0:
        raise UserError(
            f"{name}: labels run from {low} to {high}, but this model needs 0, 1, 2, ... {RENUMBER}"
        )
    seen = set(parts[0].unique().tolist())
    if len(seen) <= high:
        missing = next(label for label in range(high + 1) if label not in seen)
        advice = "Use y - 1." if missing == 0 and low == 1 else RENUMBER
        raise UserError(
            f"{name}: labels run from {low} to {high}, but class {missing} has no training image. {advice}"
        )
