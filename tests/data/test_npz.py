"""Reading .npz files: scales, layouts, points, codes, and files that are refused."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.data.dataset import Dataset
from inference.data.load import find_dataset
from inference.data.observations import POINTS
from inference.errors import UserError
from ppl_models import FSVAE, SSVAE, VAE, VAE2D, CodePixelCNN, Flow, LatentVariableModel

LEVELS = np.random.RandomState(0).randint(256, size=(6, 4, 5)).astype(np.uint8)
LEVELS[:, 0, 0], LEVELS[:, 0, 1] = 0, 255  # every image, and so every part, has the whole range


def load(
    folder: Path, model: type[LatentVariableModel] | None = None, name: str = "own.npz", **arrays: Any
) -> tuple[Dataset, str | None]:
    """Saves arrays with numpy.savez, without those that are None, and loads the file."""
    with open(folder / name, "wb") as file:
        np.savez(file, **{key: value for key, value in arrays.items() if value is not None})
    return find_dataset(str(folder / name), folder, model)


def refusal(folder: Path, model: type[LatentVariableModel] | None = None, **arrays: Any) -> str:
    """Returns the error message for arrays saved with numpy.savez."""
    with pytest.raises(UserError) as caught:
        load(folder, model, **arrays)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder / 'own.npz'}")


UNIT = LEVELS / 255
SAME = {  # the same images in every supported type, and their scale
    "uint8": (LEVELS, 255),
    "int64": (LEVELS.astype(np.int64), 255),
    "float32, 0 to 255": (LEVELS.astype(np.float32), 255),
    "float16, 0 to 255": (LEVELS.astype(np.float16), 255),
    "a little above 255": (LEVELS * 1.000001, 255),
    "float64, 0 to 1": (UNIT, 1),
    "float32, 0 to 1": (UNIT.astype(np.float32), 1),
    "float16, 0 to 1": (UNIT.astype(np.float16), 1),
    "big-endian": (UNIT.astype(">f4"), 1),
    "column by column": (np.asfortranarray(UNIT), 1),
    "a little above 1": (UNIT * 1.000001, 1),
    "a little below 0": (UNIT - 1e-7, 1),
    "uint16, 0 to 65535": (LEVELS.astype(np.uint16) * 257, 65535),
    "uint16, 0 to 255": (LEVELS.astype(np.uint16), 255),
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_images_are_read_whatever_their_scale(how: str, tmp_path: Path) -> None:
    x, scale = SAME[how]
    data, line = load(tmp_path, x_train=x, x_test=x[:2])
    assert (
        data.scale == scale and line == f"{tmp_path / 'own.npz'}: images are read on a scale of 0 to {scale}"
    )
    assert data.x_train.dtype == torch.uint8
    assert np.array_equal(data.x_train[:, 0].numpy(), LEVELS)
    assert np.array_equal(data.x_test[:, 0].numpy(), LEVELS[:2])


@pytest.mark.parametrize("kind", [np.uint8, bool, np.int64, np.float32])
def test_nothing_above_one_is_on_a_scale_of_one(kind: type, tmp_path: Path) -> None:
    ones = np.eye(3)[None].repeat(2, 0).astype(kind)
    data, _ = load(tmp_path, x_train=ones, x_test=ones)
    assert data.scale == 1 and data.x_train[0, 0].tolist() == (255 * np.eye(3)).tolist()


def test_a_dark_part_is_read_on_the_scale_of_the_other(tmp_path: Path) -> None:
    dark = np.full((1, 4, 5), 60, np.uint8)
    data, _ = load(tmp_path, x_train=LEVELS, x_test=dark)
    assert data.scale == 255 and data.x_test.unique().tolist() == [60]
    data, _ = load(tmp_path, x_train=LEVELS / 255, x_test=dark / 255)
    assert data.scale == 1 and data.x_test.unique().tolist() == [60]
    data, _ = load(tmp_path, x_train=LEVELS, x_test=np.zeros((1, 4, 5), np.float32))
    assert data.scale == 255 and data.x_test.unique().tolist() == [0]


@pytest.mark.parametrize("scale", [1, 255])
def test_the_tolerance_is_a_thousandth_of_the_scale(scale: int, tmp_path: Path) -> None:
    """Below zero and above white."""
    images = UNIT * scale
    for excess in (0.0009, 0.0011):
        low, high = images.copy(), images.copy()
        low[0, 0, 0], high[0, 0, 1] = -excess * scale, (1 + excess) * scale
        for x in (low, high):
            if excess < 0.001:
                data, _ = load(tmp_path, x_train=x, x_test=images)
                assert data.scale == scale and np.array_equal(data.x_train[:, 0].numpy(), LEVELS)
            else:
                assert "x_train runs from " in refusal(tmp_path, x_train=x, x_test=images)


def test_the_largest_value_is_in_the_upper_half_of_the_scale(tmp_path: Path) -> None:
    data, _ = load(tmp_path, x_train=UNIT * 127.5, x_test=UNIT * 127.5)
    assert data.scale == 255
    assert "from 0 to 127.4" in refusal(tmp_path, x_train=UNIT * 127.4, x_test=UNIT * 127.4)


SIXTEENTHS = LEVELS // 16  # 0 to 15, as scikit-learn's digits nearly are
MISSCALED: dict[str, tuple[np.ndarray, np.ndarray, str, str]] = {
    "scikit-learn's own": (
        *(np.where(LEVELS == 255, 16, SIXTEENTHS).astype(float),) * 2,
        *("x_train runs from 0 to 16 and x_test runs from 0 to 16", "(x / 16)"),
    ),
    "the same as uint8": (
        *(np.where(LEVELS == 255, 16, SIXTEENTHS),) * 2,
        *("x_train runs from 0 to 16 and x_test runs from 0 to 16", "(x / 16)"),
    ),
    "above the tolerance": (UNIT * 1.01, UNIT, "x_train runs from 0 to 1.01 and", "in 0..1"),
    "below the middle": (LEVELS // 2, LEVELS // 3, "x_train runs from 0 to 127 and", "(x / 255)"),
    "one part of each": (UNIT, LEVELS, "x_train runs from 0 to 1 and x_test runs from 0 to 255", "each part"),
    "the other way round": (LEVELS, UNIT, "x_train runs from 0 to 255 and x_test runs from 0 to 1", "each"),
    "one part twice": (UNIT, UNIT / 255, "x_test runs from 0 to 0.003921569", "each part by its own"),
    "both twice": (UNIT / 255, UNIT / 255, "x_train runs from 0 to 0.003921569", "(x * 255"),
    "twelve bits": (
        *(LEVELS.astype(np.uint16) * 16,) * 2,
        *("x_train runs from 0 to 4080", "(x / 4095)"),
    ),
    "sixteen bits in more": (LEVELS.astype(np.int32) * 257, LEVELS * 257.0, "from 0 to 65535", "(x / 65535)"),
    "sixteen beside eight": (
        LEVELS.astype(np.uint16) * 257,
        LEVELS,
        "x_test runs from 0 to 255",
        "each part",
    ),
    "above 255": (LEVELS * 1.1, LEVELS, "x_train runs from 0 to 280.5", "in 0..1"),
}


@pytest.mark.parametrize("how", MISSCALED)
def test_images_of_no_known_scale_are_refused(how: str, tmp_path: Path) -> None:
    train, test, ranges, advice = MISSCALED[how]
    line = refusal(tmp_path, x_train=train, x_test=test)
    assert ranges in line and advice in line


def test_the_advice_of_a_refusal_helps(tmp_path: Path) -> None:
    sixteen = np.where(LEVELS == 255, 16, SIXTEENTHS)
    assert "divided by the value of white (x / 16)" in refusal(tmp_path, x_train=sixteen, x_test=sixteen)
    data, _ = load(tmp_path, x_train=sixteen / 16, x_test=sixteen / 16)
    levels = np.rint(sixteen * (255 / 16)).astype(np.uint8)
    assert data.scale == 1 and np.array_equal(data.x_train[:, 0].numpy(), levels)


def spoilt(value: float) -> np.ndarray:
    """Returns images 0 to 1 with two values replaced, the first at (2, 1, 3)."""
    x = UNIT.copy()
    x[2, 1, 3] = x[4, 0, 0] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("model", [None, VAE])
def test_values_that_are_not_finite_are_counted(value: float, model: Any, tmp_path: Path) -> None:
    line = refusal(tmp_path, model, x_train=UNIT, x_test=spoilt(value))
    assert line.startswith(": x_test has 2 values of NaN or infinity, the first at index (2, 1, 3). ")


def test_values_below_nought_are_counted(tmp_path: Path) -> None:
    line = refusal(tmp_path, x_train=spoilt(-0.5), x_test=UNIT)
    assert ": x_train runs from -0.5 to 1 and has 2 values below 0, the first at index (2, 1, 3)" in line
    assert "(x + 1) / 2" in line
    line = refusal(tmp_path, x_train=LEVELS.astype(int), x_test=LEVELS.astype(int) - 1)
    assert "x_test runs from -1 to 254" in line and "to 0..1" in line


def test_other_keys_are_not_read(tmp_path: Path) -> None:
    """An array of objects and the key of a second stage's codes change nothing."""
    plain, _ = load(tmp_path, x_train=UNIT, x_test=UNIT)
    names = np.array([{"a": 1}, None], dtype=object)
    more, _ = load(tmp_path, x_train=UNIT, x_test=UNIT, codes=256, names=names)
    assert more.scale == 1 and more.checksum() == plain.checksum()


