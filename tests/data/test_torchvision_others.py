"""torchvision:NAME, on files of the real layout that the tests write."""

import bz2
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from inference.data import torchvision_others
from inference.data.load import find_dataset
from inference.data.torchvision_others import ALIASES, SPECS
from inference.errors import UserError


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an array of bytes in the format of MNIST's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


def images(n: int, seed: int) -> np.ndarray:
    x = np.random.RandomState(seed).randint(256, size=(n, 28, 28)).astype(np.uint8)
    x[:, 0, 0] = 255
    return x


def write_usps(folder: Path, name: str, labels: list[int]) -> np.ndarray:
    """Writes images of 16x16 as lines of `label index:value ...`; returns their levels."""
    x = np.random.RandomState(0).choice([-1.0, 0.0, 1.0], size=(len(labels), 256))
    lines = [
        " ".join([str(label + 1), *(f"{i + 1}:{value}" for i, value in enumerate(row))])
        for label, row in zip(labels, x, strict=True)
    ]
    (folder / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    return ((x + 1) / 2 * 255).astype(np.uint8).reshape(-1, 16, 16)


def test_kmnist(tmp_path: Path) -> None:
    raw = tmp_path / "KMNIST" / "raw"
    for part, n in (("train", 12), ("t10k", 10)):
        write_idx(raw / f"{part}-images-idx3-ubyte", images(n, n))
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    data, line = find_dataset("torchvision:KMNIST", tmp_path)
    assert (
        line is None
        and data.name == "torchvision:KMNIST"
        and data.classes == 10
        and data.shape == (1, 28, 28)
    )
    assert np.array_equal(data.x_train[:, 0], images(12, 12)) and np.array_equal(
        data.x_test[:, 0], images(10, 10)
    )
    assert data.y_train.tolist() == [*range(10), 0, 1] and data.x_train.dtype == torch.uint8
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"abc")
    with pytest.raises(
        UserError, match=r"KMNIST in .* cannot be read, a file is damaged .* Delete its files"
    ):
        find_dataset("torchvision:KMNIST", tmp_path)


def test_usps(tmp_path: Path) -> None:
    x = write_usps(tmp_path, "usps.bz2", [0, 1, 9, 1])
    write_usps(tmp_path, "usps.t.bz2", [9, 0])
    data, line = find_dataset("torchvision:USPS", tmp_path)
    assert data.shape == (1, 16, 16) and np.array_equal(data.x_train[:, 0], x)
    assert (
        data.class_names == (0, 1, 9)
        and data.y_train.tolist() == [0, 1, 2, 1]
        and data.y_test.tolist() == [2, 0]
    )
    assert line == "labels 0, 1, 9 are classes 0 to 2"


def test_letters_of_emnist_are_upright_and_numbered_from_one(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    for part, n in (("train", 26), ("test", 26)):
        write_idx(raw / f"emnist-letters-{part}-images-idx3-ubyte", images(n, n))
        write_idx(raw / f"emnist-letters-{part}-labels-idx1-ubyte", np.arange(1, 27, dtype=np.uint8))
    data, _ = find_dataset("torchvision:EMNIST-letters", tmp_path)
    assert np.array_equal(data.x_train[:, 0], images(26, 26).transpose(0, 2, 1))
    assert data.class_names == tuple(range(1, 27)) and data.y_test.tolist() == list(range(26))


def test_every_listed_set_exists_in_torchvision_and_is_refused_in_one_line_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading:\nTried a mirror")

    for cls in {spec.cls for spec in SPECS.values()} - {"USPS"}:
        monkeypatch.setattr(getattr(datasets, cls), "download", unreachable)
    monkeypatch.setattr(datasets.usps, "download_url", unreachable)
    for name in SPECS:
        with pytest.raises(UserError) as caught:
            find_dataset(f"torchvision:{name}", tmp_path)
        assert "and cannot be downloaded. Name the folder that holds torchvision's files" in str(caught.value)
        assert f"torchvision:{name} is not in {tmp_path}" in str(caught.value) and "\n" not in str(
            caught.value
        )
    assert all(hasattr(datasets, name) for name in ALIASES)
    with pytest.raises(UserError, match="unknown data set of torchvision 'KMIST': did you mean KMNIST"):
        find_dataset("torchvision:KMIST", tmp_path)


def test_the_sets_with_names_of_their_own_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torchvision_others.torchvision_sets, "load", lambda name, folder: asked.append(name))
    for name in ALIASES:
        find_dataset(f"torchvision:{name}", tmp_path)
    assert asked == ["mnist", "fashion-mnist", "svhn", "cifar10"]
