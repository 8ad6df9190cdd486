"""Tensors, torch data sets and data loaders become the same `Dataset` as an .npz file of the same arrays."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from inference.data import npz
from inference.data.convert import as_dataset
from inference.data.dataset import Dataset
from inference.data.observations import POINTS
from inference.errors import UserError
from ppl_models import FSVAE, SSVAE, VAE, VAE2D, CodePixelCNN, LatentVariableModel

LEVELS = np.random.RandomState(0).randint(256, size=(7, 4, 5)).astype(np.uint8)
LEVELS[:, 0, 0], LEVELS[:, 0, 1] = 0, 255
Y = np.arange(7) % 3


class Stream(IterableDataset):
    """An iterable data set of pairs (x, y)."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self.x, self.y, strict=True)


class Pictures(TorchDataset):
    """A map-style data set of arrays and plain numbers, as torchvision's without a transform."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        self.x, self.y = x.numpy(), y.tolist()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.x[i], self.y[i]


PAIRS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "tensors": lambda x, y: (x, y),
    "arrays": lambda x, y: [x.numpy(), y.numpy()],
    "TensorDataset": TensorDataset,
    "map-style": Pictures,
    "iterable": Stream,
    "DataLoader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=3, shuffle=False),
}
UNLABELLED: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda x: x,
    "array": lambda x: x.numpy(),
    "one in a tuple": lambda x: (x,),
    "TensorDataset": TensorDataset,
    "DataLoader of pairs": lambda x: DataLoader(TensorDataset(x), batch_size=3),
    "DataLoader": lambda x: DataLoader(x, batch_size=3),
}
IMAGES = {
    "levels": LEVELS,
    "floats in 0..1": (LEVELS / 255).astype(np.float32),
    "floats in 0..255": LEVELS.astype(np.float32),
    "channel first": np.repeat(LEVELS[:, None], 3, 1),
    "channel last": np.repeat(LEVELS[..., None], 3, 3),
}


def assert_same(one: Dataset, other: Dataset) -> None:
    """Everything but the names is equal, types included."""
    assert one.scale == other.scale
    for key in ("x_train", "y_train", "x_test", "y_test"):
        a, b = getattr(one, key), getattr(other, key)
        if a is None or b is None:
            assert a is b, key
        else:
            assert a.dtype == b.dtype and torch.equal(a, b), key


def from_npz(
    folder: Path, model: type[LatentVariableModel], x: np.ndarray, y: np.ndarray | None, test: int
) -> Dataset:
    """The same arrays through a file, the last `test` as test set."""
    labels = {} if y is None else {"y_train": y[:-test], "y_test": y[-test:]}
    np.savez(folder / "own.npz", x_train=x[:-test], x_test=x[-test:], **labels)
    return npz.load(folder / "own.npz", model)[0]


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("scale", IMAGES)
def test_pairs_equal_the_same_arrays_in_a_file(kind: str, scale: str, tmp_path: Path) -> None:
    x, y = torch.from_numpy(IMAGES[scale]), torch.from_numpy(Y)
    found = as_dataset(PAIRS[kind](x[:5], y[:5]), PAIRS[kind](x[5:], y[5:]), model=FSVAE, name="mine")
    assert found.name == "mine" and found.x_train.dtype == torch.uint8
    assert_same(found, from_npz(tmp_path, FSVAE, IMAGES[scale], Y, 2))


@pytest.mark.parametrize("kind", UNLABELLED)
def test_data_without_labels(kind: str, tmp_path: Path) -> None:
    x = torch.from_numpy(IMAGES["floats in 0..1"])
    found = as_dataset(UNLABELLED[kind](x[:5]), UNLABELLED[kind](x[5:]), model=VAE)
    assert_same(found, from_npz(tmp_path, VAE, x.numpy(), None, 2))


@pytest.mark.parametrize("model", [VAE, VAE((1, 4, 5), hidden=4), SSVAE])
def test_without_validation_the_test_part_is_empty(model: Any) -> None:
    data = as_dataset((LEVELS, Y), model=model)
    assert len(data.x_train) == 7 and data.y_train is not None and data.y_train.tolist() == Y.tolist()
    assert data.x_test.shape == (0, 1, 4, 5) and data.x_test.dtype == torch.uint8
    assert data.y_test is not None and data.y_test.shape == (0,) and data.classes == 3
    assert as_dataset(LEVELS, model=VAE).y_test is None


def test_points_and_codes() -> None:
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    data = as_dataset(x, x[:2], model=VAE2D)
    assert data.kind is POINTS and data.shape == (3,) and torch.equal(data.x_train, x.detach().float())
    codes = LEVELS // 16
    data = as_dataset(codes, model=CodePixelCNN)
    assert data.scale is None and np.array_equal(data.x_train[:, 0].numpy(), codes)


def test_half_precision_tensors_are_images_too() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.bool):
        data = as_dataset(torch.eye(4)[None].to(dtype), model=VAE)
        assert data.scale == 1 and data.x_train[0, 0].tolist() == (255 * torch.eye(4)).tolist()


def test_a_dataset_of_the_suite_is_returned_as_it_is() -> None:
    data = as_dataset(LEVELS, model=VAE)
    assert as_dataset(data, model=VAE) is data
    with pytest.raises(UserError, match="Leave out validation"):
        as_dataset(data, LEVELS, model=VAE)


def test_a_loader_is_read_once() -> None:
    class Once(IterableDataset):
        reads = 0

        def __iter__(self) -> Iterator[np.ndarray]:
            self.reads += 1
            return iter(LEVELS)

    once = Once()
    assert len(as_dataset(DataLoader(once, batch_size=2), model=VAE).x_train) == 7 and once.reads == 1


def test_labels_that_do_not_fit_are_left_out_with_a_warning() -> None:
    for train, validation, reason in (
        ((LEVELS, Y / 2), None, "label 0.5 at index 1 .and 1 more. is not a whole"),
        ((LEVELS, Y), LEVELS, "has no labels of validation"),
        ((LEVELS, Y[:5]), None, r"shape \(5,\), not \(7,\)"),
    ):
        with pytest.warns(UserWarning, match=f"labels are not used, since data.* {reason}"):
            assert as_dataset(train, validation, model=VAE).y_train is None
        with pytest.raises(UserError, match=reason):
            as_dataset(train, validation, model=FSVAE)


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "negative": (LEVELS / 255.0 - 0.5, None, "data: train runs from -0.5 to 0.5 and has"),
    "scales that differ": (LEVELS, LEVELS / 255, "train runs from 0 to 255 and validation runs from 0 to 1"),
    "not finite": (np.where(LEVELS == 0, np.nan, LEVELS), None, "of NaN or infinity"),
    "rows": (np.ones((5, 784)), None, "x.reshape(len(x), 28, 28)"),
    "shapes that differ": (LEVELS, LEVELS[:, :3], "images of train and validation differ in shape"),
    "nothing": (torch.zeros(0, 4, 4), None, "train has shape (0, 4, 4), so it is empty"),
    "an empty loader": (DataLoader([]), None, "data: train is empty"),
    "complex": (torch.ones(2, 4, 4, dtype=torch.complex64), None, "has type complex64"),
    "three": ((LEVELS, Y, Y), None, "train has 3 elements. Give x or a pair (x, y)."),
    "a path": ("images.png", None, "train is of type str. Give a tensor"),
    "a dictionary": ({"x": LEVELS}, None, "train is of type dict. Give a tensor"),
    "a dictionary per item": (DataLoader([{"x": 1.0}]), None, "train, a batch is of type dict"),
    "objects": (np.array([{}], dtype=object), None, "train is of type ndarray. Give a tensor"),
    "batches of two sizes": (DataLoader([LEVELS[:, 1:], LEVELS], batch_size=None), None, "different shapes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(case: str) -> None:
    train, validation, complaint = REFUSED[case]
    with pytest.raises(UserError) as caught:
        as_dataset(train, validation, model=VAE)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
