"""Tables: what is read and what is refused, standardisation and the way back, the split, and labels."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from inference import svi
from inference.data import tables
from inference.data.dataset import Columns
from inference.data.load import find_dataset, load_dataset
from inference.data.observations import POINTS
from inference.data.tables import original_units
from inference.errors import UserError
from inference.rundir import schema
from inference.rundir.restore import load_data, restore
from inference.rundir.run import Run
from inference.rundir.run_config import RunConfig
from ppl_models import MODELS
from tests.support import drawn, reported

RANDOM = np.random.RandomState(1)
ROWS = np.round(np.stack([RANDOM.normal(1e6, 3, 50), RANDOM.normal(-2, 1e-3, 50)], axis=1), 5)
KINDS = np.array(["b", "a", "c"])[np.arange(50) % 3]


def text(rows: np.ndarray = ROWS, header: str = "big,small", end: str = "\n", comma: str = ",") -> str:
    """Returns a table as text."""
    lines = [header.replace(",", comma), *(comma.join(map(repr, map(float, row))) for row in rows)]
    return "".join(line + end for line in lines)


def labelled(labels: np.ndarray) -> str:
    """Returns the table with a column of labels in the middle."""
    lines = ["big,kind,small", *(f"{a},{label},{b}" for (a, b), label in zip(ROWS, labels, strict=True))]
    return "\n".join(lines)


def write(folder: Path, content: str | bytes, name: str = "own.csv") -> Path:
    """Writes a file and returns its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_columns_are_standardised_by_the_training_rows_and_come_back(tmp_path: Path) -> None:
    data = tables.load(write(tmp_path, text()))
    assert data.columns is not None and data.columns.names == ("big", "small") and data.y_train is None
    assert data.x_train.shape == (40, 2) and data.x_test.shape == (10, 2)
    assert_close(data.x_train.double().mean(0), torch.zeros(2).double(), rtol=0, atol=1e-6)
    assert_close(data.x_train.double().std(0, correction=0), torch.ones(2).double(), rtol=0, atol=1e-6)
    assert data.x_test.mean(0).abs().max() > 1e-3  # not standardised by its own mean
    order = np.random.RandomState(0).permutation(50)
    test, train = np.sort(order[:10]), np.sort(order[10:])
    for x, rows in ((data.x_test, test), (data.x_train, train)):
        back = original_units(x, data.columns).numpy()
        assert np.abs((back - ROWS[rows]) / ROWS[train].std(0)).max() < 1e-6
    assert_close(np.array(data.columns.location), ROWS[train].mean(0), rtol=1e-12, atol=0)


def test_the_split_depends_on_the_number_of_rows_only(tmp_path: Path) -> None:
    a = tables.load(write(tmp_path, text(), "a.csv"))
    b = tables.load(write(tmp_path, text(ROWS * 2 + 5), "b.csv"))
    assert_close(a.x_test, b.x_test, rtol=0, atol=1e-4)  # the same rows, in other units
    assert a.checksum() != b.checksum()  # which the checksum sees
    assert a.checksum() == tables.load(tmp_path / "a.csv").checksum()


