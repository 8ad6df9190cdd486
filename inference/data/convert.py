"""Conversion of tensors, arrays, torch data sets and data loaders to a `Dataset`."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from inference.data.dataset import Dataset
from inference.data.labels import Header, needs_labels, read_labels
from inference.data.observations import OBSERVATIONS
from inference.data.stored import Growing
from inference.errors import UserError
from ppl_models.base import LatentVariableModel

Array = Tensor | np.ndarray
Source = Array | tuple[Array, ...] | list[Array] | torch_data.Dataset | torch_data.DataLoader


def as_dataset(
    train: Source | Dataset,
    validation: Source | None = None,
    *,
    model: LatentVariableModel | type[LatentVariableModel],
    name: str = "data",
) -> Dataset:
    """Converts training data, and validation data if any, to a `Dataset`.

    `train` and `validation` are each one of:

    * a tensor or array x, or a pair (x, y) of them;
    * a torch `Dataset`, map-style or iterable, whose items are x or (x, y);
    * a torch `DataLoader`, whose batches are x or (x, y).

    A torch data set and a loader are read once, to their end: training shuffles and batches the data points
    itself, so that a seed repeats it. What a loader augments at random stays as it was read. More than 1 GiB
    of images, or than a quarter of the free memory, go to a temporary file (see `stored.Growing`); a large
    array that is mapped from a file stays there.

    What x may hold depends on the model's kind of observation, by the same rules as in an .npz file: images
    (n, height, width), (n, channels, height, width) or (n, height, width, channels), on a scale of 0..1,
    0..255 or 0..65535, the same in both parts (see `arrays.image_scale`); points (n, d); or codes
    (n, height, width). Labels y are whole numbers or text, (n,), mapped to classes in sorted order; whole
    numbers below the number of classes of a model instance stay the same. A model without a label as input
    ignores labels that do not fit, with a warning.

    Args:
        train: the training data. A `Dataset` of the suite is returned as it is.
        validation: held-out data, which become `x_test` and `y_test`. Without it the test part is empty.
        model: the model or its class. It decides what x holds and whether labels are required.
        name: the name of the data set in messages and results.

    Raises:
        UserError: the data have another type, shape or range, or labels are required and do not fit.

    Example:
        >>> import torch
        >>> from inference.data.convert import as_dataset
        >>> from ppl_models import VAE
        >>> data = as_dataset(torch.rand(100, 28, 28), torch.rand(20, 28, 28), model=VAE)
        >>> data.x_train.shape, data.x_train.dtype, len(data.x_test)
        (torch.Size([100, 1, 28, 28]), torch.uint8, 20)
    """
    if isinstance(train, Dataset):
        if validation is not None:
            raise UserError(f"{name}: train has a test part already. Leave out validation.")
        return train
    sources = {"train": train} | ({} if validation is None else {"validation": validation})
    parts = {part: _read(source, f"{name}: {part}") for part, source in sources.items()}
    x = {part: images for part, (images, _) in parts.items()}
    y = {f"labels of {part}": labels for part, (_, labels) in parts.items() if labels is not None}
    kind = OBSERVATIONS[model.observation].data
    tensors, scale = kind.read(x, name, None)
    headers = {part: Header(labels.shape, labels.dtype) for part, labels in y.items()}
    counts = {f"labels of {part}": len(images) for part, images in x.items()}
    classes = 0 if isinstance(model, type) else model.classes
    labels = read_labels(name, y, headers, counts, needs_labels(model), classes)
    if labels.note and labels.names is None:
        warnings.warn(labels.note, stacklevel=2)
    x_train, y_train = tensors["train"], labels.y["labels of train"]
    x_test = tensors.get("validation", x_train[:0])
    y_test = labels.y.get("labels of validation", None if y_train is None else y_train[:0])
    return Dataset(name, x_train, y_train, x_test, y_test, scale=scale, class_names=labels.names, kind=kind)


def _read(source: Source, what: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns x and y of a source as arrays; y is None if there are no labels."""
    if isinstance(source, torch_data.DataLoader):
        return _concatenate((_pair(batch, f"{what}, a batch") for batch in source), what)
    if isinstance(source, torch_data.Dataset):
        items = (_pair(item, f"{what}, an item") for item in _items(source))
        return _concatenate(((x[None], None if y is None else y[None]) for x, y in items), what)
    return _pair(source, what)


def _items(source: torch_data.Dataset) -> Iterable[Any]:
    """Yields the items of a torch data set, map-style or iterable."""
    if isinstance(source, torch_data.IterableDataset):
        return iter(source)
    return (source[i] for i in range(len(source)))  # type: ignore[arg-type]


def _pair(value: Any, what: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns x and y of an array x, of (x,) or of (x, y)."""
    if not isinstance(value, (tuple, list)):
        return _array(value, what), None
    if not 1 <= len(value) <= 2:
        raise UserError(f"{what} has {len(value)} elements. Give x or a pair (x, y).")
    x, *rest = value
    return _array(x, what), _array(rest[0], f"labels of {what}") if rest else None


def _array(value: Any, what: str) -> np.ndarray:
    """Converts a tensor, an array, a number or an image to an array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    array = None if value is None or isinstance(value, (str, Mapping)) else np.asarray(value)
    if array is None or array.dtype.hasobject:
        raise UserError(f"{what} is of type {type(value).__name__}. Give a tensor or an array of numbers.")
    return array


def _concatenate(
    pairs: Iterable[tuple[np.ndarray, np.ndarray | None]], what: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Joins the arrays of batches. Raises UserError if there are none, or they differ in shape."""
    y, count = list[np.ndarray](), 0
    with Growing(what) as joined:
        for x, labels in pairs:
            joined.append(x)
            count += 1
            y += [] if labels is None else [labels]
        if not count:
            raise UserError(f"{what} is empty. Give at least one image or point.")
        if y and len(y) < count:
            raise UserError(f"{what} has labels for {len(y)} of {count} parts. Give labels for all or none.")
        array = joined.array()
    try:
        return array, np.concatenate(y) if y else None
    except ValueError:
        raise UserError(f"labels of {what} differ in shape. Give them the same shape.") from None
