"""Data sets: what is read, and what is refused."""

import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from inference import datasets
from inference.errors import BadInput


def test_digits() -> None:
    digits, line = datasets.load("digits", Path("nowhere"))
    assert line is None
    assert (len(digits.x_train), len(digits.x_test)) == (1297, 500)
    assert digits.shape == (1, 8, 8) and digits.classes == 10 and digits.x_train.dtype == torch.uint8
    both = torch.cat([digits.x_train, digits.x_test])
    assert len(both.unique()) == 17 and both.max() == 255 and len(both) == 1797
    assert digits.checksum() == datasets.load("digits", Path("elsewhere"))[0].checksum()


def test_mnist(mnist_dir: Path) -> None:
    mnist, _ = datasets.load("mnist", mnist_dir)
    assert (len(mnist.x_train), len(mnist.x_test), mnist.shape) == (60_000, 10_000, (1, 28, 28))
    assert datasets.load(None, mnist_dir)[0].checksum() == mnist.checksum()


def test_own_images(tmp_path: Path) -> None:
    grey = np.linspace(0, 1, 4 * 9).reshape(4, 3, 3)
    np.savez(tmp_path / "grey.npz", x_train=grey, x_test=grey[:2])
    own, _ = datasets.load(str(tmp_path / "grey.npz"), tmp_path)
    assert own.shape == (1, 3, 3) and own.classes == 0 and own.y_train is None
    assert own.x_train.flatten().tolist() == np.rint(grey * 255).astype(int).flatten().tolist()
    for kind in (np.uint8, bool, np.float32):  # nothing above 1: the range is 0..1, whatever the type
        ones = np.eye(3)[None].repeat(2, 0).astype(kind)
        np.savez(tmp_path / "ones.npz", x_train=ones, x_test=ones)
        own, _ = datasets.load(str(tmp_path / "ones.npz"), tmp_path)
        assert own.x_train[0, 0].tolist() == (255 * np.eye(3)).tolist()
    colour = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.savez(tmp_path / "colour.npz", x_train=colour, x_test=colour)
    own, _ = datasets.load(str(tmp_path / "colour.npz"), tmp_path)
    assert own.shape == (3, 4, 5)
    assert own.x_train[1, 2, 3, 4] == colour[1, 3, 4, 2]  # the channel comes first


GOOD = {
    "x_train": np.zeros((6, 4, 4), np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": np.zeros((3, 4, 4), np.uint8),
    "y_test": np.arange(3),
}
BAD = {
    "has no x_train": {"x_train": None},
    "has no x_test": {"x_test": None},
    "labels for one part only": {"y_test": None},
    "beside 6 images": {"y_train": np.arange(5)},
    "not finite": {"x_train": np.full((6, 4, 4), np.nan)},
    "runs from -1": {"x_train": np.full((6, 4, 4), -1)},
    "runs from 0.0 to 300.0": {"x_train": np.full((6, 4, 4), 300.0) * (np.arange(4) > 0)},
    "no training image": {"y_train": np.arange(6) % 3 * 2},
    "differ in shape": {"x_test": np.zeros((3, 5, 5), np.uint8)},
    "images are (n, height, width)": {"x_train": np.zeros((6, 16), np.uint8)},
    "images are numbers": {"x_train": np.full((6, 4, 4), "a")},
    "whole numbers from 0 on": {"y_train": np.arange(6) - 1},
}


@pytest.mark.parametrize("complaint", BAD)
def test_a_bad_npz_is_refused(complaint: str, tmp_path: Path) -> None:
    arrays = {key: value for key, value in (GOOD | BAD[complaint]).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(BadInput) as caught:
        datasets.load(str(tmp_path / "bad.npz"), tmp_path)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_good_npz_is_not_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **GOOD)
    assert datasets.load(str(tmp_path / "good.npz"), tmp_path)[0].classes == 3


def test_pickles_and_truncated_archives_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.savez(tmp_path / "bomb.npz", **{**GOOD, "x_train": np.array([Bomb()], dtype=object)})
    np.savez(tmp_path / "whole.npz", **GOOD)
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:500])
    for name in ("bomb.npz", "half.npz"):
        with pytest.raises(BadInput, match=f"{name} cannot be read"):
            datasets.load(str(tmp_path / name), tmp_path)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(BadInput, match=r"no file .*missing\.npz"):
        datasets.load(str(tmp_path / "missing.npz"), tmp_path)


def test_truncated_mnist_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file, _ in MNIST.resources:
        (raw / Path(file).stem).write_bytes(bytes([0, 0, 8, 3]) + bytes(40))
    for name in ("mnist", None):
        with pytest.raises(BadInput, match=r"mnist in .*raw cannot be read, a file is damaged"):
            datasets.load(name, tmp_path)


def test_a_download_that_breaks_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(datasets, "_reachable", lambda name: True)
    monkeypatch.setattr(MNIST, "download", broken)
    assert datasets.load(None, tmp_path)[0].name == "digits"
    with pytest.raises(BadInput, match="cannot be downloaded"):
        datasets.load("mnist", tmp_path)


def test_without_network_digits_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_reachable", lambda name: False)
    found, line = datasets.load(None, tmp_path)
    assert found.name == "digits" and line is not None
    assert "--data mnist" in line and str(tmp_path) in line
    with pytest.raises(BadInput, match="--data-dir"):
        datasets.load("mnist", tmp_path)
    with pytest.raises(BadInput, match="did you mean fashion-mnist"):
        datasets.load("fashion_mnist", tmp_path)


def test_a_silent_mirror_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the connection and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(MNIST, "mirrors", [address, address])
        began = time.perf_counter()
        assert not datasets._reachable("mnist", seconds=1.0)
        assert time.perf_counter() - began < 3  # it would hang for ever