SAME = {
    "windows": text(end="\r\n").encode(),
    "a byte-order mark": b"\xef\xbb\xbf" + text().encode(),
    "quotes": text(header='"big","small"').replace("\n-", '\n"-').encode(),
    "no newline at the end": text().rstrip().encode(),
    "blank lines at the end": (text() + "\n\n").encode(),
    "spaces": text(header=" big , small ").replace(",", " , ").encode(),
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_table_is_read_however_it_is_written(how: str, tmp_path: Path) -> None:
    expected = tables.load(write(tmp_path, text(), "expected.csv"))
    found = tables.load(write(tmp_path, SAME[how]))
    assert found.checksum() == expected.checksum() and found.columns == expected.columns


def test_tabs_and_quoted_names(tmp_path: Path) -> None:
    expected = tables.load(write(tmp_path, text(), "expected.csv"))
    found = tables.load(write(tmp_path, text(comma="\t"), "own.tsv"))
    assert found.checksum() == expected.checksum()
    quoted = tables.load(write(tmp_path, text(header='"big, in ""cm""",small')))
    assert quoted.columns is not None and quoted.columns.names == ('big, in "cm"', "small")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (KINDS, ("a", "b", "c")),
        (np.array([10, 9, -1])[np.arange(50) % 3], (-1, 9, 10)),  # as numbers, not as text
        (np.array(["10.0", "9.0", "-1.0"])[np.arange(50) % 3], (-1, 9, 10)),
        (np.array([2**60, 2**60 + 1, 3])[np.arange(50) % 3], (3, 2**60, 2**60 + 1)),
    ],
)
def test_labels_are_numbered_in_sorted_order(labels: np.ndarray, names: tuple, tmp_path: Path) -> None:
    data = load_dataset(str(write(tmp_path, labelled(labels))), label_column="kind")
    assert data.columns is not None and data.class_names == names and data.classes == 3
    assert data.columns.names == ("big", "small")
    train = np.sort(np.random.RandomState(0).permutation(50)[10:])
    assert data.y_train is not None and data.y_train.dtype == torch.int64
    written = [str(label).removesuffix(".0") for label in labels[train]]
    assert [str(names[label]) for label in data.y_train.tolist()] == written


def test_zeros_and_ones_are_not_standardised(tmp_path: Path) -> None:
    bits = (np.random.RandomState(0).rand(30, 3) < 0.3).astype(float)
    data = tables.load(write(tmp_path, text(bits, "a,b,c")))
    assert set(data.x_train.unique().tolist()) == set(data.x_test.unique().tolist()) == {0.0, 1.0}
    assert data.columns == Columns(("a", "b", "c"), (0.0,) * 3, (1.0,) * 3)
    one_more = tables.load(write(tmp_path, text(np.c_[bits, ROWS[:30, 0]], "a,b,c,d")))
    assert one_more.x_train.unique().numel() > 2 and one_more.columns.scale[0] < 0.5  # all four are


