"""Image data sets that torchvision reads and downloads."""

import http.client
import math
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.backend.files import check_memory
from inference.data.dataset import Dataset
from inference.errors import UserError

SIZES = {  # number of training and test images
    "mnist": (60_000, 10_000),
    "fashion-mnist": (60_000, 10_000),
    "svhn": (73_257, 26_032),
    "svhn-extra": (531_131, 26_032),
    "cifar10": (50_000, 10_000),
}
MNIST_MD5 = {  # of the extracted files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Source(NamedTuple):
    """How torchvision reads a data set, and where its files are.

    Attributes:
        cls: torchvision's class.
        parts: the arguments of `cls` for the training and the test set.
        labels: the attribute of an instance of `cls` that holds the labels.
        shape: the shape of an image, (channels, height, width).
        folder: the folder of the files in the data folder.
        files: the names of the files, each with its MD5 sum, or None if the sum is unknown.
        urls: addresses of which one that answers is enough.
    """

    cls: Any
    parts: tuple[dict[str, Any], dict[str, Any]]
    labels: str
    shape: tuple[int, int, int]
    folder: str
    files: dict[str, str | None]
    urls: list[str]


def is_available(name: str, data_dir: Path) -> bool:
    """Returns whether the files of a data set are in `data_dir`, after a download if necessary."""
    return _on_disk(name, data_dir) or _download(name, data_dir)


def load(name: str, data_dir: Path) -> Dataset:
    """Loads a data set, and downloads it if it is not in `data_dir`.

    Args:
        name: a name of `SIZES`.
        data_dir: the folder that holds the files.

    Returns:
        Images (n, channels, height, width), uint8, and labels 0 to 9.

    Raises:
        UserError: the files cannot be downloaded, or are damaged.
    """
    source = _source(name)
    folder = data_dir / source.folder
    if not is_available(name, data_dir):
        raise UserError(
            f"{name} is not in {folder} and cannot be downloaded. Name the folder that holds it with "
            "--data-dir, or give --data digits or --data path/to/file.npz, which need no download."
        )
    check_memory(2 * sum(SIZES[name]) * math.prod(source.shape), name)
    damaged = [file for file, md5 in source.files.items() if md5 and _damaged(folder / file, md5)]
    try:
        if damaged:
            raise ValueError("wrong md5 sum")
        return _read(name, source, data_dir)
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"{name} in {folder} cannot be read, a file is damaged ({error or type(error).__name__}). "
            f"Delete {', '.join(damaged or source.files)} there to download the files again."
        ) from None


def _source(name: str) -> Source:
    """Returns torchvision's description of a data set in one form for all."""
    from torchvision import datasets  # imported late: it takes a second

    train_or_test: Any = ({"train": True}, {"train": False})
    if name == "cifar10":
        cls = datasets.CIFAR10
        files = dict([*cls.train_list, *cls.test_list])
        return Source(cls, train_or_test, "targets", (3, 32, 32), cls.base_folder, files, [cls.url])
    if name in ("svhn", "svhn-extra"):
        cls, splits = datasets.SVHN, ("extra" if name == "svhn-extra" else "train", "test")
        known = [cls.split_list[split] for split in splits]  # url, file, md5 sum
        files, urls = {file: md5 for _, file, md5 in known}, [url for url, _, _ in known]
        parts = ({"split": splits[0]}, {"split": splits[1]})
        return Source(cls, parts, "labels", (3, 32, 32), "", files, urls)
    cls = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    # torchvision knows the sums of the archives only, not of the extracted files.
    files = {
        Path(file).stem: MNIST_MD5[Path(file).stem] if name == "mnist" else None for file, _ in cls.resources
    }
    urls = [mirror + cls.resources[0][0] for mirror in cls.mirrors]
    return Source(cls, train_or_test, "targets", (1, 28, 28), f"{cls.__name__}/raw", files, urls)


def _on_disk(name: str, data_dir: Path) -> bool:
    """Returns whether every file of a data set exists."""
    source = _source(name)
    return all((data_dir / source.folder / file).exists() for file in source.files)


def _reachable(name: str, seconds: float = 8.0) -> bool:
    """Returns whether a mirror of the data set answers within the given time, name lookup included."""
    answered = threading.Event()

    def request(url: str) -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
            answered.set()
        except (OSError, ValueError, http.client.HTTPException):
            pass

    threads = [threading.Thread(target=request, args=(url,), daemon=True) for url in _source(name).urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    while (
        not answered.wait(0.05)
        and time.monotonic() < deadline
        and any(map(threading.Thread.is_alive, threads))
    ):
        pass  # without a network every thread ends at once
    return answered.is_set()


def _download(name: str, data_dir: Path) -> bool:
    """Downloads the data set with torchvision. Returns whether its files exist now."""
    if not _reachable(name):
        return False
    source, timeout = _source(name), socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # a mirror that stalls raises an error instead of hanging
    try:
        for part in source.parts:
            source.cls(data_dir, **part, download=True)
    except (OSError, RuntimeError, http.client.HTTPException):
        return False
    finally:
        socket.setdefaulttimeout(timeout)
    return _on_disk(name, data_dir)


def _damaged(path: Path, md5: str) -> bool:
    """Returns whether a file can be read and has another MD5 sum."""
    from torchvision.datasets.utils import check_md5

    try:
        return not check_md5(path, md5)
    except OSError:
        return False


def _read(name: str, source: Source, data_dir: Path) -> Dataset:
    """Reads both parts of a data set. Raises ValueError if sizes, labels or shapes are not as expected."""
    sizes = SIZES[name]
    instances = [source.cls(data_dir, **part) for part in source.parts]
    (x_train, y_train), (x_test, y_test) = (
        (_channel_first(torch.as_tensor(part.data)), torch.as_tensor(getattr(part, source.labels)))
        for part in instances
    )
    if (len(y_train), len(y_test)) != sizes:
        raise ValueError(f"not {sizes[0]} and {sizes[1]} labels")
    if any((y.min(), y.max()) != (0, 9) for y in (y_train, y_test)):
        raise ValueError("labels are not 0 to 9")
    shapes = [tuple(x.shape) for x in (x_train, x_test)]
    if shapes != [(size, *source.shape) for size in sizes]:
        raise ValueError(f"images have shapes {shapes}")
    return Dataset(name, x_train, y_train, x_test, y_test)


def _channel_first(x: Tensor) -> Tensor:
    """Converts images (n, h, w), (n, h, w, 3) or (n, 3, h, w) to (n, channels, h, w)."""
    if x.dim() == 3:
        return x[:, None]
    return (x.permute(0, 3, 1, 2) if x.shape[-1] == 3 else x).contiguous()
