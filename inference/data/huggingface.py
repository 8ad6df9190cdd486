"""A data set of Hugging Face `datasets` on disk: the folder of `save_to_disk`, with a column of images."""

from pathlib import Path
from typing import Any

import numpy as np

from inference.data.dataset import Dataset
from inference.data.decode import Files
from inference.data.labels import needs_labels
from inference.data.pictures import as_labels, dataset_of
from inference.errors import UserError
from ppl_models.base import LatentVariableModel

SPLITS, ONE = "dataset_dict.json", "state.json"  # files in the folder of several parts, and of one
TEST = ("test", "validation")  # the first that there is is the test set


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of Hugging Face `datasets` wrote a folder."""
    return (folder / SPLITS).is_file() or (
        (folder / ONE).is_file() and (folder / "dataset_info.json").is_file()
    )


def load(
    folder: Path,
    label_column: str | None = None,
    image_size: int | None = None,
    model: type[LatentVariableModel] | None = None,
) -> tuple[Dataset, str]:
    """Reads the images and labels of a folder that `save_to_disk` wrote.

    With the parts `train` and `test` (or else `validation`) these are the training set and the test set.
    Otherwise `split.train_and_test` splits the images. The images are decoded as those of a folder (see
    `decode.decode_all`). Their content must be in the data set: paths of files are not followed.

    Args:
        folder: the folder.
        label_column: name of the labels' column; by default the only column of the type ClassLabel, or else
            `label`.
        image_size: the height and width to which images are resized and cropped.
        model: the class that the data are for. It decides whether labels are required.

    Returns:
        The data set, uint8, (n, 1 or 3, height, width), and one line for the user.

    Raises:
        UserError: the package `datasets` is missing, or the folder has no such images or labels.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{folder} is a data set of Hugging Face, and its package is not installed. Install it: "
            'pip install "ppl-models[datasets]"'
        ) from None
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets and pyarrow raise many kinds for a damaged file
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(
            f"{folder} cannot be read ({reason:.150}). Save it again with save_to_disk."
        ) from None
    parts = _parts(folder, found)
    features = next(iter(parts.values())).features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1:
        has = f"the columns of images {', '.join(images)}" if images else "no column of images"
        raise UserError(f"{folder} has {has}. Save it with one column of the type datasets.Image.")
    column = _label_column(folder, features, label_column, datasets.ClassLabel, needs_labels(model))
    labels = None if column is None else _labels(folder, parts, column)
    encoded = [part.cast_column(images[0], datasets.Image(decode=False)) for part in parts.values()]
    places = [(part, row) for part in encoded for row in range(len(part))]
    names = [f"{folder}: {name}, row {row}" for name, part in parts.items() for row in range(len(part))]

    def read(number: int) -> bytes:
        part, row = places[number]
        content = (part[row][images[0]] or {}).get("bytes")
        if content is None:
            raise UserError(
                f"{names[number]} has no image, or only its path. Save the images with the data set."
            )
        return content

    sizes = [len(part) for part in parts.values()]
    files = Files(str(folder), names, read)
    data, notes = dataset_of(str(folder.resolve()), files, labels, sizes, image_size, model)
    return data, "; ".join(notes)


def _parts(folder: Path, found: Any) -> dict[str, Any]:
    """Returns the training part and the test part by name, or the only part.

    Raises UserError if there is no training part, or a part is empty.
    """
    parts = {"train": found}
    if isinstance(found, dict):
        if "train" not in found:
            raise UserError(f"{folder} has the parts {', '.join(found)}. Save it with a part named train.")
        test = next((name for name in TEST if name in found), None)
        parts = {name: found[name] for name in ("train", test) if name}
    for name, part in parts.items():
        if not len(part):
            raise UserError(f"{folder}: {name} is empty. Give at least one image.")
    return parts


def _label_column(
    folder: Path, features: Any, named: str | None, class_label: type, required: bool
) -> str | None:
    """Returns the name of the labels' column. Raises UserError if it is missing, or several fit."""
    if named is not None:
        if named not in features:
            raise UserError(
                f"{folder} has no column {named!r}. Give --label-column one of {', '.join(features)}."
            )
        return named
    fitting = [name for name, feature in features.items() if isinstance(feature, class_label)]
    fitting = fitting or [name for name in ("label",) if name in features]
    if len(fitting) > 1:
        raise UserError(f"{folder} has labels in {' and '.join(fitting)}. Choose one with --label-column.")
    if required and not fitting:
        raise UserError(
            f"{folder} has no column of labels. Give --label-column one of {', '.join(features)}."
        )
    return fitting[0] if fitting else None


def _labels(folder: Path, parts: dict[str, Any], column: str) -> np.ndarray:
    """Returns the labels of all parts, whole numbers or text, (n,). Raises UserError if one is missing."""
    found: list[Any] = []
    for name, part in parts.items():
        values, feature = part.select_columns([column])[:][column], part.features[column]
        classes = getattr(feature, "names", None)
        for row, value in enumerate(values):
            if value is None or (classes and value < 0):
                raise UserError(f"{folder}: {name}, row {row} has no label in {column!r}. Remove the row.")
        found += [classes[value] for value in values] if classes else values
    return as_labels(found) if found and isinstance(found[0], str) else np.array(found)