def changed(row: int, cell: str) -> str:
    """Returns the table with another second cell in a row; the header is row 1."""
    lines = text().splitlines()
    lines[row - 1] = lines[row - 1].partition(",")[0] + "," + cell
    return "\n".join(lines)


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "no header": (text().partition("\n")[2], "row 1 holds the number .*header row seems to be missing"),
    "a ragged row": (changed(7, "1,2"), "row 7 has 3 cells, and the header has 2"),
    "a short row": (text().replace("\n", "\n7\n", 1), "row 2 has 1 cells"),
    "a blank row": (text().replace("\n", "\n\n", 1), "row 2 has 0 cells"),
    "an empty cell": (changed(9, ""), "row 9, column 'small': the value is missing"),
    "NA": (changed(9, "NA"), "row 9, column 'small': the value is missing"),
    "nan": (changed(51, "nan"), "row 51, column 'small': the value is missing"),
    "a word": (changed(3, "tall"), "row 3, column 'small': 'tall' is not a number"),
    "an underscore": (changed(3, "1_000"), "row 3, column 'small': '1_000' is not a number"),
    "a decimal comma": (changed(3, '"1,5"'), "row 3, column 'small': '1,5' is not a number"),
    "infinity": (changed(4, "-inf"), "row 4, column 'small': -inf is not a finite float32"),
    "too large": (changed(4, "1e39"), "row 4, column 'small': 1e39 is not a finite float32"),
    "far too large": (changed(4, "1e999"), "row 4, column 'small': 1e999 is not a finite float32"),
    "duplicate names": (text(header="big,big"), "two columns are named 'big'"),
    "a column without a name": (text(header=",small"), "column 1 has no name in row 1"),
    "a constant column": (text(np.c_[ROWS, np.ones(50)], "a,b,c"), "column 'c' is 1 in every training row"),
    "too few rows": (text(ROWS[:9]), "has 9 rows. Give at least 10"),
    "only a header": ("a,b\n", "has 0 rows"),
    "nothing": ("", "is empty"),
    "semicolons": (text(comma=";"), "separated by ';'. Separate them by commas"),
    "tabs": (text(comma="\t"), r"separated by '\\t'. Separate them by commas"),
    "latin-1": ("höhe,b\n1,2\n".encode("latin-1"), "is not text in UTF-8"),
    "utf-16": (text().encode("utf-16"), "is not text in UTF-8"),
    "an open quote": (text() + '"1,2\n', "row 52 cannot be read"),
    "a NUL byte": (changed(5, "\0"), "row 5"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_anything_else_is_refused_with_row_and_column(how: str, tmp_path: Path) -> None:
    content, reason = REFUSED[how]
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=reason) as error:
        tables.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, labelled(KINDS))
    with pytest.raises(UserError, match=r"no column 'sort'. Give --label-column one of big, kind, small"):
        tables.load(path, "sort")
    with pytest.raises(UserError, match=r"row 2, column 'kind': 'b' is not a number.*--label-column"):
        tables.load(path)
    with pytest.raises(UserError, match=r"row 2 has the label 1.5 in column 'kind'"):
        tables.load(write(tmp_path, labelled(np.r_[1.5, np.arange(49)])), "kind")
    with pytest.raises(UserError, match=r"row 4 has no label in column 'kind'"):
        tables.load(write(tmp_path, labelled(np.array(["a", "b", ""] + ["a"] * 47))), "kind")
    with pytest.raises(UserError, match=r"has no column besides 'a'"):
        tables.load(write(tmp_path, "a\n" + "1\n2\n" * 10), "a")
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        tables.load(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"--label-column names a column of a table"):
        find_dataset("digits", tmp_path, label_column="kind")


def test_parquet_without_pyarrow_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r'pip install "ppl-models\[parquet\]"$'):
        tables.load(write(tmp_path, b"PAR1", "own.parquet"))


def test_parquet_is_the_same_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    path = tmp_path / "own.parquet"
    parquet.write_table(pyarrow.table({"big": ROWS[:, 0], "kind": KINDS, "small": ROWS[:, 1]}), path)
    expected = tables.load(write(tmp_path, labelled(KINDS)), "kind")
    assert tables.load(path, "kind").checksum() == expected.checksum()
    parquet.write_table(pyarrow.table({"big": [None, *ROWS[1:, 0]]}), path)
    with pytest.raises(UserError, match=r"row 1, column 'big': the value is missing"):
        tables.load(path)


def test_a_run_on_a_table_is_restored_resumed_and_drawn(tmp_path: Path) -> None:
    path, run = write(tmp_path, labelled(KINDS)), tmp_path / "run"
    options = ["--steps", "4", "--batch-size", "20", "--hidden", "8", "--z-dim", "2", "--labels", "6"]
    start = ["--model", "ssvae", "--data", str(path), "--label-column", "kind", *options]
    with drawn(), reported():
        assert svi.main([*start, "--run-dir", str(run)]) == 0
    config = json.loads((run / "config.json").read_text())
    data = tables.load(path, "kind")
    assert config["columns"]["names"] == ["big", "small"] and config["class_names"] == ["a", "b", "c"]
    assert Columns(**{key: tuple(value) for key, value in config["columns"].items()}) == data.columns
    assert (config["label_column"], config["shape"], config["classes"]) == ("kind", [2], 3)
    assert {"samples.png", "columns.png", "curves.png"} <= {each.name for each in (run / "figures").iterdir()}
    page = (run / "report.html").read_text()
    assert "<dd>points, each column standardised</dd>" in page and "points as they are" not in page
    assert svi.main(["--resume", str(run), "--steps", "6"]) == 0
    assert torch.equal(load_data(Run.open(run)).x_test, data.x_test)
    assert Run.open(run).config.data_kind is POINTS
    model = restore(run).model
    samples = original_units(model.sample(200, y=torch.zeros(200).long()), data.columns)
    assert (samples.mean(0) - torch.tensor(ROWS.mean(0))).abs().lt(5 * torch.tensor(ROWS.std(0))).all()
    path.write_text(labelled(KINDS).replace("small", "tiny"))  # another name
    with pytest.raises(UserError, match=r"is not the data that the run used"):
        load_data(Run.open(run))


