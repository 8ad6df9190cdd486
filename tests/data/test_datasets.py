"""Named data sets: reading, downloading, and damaged files."""

import functools
import hashlib
import http.client
import http.server
import pickle
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import CIFAR10, MNIST, SVHN

from inference.data import torchvision_sets
from inference.data.load import find_dataset
from inference.errors import UserError


def test_digits() -> None:
    digits, line = find_dataset("digits", Path("nowhere"))
    assert line is None
    assert (len(digits.x_train), len(digits.x_test)) == (1297, 500)
    assert digits.shape == (1, 8, 8) and digits.classes == 10 and digits.x_train.dtype == torch.uint8
    both = torch.cat([digits.x_train, digits.x_test])
    assert len(both.unique()) == 17 and both.max() == 255 and len(both) == 1797
    assert digits.checksum() == find_dataset("digits", Path("elsewhere"))[0].checksum()


def test_mnist(mnist_dir: Path) -> None:
    mnist, _ = find_dataset("mnist", mnist_dir)
    assert (len(mnist.x_train), len(mnist.x_test), mnist.shape) == (60_000, 10_000, (1, 28, 28))
    assert find_dataset(None, mnist_dir)[0].checksum() == mnist.checksum()


def test_truncated_mnist_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file, _ in MNIST.resources:
        (raw / Path(file).stem).write_bytes(bytes([0, 0, 8, 3]) + bytes(40))
    for name in ("mnist", None):
        with pytest.raises(UserError, match=r"mnist in .*raw cannot be read, a file is damaged"):
            find_dataset(name, tmp_path)


Images = tuple[np.ndarray, np.ndarray]  # (n, 3, 32, 32) and their labels (n,)


def digits_and_pixels(n: int, seed: int) -> Images:
    """Returns random colour images with labels from 0 to 9, each of which occurs."""
    random = np.random.RandomState(seed)
    return random.randint(256, size=(n, 3, 32, 32), dtype=np.uint8), np.arange(n) % 10


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_svhn(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Images]:
    """Writes all three parts in the layout of the real files, with label 10 for 0."""
    parts, table = {}, {}
    for seed, (part, n) in enumerate({"train": 30, "test": 20, "extra": 40}.items()):
        x, y = parts[part] = digits_and_pixels(n, seed)
        file = folder / SVHN.split_list[part][1]
        savemat(file, {"X": x.transpose(2, 3, 1, 0), "y": np.where(y == 0, 10, y).astype(np.uint8)[:, None]})
        table[part] = [f"http://localhost/{file.name}", file.name, md5(file)]
    patch.setattr(SVHN, "split_list", table)
    patch.setitem(torchvision_sets.SIZES, "svhn", (30, 20))
    patch.setitem(torchvision_sets.SIZES, "svhn-extra", (40, 20))
    return parts


def write_cifar(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Images]:
    """Writes five training batches and a test batch in the layout of the real files."""
    (folder / CIFAR10.base_folder).mkdir(parents=True)

    def write(name: str, content: dict) -> list[str]:
        path = folder / CIFAR10.base_folder / name
        path.write_bytes(pickle.dumps(content, protocol=2))
        return [name, md5(path)]

    parts = {"train": digits_and_pixels(50, 3), "test": digits_and_pixels(20, 4)}
    for part, table in (("train", CIFAR10.train_list), ("test", CIFAR10.test_list)):
        rows, labels = (np.split(array, len(table)) for array in parts[part])
        written = [
            write(name, {"data": x.reshape(-1, 3072), "labels": y.tolist()})
            for (name, _), x, y in zip(table, rows, labels, strict=True)
        ]
        patch.setattr(CIFAR10, f"{part}_list", written)
    name, sum_of_it = write(CIFAR10.meta["filename"], {"label_names": list("abcdefghij")})
    patch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": sum_of_it})
    patch.setitem(torchvision_sets.SIZES, "cifar10", (50, 20))
    return parts


WRITERS = {"svhn": write_svhn, "svhn-extra": write_svhn, "cifar10": write_cifar}
COLOUR = pytest.mark.parametrize("name", WRITERS)


@COLOUR
def test_colour_images_and_their_labels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = WRITERS[name](tmp_path, monkeypatch)
    data, line = find_dataset(name, tmp_path)
    assert line is None and (data.name, data.shape, data.classes) == (name, (3, 32, 32), 10)
    wanted = (*parts["extra" if name == "svhn-extra" else "train"], *parts["test"])
    found = (data.x_train, data.y_train, data.x_test, data.y_test)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine is not None and mine.dtype == (torch.uint8 if mine.dim() == 4 else torch.int64)
        assert mine.is_contiguous() and np.array_equal(mine.numpy(), theirs)


