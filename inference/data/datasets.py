"""Data sets by name, held whole in memory as uint8."""

import hashlib
import http.client
import math
import socket
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from inference.errors import UserError, unknown
from inference.rundir.files import check_memory
from ppl_models.base import LatentVariableModel

SIZES = {  # images to train and to test, of what torchvision has
    "mnist": (60_000, 10_000),
    "fashion-mnist": (60_000, 10_000),
    "svhn": (73_257, 26_032),
    "svhn-extra": (531_131, 26_032),
    "cifar10": (50_000, 10_000),
}
MNIST_SUMS = {  # md5, of the files as torchvision leaves them
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
NAMES = (*SIZES, "digits")
SMALL = 16 * 16  # images of at most so many pixels take a model's smaller defaults


@dataclass(frozen=True)
class Dataset:
    """Images x (n, channels, height, width), uint8, or points (n, d), float32; labels y (n,), or None.

    Where the test set repeats training data, as a course's does, `x_independent` is one that does not.
    `x_valid` and `y_valid` are what `with_validation` has taken out of the training set. `scale` is the value
    of white in the images of an .npz file, 1, 255 or 65535, before they became uint8.
    """

    name: str
    x_train: Tensor
    y_train: Tensor | None
    x_test: Tensor
    y_test: Tensor | None
    x_independent: Tensor | None = None
    x_valid: Tensor | None = None
    y_valid: Tensor | None = None
    scale: int | None = None

    @property
    def points(self) -> bool:
        """Whether these are points, not images."""
        return self.x_train.dim() == 2

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x_train.shape[1:])

    @property
    def classes(self) -> int:
        """How many labels differ, in all parts; 0 without labels."""
        return len(self._names())

    def _names(self) -> Tensor:
        """The labels that occur in any part, sorted: (classes,)."""
        labels = [y for y in (self.y_train, self.y_valid, self.y_test) if y is not None]
        return torch.cat(labels).unique() if self.y_train is not None else torch.empty(0)

    def numbered(self) -> "Dataset":
        """The same with labels 0, 1, 2, ... in the order of the labels that there are."""
        names = self._names()

        def number(y: Tensor | None) -> Tensor | None:
            return None if y is None or self.y_train is None else torch.searchsorted(names, y)

        y_train, y_test, y_valid = map(number, (self.y_train, self.y_test, self.y_valid))
        return replace(self, y_train=y_train, y_test=y_test, y_valid=y_valid)

    def with_validation(self, share: float, seed: int) -> "Dataset":
        """The same with a share of the training set, drawn by seed, as a validation part; as it is where 0.

        The training set keeps floor(n (1 - share)), and both parts their order. Raises UserError where a part
        would be empty.
        """
        if share == 0:
            return self
        n = len(self.x_train)
        kept = int(n * (1 - Fraction(str(share))))  # exactly: in floating point 100 (1 - 0.9) is below 10
        if not 0 < kept < n:
            raise UserError(
                f"a validation share of {share} of {n} training images leaves one part empty: "
                "give another --validation"
            )
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[torch.from_numpy(np.random.RandomState(seed).permutation(n)[kept:])] = True
        y = self.y_train
        return replace(
            self,
            x_train=self.x_train[~chosen],
            y_train=None if y is None else y[~chosen],
            x_valid=self.x_train[chosen],
            y_valid=None if y is None else y[chosen],
        )

    def padded(self, side: int | None) -> "Dataset":
        """The same with images zero-padded on all sides to side x side; as it is where None.

        Raises UserError where the images are larger.
        """
        if side is None:
            return self
        height, width = self.shape[1:]
        if max(height, width) > side:
            raise UserError(
                f"{self.name} has images of {height}x{width}, the model takes at most {side}x{side}: "
                "choose another model, or make them smaller"
            )
        left, top = (side - width) // 2, (side - height) // 2
        edges = (left, side - width - left, top, side - height - top)
        valid = None if self.x_valid is None else pad(self.x_valid, edges)
        return replace(self, x_train=pad(self.x_train, edges), x_test=pad(self.x_test, edges), x_valid=valid)

    def checksum(self) -> str:
        """A digest of every pixel and label: runs that name the same one saw the same data.

        It is taken before the validation part is.
        """
        digest = hashlib.sha256()
        for part in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(b"none" if part is None else part.numpy().tobytes())
        return digest.hexdigest()[:16]


