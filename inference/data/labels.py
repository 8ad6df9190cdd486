"""Labels of a user's data: whole numbers or text, one per image, mapped to classes 0, 1, 2, ..."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.errors import UserError
from ppl_models.base import LatentVariableModel

MAX_CLASSES, MAX_NAME = 100_000, 200  # classes, and characters in the name of a class
SHOWN = 20  # names of classes that a line shows


class Header(NamedTuple):
    """The shape and type of an array in a file, known before the array is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Labels(NamedTuple):
    """The labels of a data set as class numbers.

    Attributes:
        y: class numbers by part, int64, (n,); None without labels.
        names: the label of each class, sorted; None if the labels are the class numbers, or without labels.
        note: one line for the user about the classes, or about why labels are not used; or None.
    """

    y: dict[str, Tensor | None]
    names: tuple[int | str, ...] | None = None
    note: str | None = None


def read_labels(
    name: str,
    arrays: Mapping[str, np.ndarray],
    headers: Mapping[str, Header],
    counts: Mapping[str, int],
    required: bool,
    classes: int = 0,
) -> Labels:
    """Converts the labels of all parts to class numbers: their places in the sorted labels of all parts.

    Args:
        name: what messages call the data.
        arrays: the arrays of labels by part, such as `y_train` and `y_test`.
        headers: the headers of the same, also of arrays that could not be read.
        counts: the number of images by part, the training part first.
        required: whether the model needs labels. If not, labels that do not fit are left out.
        classes: of a model that exists. Whole numbers below this are class numbers already.

    Raises:
        UserError: labels are required, and they are missing, do not fit, or lack a class in training.
    """
    missing = [part for part in counts if part not in headers]
    if len(missing) == len(counts) and not required:
        return Labels(dict.fromkeys(counts))
    try:
        if missing:
            raise UserError(
                f"{name} has no {' and no '.join(missing)}. Add labels of every part, one per image."
            )
        parts = {
            part: _read(arrays.get(part), headers[part], n, f"{name}: {part}") for part, n in counts.items()
        }
        return _number(name, parts, required, classes)
    except UserError as error:
        if required:
            raise
        return Labels(dict.fromkeys(counts), note=f"labels are not used, since {error}")


def _read(y: np.ndarray | None, header: Header, n: int, what: str) -> np.ndarray:
    """Converts labels to int64 or text, (n,). Raises UserError if they are neither, or not one per image."""
    shape, dtype = header
    if shape not in ((n,), (n, 1)):
        advice = "Use y.argmax(1) if they are one-hot." if len(shape) == 2 else "Give one label per image."
        raise UserError(f"{what} has shape {shape}, not ({n},). {advice}")
    if y is None:
        raise UserError(
            f"{what} has type {dtype}. Save text with y.astype(str) and numbers with y.astype(int)."
        )
    y = y.reshape(n)
    if dtype.kind in "US":
        return _read_text(y, what)
    if dtype.kind not in "buif":
        raise UserError(f"{what} has type {dtype}. Give whole numbers or text.")
    wrong = np.zeros(n, bool) if dtype.kind == "b" else ~np.isfinite(y) | (np.rint(y) != y)
    _refuse(wrong, y, what, "not a whole number. Give whole numbers or text")
    _refuse(np.abs(y.astype(float)) >= 2**62, y, what, "too large. Give smaller numbers or text")
    return y.astype(np.int64)


def _read_text(y: np.ndarray, what: str) -> np.ndarray:
    """Converts text or UTF-8 bytes to text."""
    if y.dtype.kind == "S":
        try:
            y = np.char.decode(y, "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{what} has bytes that are not UTF-8. Save text with y.astype(str).") from None
    long = np.char.str_len(y)
    _refuse(long == 0, y, what, "empty. Name a class for every image")
    _refuse(long > MAX_NAME, y, what, f"longer than {MAX_NAME} characters. Shorten the names")
    return y


def _refuse(wrong: np.ndarray, y: np.ndarray, what: str, complaint: str) -> None:
    """Raises UserError with the first label that is wrong, and its index, if any is."""
    if wrong.any():
        first, count = int(wrong.argmax()), int(np.count_nonzero(wrong))
        others = f" (and {count - 1} more)" if count > 1 else ""
        raise UserError(f"{what}: label {y[first].item()!r:.30} at index {first}{others} is {complaint}.")


def _number(name: str, parts: dict[str, np.ndarray], required: bool, classes: int) -> Labels:
    """Maps labels to class numbers. Raises UserError if they do not fit together."""
    if len({y.dtype.kind for y in parts.values()}) > 1:
        raise UserError(f"{name}: {' and '.join(parts)} differ in type. Give numbers or text in every part.")
    distinct = [np.unique(y) for y in parts.values()]
    found = np.unique(np.concatenate(distinct))
    if found.dtype.kind == "i" and len(found) and found[0] >= 0 and found[-1] < classes:
        return Labels({part: torch.from_numpy(y) for part, y in parts.items()})
    if len(found) > MAX_CLASSES:
        raise UserError(f"{name} has {len(found)} different labels. Give at most {MAX_CLASSES} classes.")
    untrained = np.setdiff1d(found, distinct[0])
    if required and len(untrained):
        where = next(part for part, some in zip(parts, distinct, strict=True) if untrained[0] in some)
        raise UserError(
            f"{name}: class {untrained[0].item()!r:.50} of {where} has no training image. Add images of it "
            f"to {next(iter(parts))}, or leave it out of {where}."
        )
    y = {part: torch.from_numpy(np.searchsorted(found, labels)) for part, labels in parts.items()}
    if found.dtype.kind == "i" and np.array_equal(found, np.arange(len(found))):
        return Labels({**y})
    names = tuple(found.tolist())
    return Labels({**y}, names, f"labels {listed(names)} are classes 0 to {len(names) - 1}")


def listed(names: Sequence[int | str]) -> str:
    """Returns the names of classes in words, at most 20 of them."""
    words = [str(name) for name in names]
    if len(words) > SHOWN:
        words = [*words[: SHOWN - 1], "...", words[-1]]
    return ", ".join(words)


def needs_labels(model: LatentVariableModel | type[LatentVariableModel] | None) -> bool:
    """Whether a model takes labels as input."""
    return model is not None and bool({"y", "x_labelled"} & set(model.inputs))
