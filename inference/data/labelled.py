"""Choice of the labelled images for semi-supervised training."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.data.dataset import Dataset
from inference.errors import UserError


def read_indices(path: Path) -> list[int]:
    """Reads the whole numbers of a text file, one per line, in the order of the file.

    `#` starts a comment. Empty lines are skipped.

    Args:
        path: the file.

    Returns:
        The numbers.

    Raises:
        UserError: the file cannot be read, or a line holds anything else.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path} ({reason}). Name a text file with one index per line.") from None
    indices = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        try:
            indices += [int(text)] if text else []
        except ValueError:
            raise UserError(
                f"line {number} of {path} is {text[:20]!r}, not an index. Write one whole number per line."
            ) from None
    return indices


def choose_labelled(data: Dataset, count: int, seed: int, indices: list[int] | None = None) -> Tensor:
    """Chooses the training images whose labels a semi-supervised model sees.

    Args:
        data: the data set, with labels.
        count: the number of labelled images, the same number of each class. Ignored if `indices` are given.
        seed: the seed of the random choice.
        indices: training images to take instead of a random choice. Order and repeats are kept.

    Returns:
        Indices into the training set, (count,).

    Raises:
        UserError: the data have no labels or too few images of a class, an index is not that of a training
            image, or `indices` lack a class.
    """
    if data.y_train is None:
        raise UserError(f"{data.name} has no labels. A semi-supervised model needs y_train and y_test.")
    if indices is not None:
        return _check_indices(data, data.y_train, indices)
    per_class, rest = divmod(count, data.classes)
    if per_class == 0 or rest:
        nearest = max(round(count / data.classes), 1) * data.classes
        raise UserError(
            f"{count} labels cannot be divided equally among {data.classes} classes. Try --labels {nearest}."
        )
    generator = np.random.RandomState(seed)
    chosen = []
    for y in range(data.classes):
        members = np.flatnonzero(data.y_train.numpy() == y)
        if len(members) < per_class:
            raise UserError(
                f"class {y} has {len(members)} images, fewer than {per_class} labels. Lower --labels."
            )
        chosen.append(generator.choice(members, per_class, replace=False))
    return torch.from_numpy(np.concatenate(chosen))


def _check_indices(data: Dataset, y: Tensor, indices: list[int]) -> Tensor:
    """Converts indices to a tensor. Raises UserError if one is out of range or a class is missing."""
    last = len(data.x_train) - 1
    for index in indices:
        if not 0 <= index <= last:
            raise UserError(f"{data.name} has no training image {index}. Give indices from 0 to {last}.")
    missing = set(range(data.classes)) - set(y[indices].tolist())
    if missing:
        raise UserError(f"no labelled image has class {min(missing)}. Add at least one of each class.")
    return torch.tensor(indices)