def load(
    name: str | None, data_dir: Path, model: type[LatentVariableModel] | None = None
) -> tuple[Dataset, str | None]:
    """Loads a data set by name or from an .npz file; without a name MNIST, or digits if it is not there.

    Args:
        name: a name of NAMES or `points.NAMES`, or the path of an .npz file.
        data_dir: the folder that holds the files of named data sets.
        model: the class that the data are for, which decides how an .npz file is read (see `npz.load`).

    Returns:
        The data set, and one line for the user, or None.

    Raises:
        UserError: if the name is not known, or the data cannot be read or downloaded.
    """
    from inference.data import npz, points

    if name is None:
        if _on_disk("mnist", data_dir) or _download("mnist", data_dir):
            return load("mnist", data_dir)
        line = (
            f"MNIST is not in {data_dir} and cannot be downloaded: going on with scikit-learn's 8x8 digits. "
            "To insist on MNIST give --data mnist --data-dir DIR; --data digits says that these are wanted."
        )
        return load("digits", data_dir)[0], line
    if Path(name).suffix.lower() in (".npz", ".npy"):
        return npz.load(Path(name), model)
    if name in points.NAMES:
        return points.load(name), None
    if name not in NAMES and Path(name).exists():
        raise UserError(f"{name} is not an .npz file: save the images as arrays, with {npz.SPLIT}")
    if name not in NAMES:
        raise unknown("data", name, [*NAMES, *points.NAMES, "path/to/file.npz"])
    return (_digits() if name == "digits" else _torchvision(name, data_dir)), None


class Source(NamedTuple):
    """What torchvision knows of a data set: how it is made, where it lies, where it comes from."""

    cls: Any
    parts: tuple[dict[str, Any], dict[str, Any]]  # the arguments of `cls` for the training and the test set
    labels: str  # the attribute of an instance that holds them
    shape: tuple[int, int, int]  # of an image
    folder: str  # in data_dir
    files: dict[str, str | None]  # in that folder, each with its md5 sum, or None where that is not known
    urls: list[str]  # of which one that answers is enough


def _source(name: str) -> Source:
    """Torchvision's own tables of the data set of that name, in one form for all."""
    from torchvision import datasets  # imported late: it takes a second

    by_train: Any = ({"train": True}, {"train": False})
    if name == "cifar10":
        cls = datasets.CIFAR10
        files = dict([*cls.train_list, *cls.test_list])  # without these torchvision brings the rest again too
        return Source(cls, by_train, "targets", (3, 32, 32), cls.base_folder, files, [cls.url])
    if name in ("svhn", "svhn-extra"):
        cls, splits = datasets.SVHN, ("extra" if name == "svhn-extra" else "train", "test")
        known = [cls.split_list[split] for split in splits]  # url, file, md5 sum
        files, urls = {file: md5 for _, file, md5 in known}, [url for url, _, _ in known]
        parts = ({"split": splits[0]}, {"split": splits[1]})
        return Source(cls, parts, "labels", (3, 32, 32), "", files, urls)
    cls = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    # torchvision's sums are those of the archives, and it does not look at them again
    files = {
        Path(file).stem: MNIST_SUMS[Path(file).stem] if name == "mnist" else None for file, _ in cls.resources
    }
    urls = [mirror + cls.resources[0][0] for mirror in cls.mirrors]
    return Source(cls, by_train, "targets", (1, 28, 28), f"{cls.__name__}/raw", files, urls)


