"""Tables: numeric columns of a .csv, .tsv or .parquet file, one data point per row."""

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.backend.files import check_memory
from inference.data.dataset import Columns, Dataset
from inference.errors import UserError

SUFFIXES = (".csv", ".tsv", ".parquet")
MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "<na>"}  # in lower case
LEAST = 10  # rows
LARGEST = float(np.finfo(np.float32).max)
CELL = 30  # bytes of memory per byte of a file, at most


class Table(NamedTuple):
    """The cells of a table as a file gives them.

    Attributes:
        name: of the file, for messages.
        columns: the cells by column name: texts, numbers, or None if missing.
        first: the number of the first row of cells; with a header, which is row 1, it is 2.
    """

    name: str
    columns: dict[str, Sequence[Any]]
    first: int


def load(path: Path, label_column: str | None = None) -> Dataset:
    """Reads a table as a data set of points (n, d).

    The first row of a .csv (commas) or .tsv (tabs) holds the names of the columns. Every column is numeric,
    except that of the labels. A fifth of the rows, rounded down, is the test set. The number of rows alone
    decides which rows: the first ones of the permutation by RandomState(0).

    Columns are standardised with the mean and the standard deviation of the training rows. A table of zeros
    and ones only is not standardised. `Dataset.columns` has the names, means and standard deviations.

    Args:
        path: the file.
        label_column: name of the column of labels: whole numbers or texts, which become 0, 1, 2, ... in
            sorted order.

    Raises:
        UserError: the file is not such a table. The message names row and column.
    """
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    rows = min(map(len, table.columns.values()), default=0)
    if rows < LEAST:
        raise UserError(f"{path} has {rows} rows. Give at least {LEAST}.")
    labels, names = _labels(table, label_column)
    columns = {key: cells for key, cells in table.columns.items() if key != label_column}
    if not columns:
        raise UserError(f"{path} has no column besides {label_column!r}. Add at least one numeric column.")
    values = np.stack([_numbers(table, key, cells) for key, cells in columns.items()], axis=1)
    test = np.zeros(rows, bool)
    test[np.random.RandomState(0).permutation(rows)[: rows // 5]] = True
    loc, scale = _standardisation(table, list(columns), values, ~test)
    x = torch.from_numpy(((values - loc) / scale).astype(np.float32))
    if not x.isfinite().all():
        raise UserError(f"{path} has test rows too far from the training rows. Remove outliers or rescale.")
    y = None if labels is None else torch.from_numpy(labels)
    held_out = torch.from_numpy(test)
    return Dataset(
        str(path.resolve()),
        x[~held_out],
        None if y is None else y[~held_out],
        x[held_out],
        None if y is None else y[held_out],
        columns=Columns(tuple(columns), tuple(loc.tolist()), tuple(scale.tolist())),
        class_names=names,
    )


def original_units(x: Tensor, columns: Columns) -> Tensor:
    """Converts standardised points back to the units of the table's columns.

    Args:
        x: points (n, d), such as samples of a model.
        columns: `Dataset.columns`, or `Columns(**config.columns)` of a run.

    Returns:
        Points (n, d), float64.
    """
    scale, loc = (torch.tensor(values, dtype=torch.float64) for values in (columns.scale, columns.location))
    return x.double().cpu() * scale + loc


def with_columns(data: Dataset, columns: Columns) -> Dataset:
    """Standardises another table as the one of a run, so that its points mean the same to the run's model.

    Args:
        data: the table.
        columns: those of the run.

    Raises:
        UserError: the table has other columns.
    """
    if data.columns is None or list(data.columns.names) != list(columns.names):
        names = "no named columns" if data.columns is None else f"columns {', '.join(data.columns.names)}"
        raise UserError(
            f"{data.name} has {names}, and the run has {', '.join(columns.names)}. Give a table with these "
            "columns in this order."
        )
    loc, scale = torch.tensor(columns.location).double(), torch.tensor(columns.scale).double()
    x_train, x_test = (
        ((original_units(x, data.columns) - loc) / scale).float() for x in (data.x_train[:], data.x_test[:])
    )
    return replace(data, x_train=x_train, x_test=x_test, columns=columns)


def _read_text(path: Path) -> Table:
    """Reads a .csv or .tsv file."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows: list[list[str]] = []
    try:
        check_memory(CELL * path.stat().st_size, str(path))
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows.extend(csv.reader(file, delimiter=delimiter, strict=True))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8. Save it in UTF-8.") from None
    except csv.Error as error:
        raise UserError(
            f"{path}: row {len(rows) + 1} cannot be read ({error}). Correct its quotes."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}). Name a .csv file.") from None
    while rows and not any(rows[-1]):
        rows.pop()
    if not rows:
        raise UserError(f"{path} is empty. Give a row of column names, and one row per data point.")
    header = [name.strip() for name in rows[0]]
    _check_header(path, header, delimiter)
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise UserError(
                f"{path}: row {number} has {len(row)} cells, and the header has {len(header)}. "
                "Give every row one cell per column."
            )
    cells = list(zip(*rows[1:], strict=True)) or [()] * len(header)
    return Table(str(path), dict(zip(header, cells, strict=True)), 2)


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    """Raises UserError unless the first row holds the names of the columns."""
    for other in (";", "\t", ",", "|"):
        if len(header) == 1 and other != delimiter and other in header[0]:
            what = "tabs" if delimiter == "\t" else "commas"
            raise UserError(f"{path}: its columns are separated by {other!r}. Separate them by {what}.")
    for place, name in enumerate(header, 1):
        if _is_number(name):
            raise UserError(
                f"{path}: row 1 holds the number {name}, so the header row seems to be missing. "
                "Add a first row with the names of the columns."
            )
        if not name:
            raise UserError(f"{path}: column {place} has no name in row 1. Name it, or remove the column.")
        if name in header[: place - 1]:
            raise UserError(f"{path}: two columns are named {name!r}. Give each column its own name.")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _read_parquet(path: Path) -> Table:
    """Reads a .parquet file with pyarrow."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f'{path} needs pyarrow, which is not installed. Install it: pip install "ppl-models[parquet]"'
        ) from None
    try:
        check_memory(CELL * path.stat().st_size, str(path))
        found = pyarrow.parquet.read_table(path)
    except UserError:
        raise
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise UserError(
            f"{path} cannot be read as a .parquet ({str(error).splitlines()[0]:.100}). Save it again."
        ) from None
    names = list(found.column_names)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns are named {name!r}. Give each column its own name.")
    return Table(str(path), {name: found.column(name).to_pylist() for name in names}, 1)


def _labels(table: Table, column: str | None) -> tuple[np.ndarray | None, tuple[int | str, ...] | None]:
    """Returns the labels as class numbers 0, 1, 2, ..., (n,), and `Dataset.class_names`.

    Labels that are all whole numbers are sorted as numbers, others as text.
    """
    if column is None:
        return None, None
    if column not in table.columns:
        raise UserError(
            f"{table.name} has no column {column!r}. Give --label-column one of {', '.join(table.columns)}."
        )
    cells = table.columns[column]
    for number, cell in enumerate(cells, table.first):
        if _is_missing(cell):
            raise UserError(f"{table.name}: row {number} has no label in column {column!r}. Add the label.")
    texts = [str(cell).strip() for cell in cells]
    values: Sequence[Any] = texts
    if all(_is_number(text) for text in texts):
        values = [int(text) if text.lstrip("+-").isdecimal() else float(text) for text in texts]
    for number, value in enumerate(values, table.first):
        if isinstance(value, float) and not value.is_integer():
            raise UserError(
                f"{table.name}: row {number} has the label {value} in column {column!r}. "
                "Labels are whole numbers or texts."
            )
    values = [value if isinstance(value, str) else int(value) for value in values]
    places = {value: place for place, value in enumerate(sorted(set(values)))}
    numbered = list(places) == list(range(len(places)))
    return np.array([places[value] for value in values], np.int64), None if numbered else tuple(places)


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING) or cell != cell