def test_codes_are_read_as_they_are(tmp_path: Path) -> None:
    codes = LEVELS // 16
    for x in (codes, codes % 2, codes.astype(np.int64)):
        data, line = load(tmp_path, CodePixelCNN, x_train=x, x_test=x)
        assert line is None and data.scale is None and np.array_equal(data.x_train[:, 0].numpy(), x)
    whole = codes.astype(np.int64)
    for other in (UNIT, whole - 1, whole + 256):
        line = refusal(tmp_path, CodePixelCNN, x_train=other, x_test=other)
        assert "Codes are whole numbers from 0 to 255" in line


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first_or_last(channels: int, tmp_path: Path) -> None:
    last = np.random.RandomState(1).randint(256, size=(5, 7, 6, channels)).astype(np.uint8)
    first = np.moveaxis(last, -1, 1)
    for x in (last, first):
        data, _ = load(tmp_path, x_train=x, x_test=x[:2])
        assert data.shape == (channels, 7, 6) and np.array_equal(data.x_train.numpy(), first)


LAYOUTS = {
    (6, 2, 8, 8): "numpy.moveaxis(x, 1, -1)",
    (6, 8, 8, 4): "x[..., :3]",
    (6, 4, 8, 8): "numpy.moveaxis(x[:, :3], 1, -1)",
    (6, 784): "x.reshape(len(x), 28, 28)",
    (6, 15): "x.reshape(len(x), height, width)",
    (6, 2): "--model vae2d",
    (6,): "(n, height, width)",
    (): "it is empty",
}