def _on_disk(name: str, data_dir: Path) -> bool:
    source = _source(name)
    return all((data_dir / source.folder / file).exists() for file in source.files)


def _reachable(name: str, seconds: float = 8.0) -> bool:
    """Whether a mirror of the data set answers within the given time, name look-up included."""
    answered = threading.Event()

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
            answered.set()
        except (OSError, ValueError, http.client.HTTPException):
            pass

    askers = [threading.Thread(target=ask, args=(url,), daemon=True) for url in _source(name).urls]
    for asker in askers:
        asker.start()
    deadline = time.monotonic() + seconds
    while (
        not answered.wait(0.05)
        and time.monotonic() < deadline
        and any(map(threading.Thread.is_alive, askers))
    ):
        pass  # with no network at all every asker has gone at once
    return answered.is_set()


def _download(name: str, data_dir: Path) -> bool:
    """Have torchvision download the data set; whether it is there now. Gives up at once without a network."""
    if not _reachable(name):
        return False
    source, timeout = _source(name), socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # a mirror that stalls half way raises instead of hanging
    try:
        for part in source.parts:
            source.cls(data_dir, **part, download=True)
    except (OSError, RuntimeError, http.client.HTTPException):
        return False
    finally:
        socket.setdefaulttimeout(timeout)
    return _on_disk(name, data_dir)


def _damaged(path: Path, md5: str) -> bool:
    """Whether a file can be read and has not that sum."""
    from torchvision.datasets.utils import check_md5

    try:
        return not check_md5(path, md5)
    except OSError:
        return False


def _torchvision(name: str, data_dir: Path) -> Dataset:
    source, sizes = _source(name), SIZES[name]
    folder = data_dir / source.folder
    if not _on_disk(name, data_dir) and not _download(name, data_dir):
        raise UserError(
            f"{name} is not in {folder} and cannot be downloaded: name the folder that holds it with "
            "--data-dir, or take --data digits or --data path/to/file.npz, which need no download"
        )
    check_memory(2 * sum(sizes) * math.prod(source.shape), name)
    wrong = [file for file, md5 in source.files.items() if md5 and _damaged(folder / file, md5)]
    try:
        if wrong:
            raise ValueError("wrong md5 sum")
        made = [source.cls(data_dir, **part) for part in source.parts]
        (x_train, y_train), (x_test, y_test) = (
            (_channel_first(torch.as_tensor(part.data)), torch.as_tensor(getattr(part, source.labels)))
            for part in made
        )
        if (len(y_train), len(y_test)) != sizes:
            raise ValueError(f"not {sizes[0]} and {sizes[1]} labels")
        if any((y.min(), y.max()) != (0, 9) for y in (y_train, y_test)):
            raise ValueError("labels are not 0 to 9")
        shapes = [tuple(x.shape) for x in (x_train, x_test)]
        if shapes != [(size, *source.shape) for size in sizes]:
            raise ValueError(f"images have shapes {shapes}")
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"{name} in {folder} cannot be read, a file is damaged ({error or type(error).__name__}): "
            f"delete {', '.join(wrong or source.files)} there to have it downloaded again"
        ) from None
    return Dataset(name, x_train, y_train, x_test, y_test)


def _channel_first(x: Tensor) -> Tensor:
    """Images (n, height, width), (n, height, width, 3) or (n, 3, height, width), with the channel first."""
    if x.dim() == 3:
        return x[:, None]
    return (x.permute(0, 3, 1, 2) if x.shape[-1] == 3 else x).contiguous()


def _digits() -> Dataset:
    """scikit-learn's 1 797 digits of 8x8 pixels, in a fixed random order: 1 297 to train, 500 to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))
    x = torch.from_numpy(np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8))[:, None]
    y = torch.from_numpy(bunch.target[order].astype(np.int64))
    return Dataset("digits", x[:-500], y[:-500], x[-500:], y[-500:])