def _numbers(table: Table, column: str, cells: Sequence[Any]) -> np.ndarray:
    """Returns a column as float64, (n,). Raises UserError with row and column for other cells."""
    values = np.empty(len(cells))
    for i, cell in enumerate(cells):
        where = f"{table.name}: row {i + table.first}, column {column!r}"
        if _is_missing(cell):
            raise UserError(f"{where}: the value is missing. Fill it in, or remove the row.")
        try:
            values[i] = float("_" if isinstance(cell, str) and "_" in cell else cell)
        except (ValueError, TypeError, OverflowError):
            raise UserError(
                f"{where}: {str(cell)[:30]!r} is not a number. Remove the column, encode it as numbers, or "
                "name it with --label-column."
            ) from None
        if not abs(values[i]) <= LARGEST:
            raise UserError(f"{where}: {str(cell)[:30]} is not a finite float32. Replace it.")
    return values


def _standardisation(
    table: Table, names: list[str], values: np.ndarray, train: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of each column in the training rows, (d,) each.

    Sums are rounded once, so that they are the same on every machine. They are 0 and 1 for a table of zeros
    and ones.

    Raises:
        UserError: a column is constant.
    """
    rows = int(train.sum())
    loc, scale = np.zeros(len(names)), np.ones(len(names))
    for i, name in enumerate(names):
        column = values[train, i]
        loc[i] = math.fsum(column) / rows
        scale[i] = math.sqrt(math.fsum((column - loc[i]) ** 2) / rows)
        if column.min() == column.max() or scale[i] == 0:
            raise UserError(
                f"{table.name}: column {name!r} is {column[0]:g} in every training row. Remove the column."
            )
    binary = np.isin(values, (0, 1)).all()
    return (np.zeros_like(loc), np.ones_like(scale)) if binary else (loc, scale)
