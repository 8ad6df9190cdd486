"""Sources of a trained model and of data, and new files, for commands that read a run and write elsewhere."""

import argparse
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from inference.backend.files import write_whole
from inference.cli.parser import DATA_DIR, Parser, add_model_file
from inference.data import text
from inference.data.dataset import Columns, Dataset
from inference.data.load import find_dataset
from inference.data.observations import OBSERVATIONS
from inference.data.tables import with_columns
from inference.errors import UserError
from inference.rundir.pretrained import pretrained
from inference.rundir.restore import load_data
from inference.rundir.run import Run
from ppl_models.base import LatentVariableModel

TABLES = (".npz", ".csv", ".parquet")  # files of one row per data point


def add_source(parser: Parser) -> None:
    """Adds the trained model, the device and --model to a command. `trained_model` says what was given."""
    parser.add_argument(
        "run", type=Path, nargs="?", metavar="RUN", help="a run folder, or a file of model.save"
    )
    about = "a pretrained model of the repository in place of RUN, such as gmvae-mnist"
    parser.add_argument("--pretrained", metavar="NAME", help=about)
    about = "auto, cpu or cuda (default: auto)"
    parser.add_argument("--device", default="auto", metavar="NAME", help=about)
    add_model_file(parser)


def trained_model(given: argparse.Namespace) -> Path:
    """Returns the trained model that the options of `add_source` name, in a form that `load` takes.

    Raises:
        UserError: they name none, or two, or no pretrained model has the name.
    """
    if (given.run is None) == (given.pretrained is None):
        raise UserError("name one trained model: a run folder, a saved model, or --pretrained NAME.")
    return given.run or pretrained(given.pretrained)


def add_data(parser: Parser) -> None:
    """Adds --data and --data-dir to a command that reads data with a trained model."""
    about = "a data set by name or file, of which the test part is read (default: the run's own)"
    parser.add_argument("--data", metavar="DATA", help=about)
    about = f"folder of data sets (default: the run's, else {DATA_DIR})"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=about)


def find_data(
    source: Path, model: LatentVariableModel, name: str | None, data_dir: Path | None
) -> tuple[Dataset, str]:
    """Returns the data that the options name, or a run's own, and what to call them.

    Raises:
        UserError: the data cannot be found or read.
    """
    run = Run.open(source) if source.is_dir() else None
    if name is not None:
        folder = data_dir or Path(run.config.data_dir if run and run.config.data_dir else DATA_DIR)
        config = run.config if run else None
        if OBSERVATIONS[model.observation].data.drawn == "text" and Path(name).suffix.lower() == text.SUFFIX:
            if config is None or config.tokens is None:
                raise UserError(
                    f"{source} has no vocabulary to read {name} with. Name the folder of its run."
                )
            return find_dataset(name, folder, vocabulary=config.tokens)[0], Path(name).name
        if config is None or config.columns is None:
            size = config.image_size if config and Path(name).is_dir() else None
            return find_dataset(name, folder, type(model), image_size=size)[0], Path(name).name
        data, _ = find_dataset(name, folder, type(model), label_column=config.label_column)
        return with_columns(data, Columns(**config.columns)), Path(name).name
    if run is None:
        raise UserError(f"{source} is the file of a model and names no data. Give --data.")
    data = load_data(run, data_dir)
    return data, Path(data.name).name


def check_new_file(path: Path, endings: Sequence[str]) -> None:
    """Checks the name of a file before the work for it begins.

    Args:
        path: of the file.
        endings: the formats that the command writes.

    Raises:
        UserError: the ending is unknown, its package is missing, or the file exists already.
    """
    if path.suffix.lower() not in endings:
        raise UserError(f"{path} has an unknown ending. Use one of {', '.join(endings)}.")
    if path.is_symlink() or path.exists():
        raise UserError(f"{path} exists. Remove it, or name another file with --out.")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder. Create it, or name another file with --out.")
    if path.suffix.lower() == ".parquet" and not find_spec("pyarrow"):
        raise UserError(
            f"{path} needs pyarrow, which is not installed. Write a .csv, or install it: "
            'pip install "ppl-models[parquet]"'
        )


def write_table(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as .npz, or as the columns of a .csv or .parquet file.

    Args:
        path: of the new file, see `check_new_file`.
        arrays: by name, with one row per data point. An array (n, ...) of several values per row becomes the
            columns NAME_0, NAME_1, ...

    Raises:
        UserError: the file cannot be written.
    """
    content, ending = io.BytesIO(), path.suffix.lower()
    if ending == ".npz":
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    elif ending == ".csv":
        content.write(_csv(_columns(arrays)).encode())
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(_columns(arrays)), content)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}). Name another with --out."
        ) from None


def _columns(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays (n,) by name."""
    columns = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            columns[name] = array
        else:
            columns |= {f"{name}_{i}": part for i, part in enumerate(array.reshape(len(array), -1).T)}
    return columns


def _csv(columns: Mapping[str, np.ndarray]) -> str:
    """Returns a table with a header; numbers have the digits that give the same float again."""
    rows = zip(*(column.astype(str) for column in columns.values()), strict=True)
    return "\n".join([",".join(columns), *map(",".join, rows)]) + "\n"
