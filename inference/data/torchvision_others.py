"""torchvision's other sets of small images: --data torchvision:NAME."""

import contextlib
import http.client
import io
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inference.data import torchvision_sets
from inference.data.arrays import read_images
from inference.data.dataset import Dataset
from inference.data.labels import Header, read_labels
from inference.errors import UserError, unknown

PREFIX = "torchvision:"
ALIASES = {"MNIST": "mnist", "FashionMNIST": "fashion-mnist", "SVHN": "svhn", "CIFAR10": "cifar10"}


class Spec(NamedTuple):
    """How torchvision reads a data set.

    Attributes:
        cls: the name of torchvision's class.
        train: the arguments of the class for the training set.
        test: the same for the test set.
        labels: the attribute of an instance that holds the labels.
        transposed: whether the files have height and width exchanged.
    """

    cls: str
    train: dict[str, Any]
    test: dict[str, Any]
    labels: str = "targets"
    transposed: bool = False


EMNIST = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
SPECS = {
    **{name: Spec(name, {"train": True}, {"train": False}) for name in ("KMNIST", "USPS", "CIFAR100")},
    **{
        f"EMNIST-{split}": Spec(
            "EMNIST", {"split": split, "train": True}, {"split": split, "train": False}, transposed=True
        )
        for split in EMNIST
    },
    "STL10": Spec("STL10", {"split": "train"}, {"split": "test"}, "labels"),
}


def load(name: str, data_dir: Path) -> tuple[Dataset, str | None]:
    """Loads a data set of torchvision, and downloads it if it is not in `data_dir`.

    Args:
        name: "torchvision:" and a name of `SPECS` or `ALIASES`.
        data_dir: the folder that holds torchvision's files.

    Returns:
        Images (n, channels, height, width), uint8, and labels; and one line for the user, or None.

    Raises:
        UserError: the name is unknown, or the files cannot be downloaded or read.
    """
    short = name.removeprefix(PREFIX)
    if short in ALIASES:
        return torchvision_sets.load(ALIASES[short], data_dir), None
    if short not in SPECS:
        raise unknown("data set of torchvision", short, [*ALIASES, *SPECS])
    spec = SPECS[short]
    parts = {"train": _open(name, spec, spec.train, data_dir), "test": _open(name, spec, spec.test, data_dir)}
    x = {part: np.asarray(instance.data) for part, instance in parts.items()}
    y = {part: np.asarray(getattr(instance, spec.labels)) for part, instance in parts.items()}
    tensors, _ = read_images(x, name)
    if spec.transposed:
        tensors = {part: images[:].transpose(2, 3).contiguous() for part, images in tensors.items()}
    headers = {part: Header(labels.shape, labels.dtype) for part, labels in y.items()}
    counts = {part: len(images) for part, images in tensors.items()}
    labels = read_labels(name, y, headers, counts, required=True)
    arrays = tensors["train"], labels.y["train"], tensors["test"], labels.y["test"]
    return Dataset(name, *arrays, class_names=labels.names), labels.note


def _open(name: str, spec: Spec, options: dict[str, Any], data_dir: Path) -> Any:
    """Returns an instance of torchvision's class, after a download if the files are missing.

    Raises UserError if they can be neither downloaded nor read.
    """
    from torchvision import datasets  # imported late: it takes a second

    cls = getattr(datasets, spec.cls)
    try:
        return cls(data_dir, **options, download=False)
    except (OSError, RuntimeError) as error:  # torchvision's words for files that are missing
        if not isinstance(error, FileNotFoundError) and "not found" not in str(error):
            raise _damaged(name, data_dir, error) from None
    except (ValueError, KeyError, IndexError, EOFError, AssertionError, pickle.UnpicklingError) as error:
        raise _damaged(name, data_dir, error) from None
    try:
        with _quick_and_quiet():
            return cls(data_dir, **options, download=True)
    except (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException):
        raise UserError(
            f"{name} is not in {data_dir} and cannot be downloaded. Name the folder that holds torchvision's "
            "files with --data-dir."
        ) from None


def _damaged(name: str, data_dir: Path, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {error!s:.100}"
    return UserError(
        f"{name} in {data_dir} cannot be read, a file is damaged ({reason}). Delete its files there to "
        "download them again."
    )


@contextlib.contextmanager
def _quick_and_quiet() -> Iterator[None]:
    """Gives up a mirror that is silent for 30 seconds, and hides what torchvision prints."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(timeout)
