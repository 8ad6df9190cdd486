"""Arrays of numbers of tokens: each sequence ends once."""

import numpy as np
import pytest
import torch

from inference.data.arrays import LAST_TOKEN, read_sequences
from inference.errors import UserError


def test_sequences_become_whole_numbers() -> None:
    """With an end and padding, with an end only, without an end, and with the largest number."""
    x = np.array([[5, 3, 1, 0], [2, 1, 0, 0], [1, 0, 0, 0], [7, 8, 9, LAST_TOKEN]])
    found, scale = read_sequences({"x_train": x, "x_test": x[:3].astype(np.uint8)}, "own")
    assert scale is None and [part.dtype for part in found.values()] == 2 * [torch.int32]
    assert torch.equal(found["x_train"], torch.from_numpy(x).int())
    assert torch.equal(found["x_test"], torch.from_numpy(x[:3]).int())


LATE = "after the end of a sequence, or empty sequences, the first at index"
REFUSED = {
    "a token after the end": ([[5, 1, 2, 0]], f"has 1 value {LATE} (0, 2). Use 0 there."),
    "a second end": ([[5, 4, 1, 0], [5, 1, 1, 0]], f"has 1 value {LATE} (1, 2). Use 0 there."),
    "tokens after padding": ([[5, 0, 3, 1]], f"has 2 values {LATE} (0, 2). Use 0 there."),
    "no token": ([[5, 1], [0, 0]], f"has 1 value {LATE} (1, 0). Use 0 there."),
    "a number below zero": (
        [[4, 1], [4, -1]],
        "has 1 value outside 0..1048576, the first at index (1, 1). Give",
    ),
    "a large number": (
        [[LAST_TOKEN + 1, 1]],
        "has 1 value outside 0..1048576, the first at index (0, 0). Give",
    ),
    "fractions": (
        [[1.0, 0.0]],
        "has type float64 and shape (1, 2). Give whole numbers of tokens, (n, length).",
    ),
    "one dimension": ([5, 1], "has type int64 and shape (2,). Give whole numbers of tokens, (n, length)."),
    "nothing": (np.zeros((0, 3), int), "has shape (0, 3), so it is empty. Give at least one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_numbers_are_refused_with_their_place(case: str) -> None:
    x, complaint = REFUSED[case]
    with pytest.raises(UserError) as caught:
        read_sequences({"x_train": np.array([[2, 1]]), "x_test": np.array(x)}, "own")
    assert str(caught.value).startswith(f"own: x_test {complaint}")


def test_parts_of_two_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="own: sequences of x_train and x_test differ in shape"):
        read_sequences({"x_train": np.array([[2, 1]]), "x_test": np.array([[2, 1, 0]])}, "own")