def test_a_model_that_takes_no_table_names_those_that_do(tmp_path: Path) -> None:
    path = write(tmp_path, text())
    accepting = [name for name, cls in MODELS.items() if cls.observation_of((2,)) == "points"]
    assert {"vae", "gmvae", "ssvae", "flow", "made"} <= set(accepting)
    with pytest.raises(UserError, match=r"conv_vae observes images, and .*csv has points") as error:
        svi.main(["--model", "conv_vae", "--data", str(path), "--run-dir", str(tmp_path / "x")])
    assert all(name in str(error.value) for name in accepting)
    with pytest.raises(UserError, match=r"needs them: name their column with --label-column"):
        svi.main(["--model", "ssvae", "--data", str(path), "--run-dir", str(tmp_path / "x")])
    with pytest.raises(UserError, match=r"needs columns of 0 and 1 only, and column 'big' of"):
        options = ["--likelihood", "bernoulli", "--steps", "2", "--batch-size", "9"]
        svi.main(["--model", "vae", "--data", str(path), *options, "--run-dir", str(tmp_path / "x")])
    with pytest.raises(UserError, match=r"vae: likelihood normal is for vectors, not for images"):
        options = ["--data", "digits", "--likelihood", "normal", "--steps", "2"]
        svi.main(["--model", "vae", *options, "--run-dir", str(tmp_path / "x")])
    with pytest.raises(UserError, match=r"cannot train flow: a flow transforms at least two dimensions"):
        one = write(tmp_path, text(ROWS[:, :1], "a"), "one.csv")
        options = ["--steps", "2", "--batch-size", "9", "--run-dir", str(tmp_path / "x")]
        svi.main(["--model", "flow", "--data", str(one), *options])
    assert not (tmp_path / "x").exists()


def test_a_binary_table_trains_with_bernoulli(tmp_path: Path) -> None:
    bits = (np.random.RandomState(0).rand(30, 3) < 0.3).astype(float)
    path, run = write(tmp_path, text(bits, "a,b,c")), tmp_path / "run"
    options = ["--likelihood", "bernoulli", "--steps", "3", "--batch-size", "9", "--hidden", "8"]
    assert svi.main(["--model", "made", "--data", str(path), *options, "--run-dir", str(run)]) == 0
    model = restore(run).model
    assert model.sample(20).unique().tolist() == [0.0, 1.0]
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    assert model.log_likelihood(every).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_run_folders_without_the_new_keys_load_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    path, run = write(tmp_path, text()), tmp_path / "run"
    options = ["--steps", "1", "--batch-size", "9", "--hidden", "8", "--run-dir", str(run)]
    assert svi.main(["--model", "vae", "--data", str(path), *options]) == 0
    written = json.loads((run / "config.json").read_text())

    def config(**changes: object) -> RunConfig:
        return schema.config(json.dumps(written | changes).encode(), run / "config.json")

    assert config().columns == written["columns"] and config().label_column is None
    del written["options"]["likelihood"], written["columns"]
    assert config().options["likelihood"] == "auto" and config().columns is None
    wrong = {"names": ["a"], "location": [0.0], "scale": [0.0]}  # a scale of 0
    for columns in (wrong, {**wrong, "scale": [1.0, 2.0]}, {**wrong, "names": [1], "scale": [1.0]}, [], {}):
        with pytest.raises(UserError, match=r"config.json is damaged: columns is"):
            config(columns=columns)