@pytest.mark.parametrize("shape", LAYOUTS)
def test_another_layout_is_refused_with_its_remedy(shape: tuple[int, ...], tmp_path: Path) -> None:
    line = refusal(tmp_path, x_train=np.ones(shape), x_test=np.ones(shape))
    assert f"x_train has shape {shape}" in line and LAYOUTS[shape] in line


@pytest.mark.parametrize("model", [VAE2D, Flow])
def test_points_are_read_as_they_are(model: type[LatentVariableModel], tmp_path: Path) -> None:
    x = np.random.RandomState(0).normal(0, 100, size=(9, 2))
    data, line = load(tmp_path, model, x_train=x, x_test=x[:1], y_train=np.arange(9) - 4, y_test=[-4])
    assert data.kind is POINTS and data.shape == (2,) and data.scale is None
    assert line == "labels -4, -3, -2, -1, 0, 1, 2, 3, 4 are classes 0 to 8"
    assert torch.equal(data.x_train, torch.from_numpy(x).float()) and data.y_test.tolist() == [0]
    whole, _ = load(tmp_path, model, x_train=np.arange(6).reshape(3, 2), x_test=np.arange(2).reshape(1, 2))
    assert whole.x_train.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert "points in the plane, shape (n, 2)" in refusal(tmp_path, model, x_train=LEVELS, x_test=LEVELS)
    assert "float32, the first at index (8, 1)" in refusal(
        tmp_path, model, x_train=x, x_test=np.where(np.arange(18).reshape(9, 2) == 17, 1e300, x)
    )


