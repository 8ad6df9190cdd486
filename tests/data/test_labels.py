"""Labels of any numbers or text become classes; they are required only if the model needs them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference import evaluate
from inference.data.convert import as_dataset
from inference.data.labels import listed
from inference.errors import UserError
from ppl_models import FSVAE, SSVAE, VAE
from tests.data.test_npz import GOOD, load, refusal

REFUSED = {  # changed arrays and the complaint of a model that needs labels
    "one part": ({"y_test": None}, "has no y_test. Add labels of every part"),
    "none": ({"y_train": None, "y_test": None}, "has no y_train and no y_test. Add labels"),
    "too few": ({"y_train": np.arange(5)}, "y_train has shape (5,), not (6,). Give one label per"),
    "one-hot": ({"y_train": np.eye(6)}, "y_train has shape (6, 6), not (6,). Use y.argmax(1)"),
    "objects": (
        {"y_train": np.array(["a"] * 6, object)},
        "y_train has type object. Save text with",
    ),
    "halves": (
        {"y_train": np.arange(6) / 2},
        "label 0.5 at index 1 (and 2 more) is not a whole",
    ),
    "nan": (
        {"y_train": np.where(np.arange(6) == 4, np.nan, 1)},
        "label nan at index 4 is not a whole",
    ),
    "beyond": ({"y_train": np.arange(6, dtype=np.uint64) + 2**63}, "at index 0 (and 5 more) is too large"),
    "complex": ({"y_train": np.ones(6, complex)}, "y_train has type complex128. Give whole numbers or text"),
    "dates": ({"y_train": np.array(["2020-01-01"] * 6, "M8[D]")}, "has type datetime64[D]. Give whole"),
    "text and numbers": ({"y_train": np.array(list("abcabc"))}, "y_train and y_test differ in type"),
    "no text": (
        {"y_train": np.array(["a", "", "b", "", "a", "b"]), "y_test": np.array(list("aba"))},
        "y_train: label '' at index 1 (and 1 more) is empty. Name a class",
    ),
    "long": ({"y_train": np.array(["a" * 201] + ["a"] * 5)}, "longer than 200 characters"),
    "Latin 1": ({"y_train": np.array(["ä".encode("latin1")] * 6)}, "y_train has bytes that are not UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_do_not_fit_are_refused_or_left_out(case: str, tmp_path: Path) -> None:
    changed, complaint = REFUSED[case]
    for model in (SSVAE, FSVAE):
        assert complaint in refusal(tmp_path, model, **GOOD | changed)
    data, line = load(tmp_path, VAE, **GOOD | changed)
    assert data.y_train is None and data.y_test is None and data.class_names is None and data.classes == 0
    assert ("labels are not used, since" in str(line)) == (case != "none")


MAPPED: dict[str, tuple[Any, Any, tuple[int | str, ...] | None]] = {  # training labels, test labels, classes
    "the classes themselves": (np.arange(6) % 3, [0, 1, 2], None),
    "whole floats": (np.arange(6.0) % 3, [0, 1, 2], None),
    "a column": ((np.arange(6) % 3)[:, None], [0, 1, 2], None),
    "big-endian": (np.arange(6).astype(">i2") % 3, [0, 1, 2], None),
    "bool": (np.arange(6) % 3 > 0, [False, True, True], None),
    "unsigned": (np.arange(6, dtype=np.uint64) % 3 + 7, [7, 8, 9], (7, 8, 9)),
    "negative": (np.arange(6) % 3 - 1, [-1, 0, 1], (-1, 0, 1)),
    "from one": (np.arange(6) % 3 + 1, [1, 2, 3], (1, 2, 3)),
    "gaps": (np.arange(6) % 3 * 2, [0, 2, 4], (0, 2, 4)),
    "huge": (np.arange(6) % 3 + 2**60, [2**60, 2**60 + 1, 2**60 + 2], (2**60, 2**60 + 1, 2**60 + 2)),
    "text": (np.array(["cat", "ox", "a b"] * 2), ["cat", "ox", "a b"], ("a b", "cat", "ox")),
    "bytes": (
        np.array(["ä".encode(), b"z", b"b"] * 2),
        np.array(["ä".encode(), b"z", b"b"]),
        ("b", "z", "ä"),
    ),
    "digits as text": (np.array(["10", "9", "1"] * 2), ["10", "9", "1"], ("1", "10", "9")),
}


@pytest.mark.parametrize("case", MAPPED)
@pytest.mark.parametrize("model", [VAE, FSVAE, SSVAE])
def test_labels_are_classes_in_their_order(case: str, model: Any, tmp_path: Path) -> None:
    train, test, names = MAPPED[case]
    data, line = load(tmp_path, model, **GOOD | {"y_train": train, "y_test": np.asarray(test)})
    assert data.class_names == names and data.y_train.dtype == torch.int64
    as_text = [str(label.decode() if isinstance(label, bytes) else label) for label in np.ravel(train)]
    if names is None:
        assert data.y_train.tolist() == np.ravel(train).astype(int).tolist() and "are classes" not in line
    else:
        assert [data.names[y] for y in data.y_train] == as_text and data.classes == len(names)
        assert f"labels {', '.join(map(str, names))} are classes 0 to {len(names) - 1}" in line


def test_a_class_without_a_training_image_is_refused_if_the_model_needs_labels(tmp_path: Path) -> None:
    for train, test, name in (
        ([0, 1, 0, 1, 0, 1], [0, 1, 2], "class 2 of y_test"),
        (list("ababab"), list("abz"), "class 'z' of y_test"),
    ):
        changed = GOOD | {"y_train": np.array(train), "y_test": np.array(test)}
        line = refusal(tmp_path, SSVAE, **changed)
        assert (
            f"{name} has no training image. Add images of it to y_train, or leave it out of y_test." in line
        )
        assert load(tmp_path, VAE, **changed)[0].classes == 3


def test_the_checksum_is_that_of_the_labels_in_the_file(tmp_path: Path) -> None:
    """Older versions hashed labels as they are in the file, int64; equal text in another order differs."""
    x, gaps = GOOD["x_train"], np.arange(6) % 3 * 2 - 1
    data, _ = load(tmp_path, VAE, **GOOD | {"y_train": gaps, "y_test": gaps[:3]})
    parts = (x, gaps.astype(np.int64), GOOD["x_test"], gaps[:3].astype(np.int64))
    assert data.checksum() == hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]
    sums = {
        load(tmp_path, VAE, **GOOD | {"y_train": np.array(list(text * 2)), "y_test": np.array(list(text))})[
            0
        ].checksum()
        for text in ("abc", "abd", "bac")
    }
    assert len(sums) == 3


def test_whole_numbers_are_classes_of_a_model_that_exists() -> None:
    """A part of the test set may lack classes: its labels must not be renumbered."""
    model, x = FSVAE((3, 32, 32), 3, z_dim=2), np.zeros((4, 32, 32, 3), np.uint8)
    data = as_dataset((x, np.array([0, 2, 2, 0])), model=model)
    assert data.y_train.tolist() == [0, 2, 2, 0] and data.class_names is None
    assert as_dataset((x, np.array([0, 2, 2, 0])), model=FSVAE).y_train.tolist() == [0, 1, 1, 0]
    with pytest.raises(UserError, match="the labels are not class numbers 0 to 2"):
        evaluate(model, (x, np.array([0, 3, 3, 0])), device="cpu")


def test_many_classes_are_listed_in_short() -> None:
    assert listed([1, "b"]) == "1, b"
    assert listed(range(30)).startswith("0, 1, ") and listed(range(30)).endswith("18, ..., 29")