@COLOUR
@pytest.mark.parametrize("reachable", [True, False])
def test_missing_colour_images(
    name: str, reachable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no network, or the download breaks off."""

    def broken(self: object) -> None:
        raise http.client.IncompleteRead(b"")

    monkeypatch.setattr(torchvision_sets, "_reachable", lambda name: reachable)
    for cls in (SVHN, CIFAR10):
        monkeypatch.setattr(cls, "download", broken)
    folder = tmp_path / CIFAR10.base_folder if name == "cifar10" else tmp_path
    with pytest.raises(UserError) as caught:
        find_dataset(name, tmp_path)
    assert f"{name} is not in {folder} and cannot be downloaded" in str(caught.value)
    assert "--data-dir" in str(caught.value) and "--data path/to/file.npz" in str(caught.value)


def test_a_part_that_is_missing_is_not_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_sets, "_reachable", lambda name: False)
    write_svhn(tmp_path, monkeypatch)
    (tmp_path / "extra_32x32.mat").unlink()
    assert len(find_dataset("svhn", tmp_path)[0].x_train) == 30  # svhn does not need it
    with pytest.raises(UserError, match="svhn-extra is not in"):
        find_dataset("svhn-extra", tmp_path)


DAMAGED = {
    "svhn": ["test_32x32.mat"],
    "svhn-extra": ["extra_32x32.mat", "test_32x32.mat"],
    "cifar10": ["data_batch_3", "test_batch"],
}


@COLOUR
def test_the_damaged_files_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    paths = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    for file in DAMAGED[name]:
        paths[file].write_bytes(paths[file].read_bytes()[:100])
    with pytest.raises(UserError, match="a file is damaged") as caught:
        find_dataset(name, tmp_path)
    assert sorted(file for file in paths if file in str(caught.value)) == DAMAGED[name]
    assert "\n" not in str(caught.value)


def test_a_file_of_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, monkeypatch)
    monkeypatch.setitem(torchvision_sets.SIZES, "svhn", (31, 20))
    with pytest.raises(
        UserError, match=r"not 31 and 20 labels.*Delete train_32x32.mat, test_32x32.mat there"
    ):
        find_dataset("svhn", tmp_path)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves the folder tmp_path / "mirror" over HTTP and yields its address."""
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "mirror")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_svhn_is_downloaded(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = write_svhn(tmp_path / "mirror", monkeypatch)
    for entry in SVHN.split_list.values():
        entry[0] = served + entry[1]
    data, _ = find_dataset("svhn", tmp_path / "here")
    assert np.array_equal(data.x_train.numpy(), parts["train"][0])
    found = {path.name for path in (tmp_path / "here").iterdir()}
    assert found == {"train_32x32.mat", "test_32x32.mat"}  # without the extra part


def test_what_is_deleted_as_told_is_downloaded_again(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-10: torchvision itself checks only the image files before it skips a download."""
    parts, archive = write_cifar(tmp_path / "mirror", monkeypatch), tmp_path / "mirror" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "mirror" / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "url", served + archive.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    here = tmp_path / "here"
    for damaged, deleted in (("data_batch_2", 1), (CIFAR10.meta["filename"], 6)):
        data, _ = find_dataset("cifar10", here)
        assert np.array_equal(data.x_train.numpy(), parts["train"][0])
        (here / CIFAR10.base_folder / damaged).write_bytes(b"")
        with pytest.raises(UserError, match="to download the files again") as caught:
            find_dataset("cifar10", here)
        told = [path for path in (here / CIFAR10.base_folder).iterdir() if path.name in str(caught.value)]
        assert len(told) == deleted
        for path in told:
            path.unlink()
    assert len(find_dataset("cifar10", here)[0].x_train) == 50


def test_a_download_that_breaks_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision_sets, "_reachable", lambda name: True)
    monkeypatch.setattr(MNIST, "download", broken)
    assert find_dataset(None, tmp_path)[0].name == "digits"
    with pytest.raises(UserError, match="cannot be downloaded"):
        find_dataset("mnist", tmp_path)


def test_without_network_digits_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_sets, "_reachable", lambda name: False)
    found, line = find_dataset(None, tmp_path)
    assert found.name == "digits" and line is not None
    assert "--data mnist" in line and str(tmp_path) in line
    with pytest.raises(UserError, match="--data-dir"):
        find_dataset("mnist", tmp_path)
    with pytest.raises(UserError, match="did you mean fashion-mnist"):
        find_dataset("fashion_mnist", tmp_path)


def test_a_silent_mirror_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts the connection and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(MNIST, "mirrors", [address, address])
        began = time.perf_counter()
        assert not torchvision_sets._reachable("mnist", seconds=1.0)
        assert time.perf_counter() - began < 3  # without the time limit it would hang
