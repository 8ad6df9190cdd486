"""Data: what is read, how it becomes batches, and what is refused."""

import math
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from inference import data
from inference.errors import BadInput

CPU = torch.device("cpu")


def test_digits() -> None:
    digits, line = data.load("digits", Path("nowhere"))
    assert line is None
    assert (len(digits.x_train), len(digits.x_test)) == (1297, 500)
    assert digits.shape == (1, 8, 8) and digits.classes == 10 and digits.x_train.dtype == torch.uint8
    both = torch.cat([digits.x_train, digits.x_test])
    assert len(both.unique()) == 17 and both.max() == 255 and len(both) == 1797
    assert digits.checksum() == data.load("digits", Path("elsewhere"))[0].checksum()


def test_mnist(mnist_dir: Path) -> None:
    mnist, _ = data.load("mnist", mnist_dir)
    assert (len(mnist.x_train), len(mnist.x_test), mnist.shape) == (60_000, 10_000, (1, 28, 28))
    assert data.load(None, mnist_dir)[0].checksum() == mnist.checksum()
    # independent pixels at their marginal rates score about 205.7 nats an image on the test set
    rates = (mnist.x_train.flatten(1).double().mean(0) / 255).clamp(1e-6, 1 - 1e-6)
    x = data.binarise_once(mnist.x_test).flatten(1).double()
    nats = -(x * rates.log() + (1 - x) * (1 - rates).log()).sum(1).mean().item()
    assert abs(nats - 205.7) < 0.3


def test_binarising_has_exact_probabilities() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(20_000, 1)
    shares = data.binarise(levels).mean(0)
    p = torch.arange(256) / 255
    assert shares[0] == 0 and shares[255] == 1
    assert ((shares - p).abs() <= 4.5 * (p * (1 - p) / 20_000).sqrt()).all()
    assert data.binarise_once(levels[:2]).unique().tolist() == [0, 1]
    assert torch.equal(data.binarise_once(levels[:2]), data.binarise_once(levels[:2]))


def test_an_epoch_sees_every_image_once(small_npz: Path) -> None:
    small, _ = data.load(str(small_npz), Path("nowhere"))
    numbered = torch.arange(90, dtype=torch.uint8)[:, None, None, None].expand(90, 1, 6, 6)
    small = data.Dataset("numbered", numbered, small.y_train, small.x_test, small.y_test)
    batches = data.Batches(small, ("x",), 40, 0, torch.empty(0), CPU)
    assert batches.per_epoch == 3
    assert [len(batches(step)["x"]) for step in range(6)] == [
        40,
        40,
        10,
    ] * 2  # what is left over is a batch too
    orders = []
    for epoch in range(2):
        batches(3 * epoch)
        orders.append(batches.order.tolist())
        assert sorted(orders[-1]) == list(range(90))
    assert orders[0] != orders[1]
    again = data.Batches(small, ("x",), 40, 0, torch.empty(0), CPU)
    again(4)  # begun in the middle of the second epoch, as a resumed run does
    assert again.order.tolist() == orders[1]


def test_labelled_images_are_drawn_by_seed_and_class() -> None:
    digits, _ = data.load("digits", Path("nowhere"))
    first, second = data.labelled(digits, 50, 0), data.labelled(digits, 50, 1)
    assert digits.y_train is not None
    assert digits.y_train[first].bincount().tolist() == [5] * 10
    assert len(first.unique()) == 50
    assert torch.equal(first, data.labelled(digits, 50, 0)) and not torch.equal(first, second)
    batch = data.Batches(digits, ("x", "x_labelled", "y_labelled"), 7, 0, first, CPU)(0)
    assert batch["x_labelled"].shape == (50, 1, 8, 8)
    assert torch.equal(batch["y_labelled"], digits.y_train[first])
    share = torch.stack([data.binarise(digits.x_train[first]) for _ in range(2000)]).mean(0)
    assert_near = (share - digits.x_train[first] / 255).abs().max()
    assert assert_near < 5 * 0.5 / math.sqrt(2000)


def test_own_images(tmp_path: Path) -> None:
    grey = np.linspace(0, 1, 4 * 9).reshape(4, 3, 3)
    np.savez(tmp_path / "grey.npz", x_train=grey, x_test=grey[:2])
    own, _ = data.load(str(tmp_path / "grey.npz"), tmp_path)
    assert own.shape == (1, 3, 3) and own.classes == 0 and own.y_train is None
    assert own.x_train.flatten().tolist() == np.rint(grey * 255).astype(int).flatten().tolist()
    colour = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.savez(tmp_path / "colour.npz", x_train=colour, x_test=colour)
    own, _ = data.load(str(tmp_path / "colour.npz"), tmp_path)
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
    "runs from 0.0 to 7.0": {"x_train": np.arange(96).reshape(6, 4, 4) % 8 * 1.0},
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
        data.load(str(tmp_path / "bad.npz"), tmp_path)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_good_npz_is_not_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **GOOD)
    assert data.load(str(tmp_path / "good.npz"), tmp_path)[0].classes == 3


def test_pickles_and_truncated_archives_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.savez(tmp_path / "bomb.npz", **{**GOOD, "x_train": np.array([Bomb()], dtype=object)})
    np.savez(tmp_path / "whole.npz", **GOOD)
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:500])
    for name in ("bomb.npz", "half.npz"):
        with pytest.raises(BadInput, match=f"{name} cannot be read"):
            data.load(str(tmp_path / name), tmp_path)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(BadInput, match=r"no file .*missing\.npz"):
        data.load(str(tmp_path / "missing.npz"), tmp_path)


def test_truncated_mnist_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file, _ in MNIST.resources:
        (raw / Path(file).stem).write_bytes(bytes([0, 0, 8, 3]) + bytes(40))
    for name in ("mnist", None):
        with pytest.raises(BadInput, match=r"mnist in .*raw cannot be read, a file is damaged"):
            data.load(name, tmp_path)


def test_without_network_digits_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_reachable", lambda name: False)
    found, line = data.load(None, tmp_path)
    assert found.name == "digits" and line is not None
    assert "--data mnist" in line and str(tmp_path) in line
    with pytest.raises(BadInput, match="--data-dir"):
        data.load("mnist", tmp_path)
    with pytest.raises(BadInput, match="did you mean fashion-mnist"):
        data.load("fashion_mnist", tmp_path)


def test_a_silent_mirror_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the connection and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(MNIST, "mirrors", [address, address])
        began = time.perf_counter()
        assert not data._reachable("mnist", seconds=1.0)
        assert time.perf_counter() - began < 1.5
