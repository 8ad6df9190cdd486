"""Round trips of data: bytes to levels to bytes, labels, tokens and columns, on random values and layouts."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference.data import tables
from inference.data.arrays import read_images
from inference.data.labels import Header, read_labels
from inference.data.observations import IMAGES, OBSERVATIONS
from inference.data.vocabulary import SYMBOLS, Vocabulary
from ppl_models.distributions.token_sequence import END, UNKNOWN

LAYOUTS = {  # of images (n, channels, height, width)
    "channels first": lambda x: x,
    "channels last": lambda x: np.moveaxis(x, 1, -1),
    "no channels": lambda x: x[:, 0],
}
SCALES = {  # of levels 0..255
    255: [np.uint8, np.int64, np.float32, np.float64],
    1: [np.float32, np.float64],
    65535: [np.uint16],
}


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    """Levels (n, channels, height, width), white among them; no side could be that of the channels."""
    sides = st.sampled_from([2, 4, 5])
    shape = (draw(st.integers(1, 4)), draw(st.sampled_from([1, 3])), draw(sides), draw(sides))
    x = draw(hnp.arrays(np.uint8, shape))
    x.flat[draw(st.integers(0, x.size - 1))] = 255
    return x


@given(images(), st.sampled_from(list(LAYOUTS)), st.sampled_from(list(SCALES)), st.data())
def test_images_of_every_layout_and_scale_have_their_levels(
    x: np.ndarray, layout: str, scale: int, data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from(SCALES[scale]))
    x = x[:, :1] if layout == "no channels" else x
    given_images = LAYOUTS[layout]((x * (scale / 255)).astype(dtype))
    read, found = read_images({"x_train": given_images, "x_test": given_images[::-1]}, "own")
    assert found == scale
    assert np.array_equal(read["x_train"], x) and np.array_equal(read["x_test"], x[::-1])


KINDS = [name for name, kind in OBSERVATIONS.items() if kind.data is IMAGES]


@given(st.sampled_from(KINDS), images())
def test_every_observation_of_images_gives_its_levels_back(name: str, x: np.ndarray) -> None:
    kind, levels = OBSERVATIONS[name], torch.from_numpy(x)
    assert torch.equal(IMAGES.raw(kind.shown(kind.levels(levels))), levels)


@given(images())
def test_dequantised_levels_are_at_most_a_level_above(x: np.ndarray) -> None:
    kind, levels = OBSERVATIONS["dequantised"], torch.from_numpy(x)
    for observe in (kind.train, kind.test):
        above = (observe(levels).double() + 1) * 128 - levels.double()
        assert above.min() > -1e-4 and above.max() < 1 + 1e-4  # rounding of float32


@given(st.sampled_from(KINDS), images(), st.integers(0, 4))
def test_the_noise_of_a_test_set_does_not_depend_on_its_chunks(name: str, x: np.ndarray, cut: int) -> None:
    observe, levels, noise = OBSERVATIONS[name].test, torch.from_numpy(x), np.random.RandomState(0)
    parts = [observe(part, noise) for part in (levels[:cut], levels[cut:]) if len(part)]
    assert torch.equal(torch.cat(parts), observe(levels))


LETTERS = st.characters(codec="utf-8", exclude_characters="\0")  # NumPy cuts NULs off
LABELS = st.one_of(
    hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(-5, 5) | st.integers(-(2**61), 2**61)),
    hnp.arrays("U5", st.integers(1, 30), elements=st.text(LETTERS, min_size=1, max_size=5)),
)


@given(LABELS)
def test_classes_name_the_labels(y: np.ndarray) -> None:
    """Class numbers are 0, 1, 2, ... without a gap, in the order of the labels."""
    parts = {"y_train": y, "y_test": y[:1]}
    headers = {part: Header(labels.shape, labels.dtype) for part, labels in parts.items()}
    found = read_labels("own", parts, headers, {part: len(y) for part, y in parts.items()}, True)
    classes = found.y["y_train"]
    assert classes is not None and classes.unique().tolist() == list(range(len(np.unique(y))))
    counted = y.dtype.kind == "i" and set(y.tolist()) == set(range(len(set(y.tolist()))))
    assert (found.names is None) == counted  # the labels are the class numbers
    names = np.unique(y) if found.names is None else np.array(found.names, y.dtype)
    assert np.array_equal(names[classes.numpy()], y)


WORDS = ["a", "bb", "ccc", "dog's", "!"]


@given(st.lists(st.lists(st.sampled_from([*WORDS, "new"]), max_size=6), min_size=1, max_size=4))
def test_lines_are_decoded_from_their_tokens(lines: list[list[str]]) -> None:
    """Unknown words become <unk>, a line that is too long is cut, and every other line is as before."""
    vocabulary = Vocabulary("words", (*SYMBOLS, *WORDS), 4)
    x = vocabulary.encode(lines)
    assert x.shape == (len(lines), 4)
    for row, line, decoded in zip(x.tolist(), lines, vocabulary.decode(x), strict=True):
        words = [word if word in WORDS else SYMBOLS[UNKNOWN] for word in line]
        assert decoded == " ".join(words[:4]) + (" …" if len(line) >= 4 else "")
        assert row.count(END) == (len(line) < 4)


@given(st.data(), st.integers(10, 20), st.integers(1, 3))
def test_columns_return_to_their_units(data: st.DataObject, rows: int, columns: int) -> None:
    values = data.draw(hnp.arrays(np.float64, (rows, columns), elements=st.floats(-1, 1, width=32)))
    values[:, :] += np.arange(rows)[:, None]  # no column is constant
    values *= 10.0 ** data.draw(st.integers(-8, 8))
    values += data.draw(st.sampled_from([0.0, 1.0, -3.0])) * np.abs(values).max()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "own.csv")
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([[f"c{i}" for i in range(columns)], *values.tolist()])
        found = tables.load(path)
    assert found.columns is not None and len(found.x_test) == rows // 5
    back = tables.original_units(torch.cat([found.x_train, found.x_test]), found.columns).numpy()
    scale = np.array(found.columns.scale)
    np.testing.assert_allclose(found.x_train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.x_train.std(0, correction=0), 1, atol=1e-5)
    for before, after in zip(values.T, back.T, strict=True):
        np.testing.assert_allclose(np.sort(after), np.sort(before), atol=1e-5 * scale.max())