GOOD: dict[str, Any] = {
    "x_train": np.zeros((6, 4, 4), np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": np.zeros((3, 4, 4), np.uint8),
    "y_test": np.arange(3),
}
BAD = {
    "has no x_train, only y_train, x_test, y_test. Split": {"x_train": None},
    "has no x_test, only x_train, y_train, y_test. Split": {"x_test": None},
    "differ in shape": {"x_test": np.zeros((3, 5, 5), np.uint8)},
    "has type <U1. Give an array of numbers": {"x_train": np.full((6, 4, 4), "a")},
    "has type complex128": {"x_train": np.ones((6, 4, 4), complex)},
    "x_test has shape (0, 4, 4), so it is empty": {"x_test": np.zeros((0, 4, 4))},
}


@pytest.mark.parametrize("complaint", BAD)
def test_a_bad_file_is_refused(complaint: str, tmp_path: Path) -> None:
    line = refusal(tmp_path, **GOOD | BAD[complaint])
    assert complaint in line
    assert ("numpy.savez('own.npz', x_train=" in line) == ("has no" in line)


def test_a_good_file_is_not_refused(tmp_path: Path) -> None:
    for model in (None, VAE, SSVAE, FSVAE):
        data, _ = load(tmp_path, model, **GOOD)
        assert data.classes == 3 and data.y_train.tolist() == [0, 1, 2] * 2
    assert load(tmp_path, name="OWN.NPZ", **GOOD)[0].classes == 3


def test_pickles_and_truncated_archives_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "exploded"),)

    bomb = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "bomb.npz", **{**GOOD, "x_train": bomb})
    np.savez(tmp_path / "whole.npz", **GOOD)
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:500])
    for name in ("bomb.npz", "half.npz"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            find_dataset(str(tmp_path / name), tmp_path)
    load(tmp_path, **GOOD, bomb=bomb)
    load(tmp_path, VAE, **GOOD | {"y_train": bomb})
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(UserError, match=r"no file .*missing\.npz"):
        find_dataset(str(tmp_path / "missing.npz"), tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_text("1,2\n")
    with pytest.raises(UserError, match=r"is neither an \.npz or .*numpy\.savez"):
        find_dataset(str(tmp_path / "x.dat"), tmp_path)
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        archive.writestr("a.png", b"")
    with pytest.raises(UserError, match=r"has no x_train, only a\.png"):
        find_dataset(str(tmp_path / "images.npz"), tmp_path)


def test_a_file_is_looked_for_in_the_folder_of_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory comes first, and a folder of that name is not a data set."""
    kept, here = tmp_path / "kept", tmp_path / "here"
    for folder in (kept, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    load(kept, x_train=LEVELS, x_test=LEVELS[:2])
    assert find_dataset("own.npz", kept)[0].name == str(kept / "own.npz")
    load(here, x_train=LEVELS, x_test=LEVELS[:3])
    assert find_dataset("own.npz", kept)[0].name == str(here / "own.npz")
    (kept / "images.v2").mkdir()
    with pytest.raises(UserError, match=r"images\.v2"):
        find_dataset("images.v2", kept)
