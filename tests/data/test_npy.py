"""Single arrays in .npy files, of any numeric type."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.data.load import find_dataset
from inference.errors import UserError
from ppl_models import SSVAE, VAE, VAE2D
from tests.data.test_npz import LEVELS, SAME

TWENTY = np.random.RandomState(1).randint(256, size=(20, 4, 5)).astype(np.uint8)
TWENTY[:, 0, 0] = 255


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_tenth_of_the_array_is_the_test_set(name: str, tmp_path: Path) -> None:
    """The content decides how the file is read, not its ending."""
    with open(tmp_path / name, "wb") as file:
        np.save(file, TWENTY)
    data, line = find_dataset(str(tmp_path / name), tmp_path, VAE)
    chosen = np.sort(np.random.RandomState(0).permutation(20)[:2])
    assert np.array_equal(data.x_test[:, 0], TWENTY[chosen])
    assert np.array_equal(data.x_train[:, 0], np.delete(TWENTY, chosen, 0))
    assert data.y_train is None and data.scale == 255 and data.name == str((tmp_path / name).resolve())
    assert line is not None and line.endswith("scale of 0 to 255; a tenth is the test set, 2 of 20")
    data.x_train.zero_()  # what was mapped into memory is not written back
    assert np.array_equal(np.load(tmp_path / name), TWENTY)


@pytest.mark.parametrize("how", SAME)
def test_images_of_every_type_are_the_same(how: str, tmp_path: Path) -> None:
    x, scale = SAME[how]
    np.save(tmp_path / "x.npy", x)
    data, _ = find_dataset(str(tmp_path / "x.npy"), tmp_path)
    both = np.concatenate([data.x_train[:, 0], data.x_test[:, 0]])
    order = np.random.RandomState(0).permutation(6)
    assert data.scale == scale and np.array_equal(both, LEVELS[[*np.sort(order[1:]), order[0]]])


def test_bool_is_black_and_white_and_points_are_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(4)[None].repeat(3, 0) > 0)
    data, _ = find_dataset(str(tmp_path / "x.npy"), tmp_path)
    assert data.scale == 1 and data.x_test[0, 0].tolist() == (255 * np.eye(4)).tolist()
    points = np.random.RandomState(0).normal(size=(30, 2))
    np.save(tmp_path / "p.npy", points)
    data, line = find_dataset(str(tmp_path / "p.npy"), tmp_path, VAE2D)
    assert data.x_train.shape == (27, 2) and data.scale is None and line == "a tenth is the test set, 3 of 30"


def spoilt(value: float) -> np.ndarray:
    x = TWENTY / 255
    x[7, 1, 2] = x[9, 0, 0] = value
    return x


REFUSED: dict[str, tuple[Any, str]] = {
    "nan": (spoilt(np.nan), "array has 2 values of NaN or infinity, the first at index (7, 1, 2). Replace"),
    "inf": (spoilt(np.inf), "array has 2 values of NaN or infinity, the first at index (7, 1, 2). Replace"),
    "negative": (spoilt(-0.5), "and has 2 values below 0, the first at index (7, 1, 2). Rescale -1..1"),
    "too bright": (spoilt(1.5), "array runs from 0 to 1.5, so white may be 1, 255 or another value. Give"),
    "int8": (
        np.full((4, 3, 3), -1, np.int8),
        "array runs from -1 to -1 and has 36 values below 0",
    ),
    "uint32": (TWENTY.astype(np.uint32) * 257, "array runs from 0 to 65535, so white may be"),
    "rows": (np.ones((5, 784)), "array has shape (5, 784), but images are (n, height, width)"),
    "one": (TWENTY[:1], "has 1 data point. Give at least two"),
    "none": (TWENTY[:0], "array has shape (0, 4, 5), so it is empty"),
    "a number": (np.array(3.0), "array has shape (), so it is empty"),
    "complex": (TWENTY * 1j, "array has type complex128. Give an array of numbers"),
    "text": (np.full((4, 3, 3), "a"), "array has type <U1. Give an array of numbers"),
    "fields": (np.zeros((4, 3, 3), [("a", float)]), "Give an array of numbers"),
    "objects": (np.array([{}, 1], object), "is an array of Python objects. Save an array of numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_arrays_are_refused(case: str, tmp_path: Path) -> None:
    x, complaint = REFUSED[case]
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    with pytest.raises(UserError) as caught:
        find_dataset(str(tmp_path / "x.npy"), tmp_path, VAE)
    assert str(caught.value).startswith(f"{tmp_path / 'x.npy'}") and complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_array_has_no_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", TWENTY)
    with pytest.raises(UserError, match=r"x\.npy has no labels, and this model needs them"):
        find_dataset(str(tmp_path / "x.npy"), tmp_path, SSVAE)
