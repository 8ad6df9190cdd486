"""Encoded images, with classes if there are any, as a data set: from a folder, or from Hugging Face."""

from collections.abc import Sequence

import numpy as np
import torch

from inference.data.dataset import Dataset
from inference.data.decode import Files, decode_all
from inference.data.labels import Header, needs_labels, read_labels
from inference.data.split import train_and_test
from inference.data.stored import select
from ppl_models.base import LatentVariableModel


def dataset_of(
    path: str,
    files: Files,
    labels: np.ndarray | None,
    sizes: Sequence[int],
    image_size: int | None,
    model: type[LatentVariableModel] | None,
) -> tuple[Dataset, list[str]]:
    """Decodes images to a data set.

    Args:
        path: the name of the data set.
        files: the images of the training set, and then those of the test set.
        labels: the label of each image, whole numbers or text, (n,); None without labels.
        sizes: the number of images in each of both sets; with one number the images are split (see `split`).
        image_size: the height and width to which images are resized and cropped, or None (see `decode`).
        model: the class that the data are for. It decides whether labels are required.

    Returns:
        The data set, uint8, (n, 1 or 3, height, width), and lines for the user.

    Raises:
        UserError: an image cannot be read, the images differ in size, or labels are required and missing.
    """
    n = len(files.names)
    train, test = torch.arange(n).split(list(sizes)) if len(sizes) == 2 else train_and_test(n, files.name)
    x, note = decode_all(files, image_size)
    parts = {"train": train, "test": test}
    y = {} if labels is None else {part: labels[index.numpy()] for part, index in parts.items()}
    headers = {part: Header(some.shape, some.dtype) for part, some in y.items()}
    counts = {part: len(index) for part, index in parts.items()}
    found = read_labels(files.name, y, headers, counts, needs_labels(model))
    arrays = select(x, train), found.y["train"], select(x, test), found.y["test"]
    data = Dataset(path, *arrays, class_names=found.names)
    notes = [f"{files.name}: {n} images of {'x'.join(map(str, data.shape))}"]
    notes += [note] if note else []
    notes += [f"a tenth is the test set, {len(test)} of {n}"] if len(sizes) == 1 else []
    return data, notes + ([found.note] if found.note else [])


def as_labels(names: Sequence[str]) -> np.ndarray:
    """Returns the names of classes as an array: of whole numbers if all are such, else of text."""
    numbers = all(name.isdecimal() and len(name) < 18 and name == str(int(name)) for name in names)
    return np.array(names, dtype=int if numbers else str)
