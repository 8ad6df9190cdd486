"""Labels of an .npz file are read if a model can use them and checked only if it needs them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from inference.data.dataset import Dataset
from ppl_models import FSVAE, SSVAE, VAE
from tests.data.test_npz import GOOD, load, refusal

LABELS = {  # changed arrays; the complaint; whether a model without labels reads them all the same
    "one part": ({"y_test": None}, "has no y_test. Add labels", False),
    "none": ({"y_train": None, "y_test": None}, "has no y_train and no y_test. Add labels", False),
    "too few": ({"y_train": np.arange(5)}, "y_train has shape (5,), not (6,). Give one label per", False),
    "one-hot": ({"y_train": np.eye(6)}, "y_train has shape (6, 6), not (6,). Use y.argmax(1)", False),
    "words": ({"y_train": np.array(list("abcabc"))}, "y_train has type <U1 or values", False),
    "objects": ({"y_train": np.array([{}] * 6)}, "y_train has type object or values", False),
    "halves": ({"y_train": np.arange(6) / 2}, "y_train has type float64 or values", False),
    "unlabelled": ({"y_train": np.arange(6) % 3 - 1}, "labels run from -1 to 2", True),
    "from one": ({"y_train": GOOD["y_train"] + 1, "y_test": GOOD["y_test"] + 1}, "image. Use y - 1", True),
    "gaps": ({"y_train": np.arange(6) % 3 * 2}, "class 1 has no training image. Number the", True),
    "huge": ({"y_train": np.arange(6) + 2**40}, "class 0 has no training image. Number the", True),
    "beyond": ({"y_train": np.arange(6, dtype=np.uint64) + 2**63}, "y_train has type uint64 or", False),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_checked_where_a_model_needs_them(case: str, tmp_path: Path) -> None:
    changed, complaint, kept = LABELS[case]
    for model in (SSVAE, FSVAE):
        assert complaint in refusal(tmp_path, model, **GOOD | changed)
    data, line = load(tmp_path, VAE, **GOOD | changed)
    assert np.array_equal(data.x_train, np.zeros((6, 1, 4, 4))) and (data.y_train is not None) == kept
    assert ("labels are not used, since" in str(line)) == (not kept and case != "none")
    if kept:
        assert data.y_train.tolist() == changed["y_train"].tolist()


@pytest.mark.parametrize(
    "y", [np.arange(6.0) % 3, (np.arange(6) % 3)[:, None], np.arange(6).astype(">i2") % 3]
)
def test_whole_numbers_of_any_type_are_labels(y: np.ndarray, tmp_path: Path) -> None:
    data, _ = load(tmp_path, FSVAE, **GOOD | {"y_train": y})
    assert data.y_train.dtype == torch.int64 and data.y_train.tolist() == [0, 1, 2] * 2


def test_labels_are_numbered_in_their_order() -> None:
    x = torch.zeros(4, 1, 1, 1)
    data = Dataset("x", x, torch.tensor([7, -1, 7, 2**40]), x[:2], torch.tensor([3, 7]))
    assert data.classes == 4
    numbered = data.numbered()
    assert numbered.y_train.tolist() == [2, 0, 2, 3] and numbered.y_test.tolist() == [1, 2]
