"""Loading a data set by name or from a file."""

from pathlib import Path

from inference.data import digits, npz, points, tables, torchvision_sets
from inference.data.dataset import Dataset
from inference.errors import UserError, unknown
from ppl_models.base import LatentVariableModel

IMAGE_SETS = (*torchvision_sets.SIZES, "digits")


def load_dataset(name: str, data_dir: str | Path = "data", label_column: str | None = None) -> Dataset:
    """Loads a data set by name or from a file.

    Args:
        name: "digits", "mnist", "fashion-mnist", "svhn", "svhn-extra", "cifar10", a name of two-dimensional
            points such as "smiley", or the path of an .npz file or of a .csv, .tsv or .parquet table.
        data_dir: the folder that holds the files of named data sets, or into which they are downloaded.
        label_column: name of the labels' column in a table.

    Raises:
        UserError: the name is unknown, or the data cannot be read or downloaded.

    Example:
        >>> from inference.data import load_dataset
        >>> load_dataset("digits").x_train.shape
        torch.Size([1297, 1, 8, 8])
    """
    return find_dataset(name, Path(data_dir), label_column=label_column)[0]


def find_dataset(
    name: str | None,
    data_dir: Path,
    model: type[LatentVariableModel] | None = None,
    label_column: str | None = None,
) -> tuple[Dataset, str | None]:
    """Loads the data set that a command line names, or the default one.

    Args:
        name: a name of `IMAGE_SETS` or `points.NAMES`, or the path of an .npz file or a table. None means
            MNIST, or digits if MNIST is neither in `data_dir` nor can be downloaded.
        data_dir: the folder that holds the files of named data sets.
        model: the class that the data are for. It decides how an .npz file is read (see `npz.load`).
        label_column: name of the labels' column in a table.

    Returns:
        The data set, and one line for the user, or None.

    Raises:
        UserError: the name is not known, or the data cannot be read or downloaded.
    """
    path = Path(name or "")
    if path.suffix.lower() in tables.SUFFIXES:
        return tables.load(path, label_column), None
    if label_column is not None:
        raise UserError("--label-column names a column of a table. Give --data FILE.csv, or leave it out.")
    if name is None:
        return _load_default(data_dir)
    if path.suffix.lower() in (".npz", ".npy"):
        try:
            return npz.load(path, model)
        except FileNotFoundError:
            known = ", ".join(IMAGE_SETS)
            raise UserError(f"no file {path}. Give the path of an .npz file, or one of {known}.") from None
    if name in points.NAMES:
        return points.load(name), None
    if name == "digits":
        return digits.load(), None
    if name in torchvision_sets.SIZES:
        return torchvision_sets.load(name, data_dir), None
    if path.exists():
        raise UserError(f"{name} is not an .npz file. Save the images as arrays, with {npz.SPLIT}.")
    raise unknown("data", name, [*IMAGE_SETS, *points.NAMES, "path/to/file.npz", "path/to/file.csv"])


def _load_default(data_dir: Path) -> tuple[Dataset, str | None]:
    """Returns MNIST, or digits and one line for the user if MNIST is not available."""
    if torchvision_sets.is_available("mnist", data_dir):
        return torchvision_sets.load("mnist", data_dir), None
    line = (
        f"MNIST is not in {data_dir} and cannot be downloaded. scikit-learn's 8x8 digits are used instead. "
        "To require MNIST, give --data mnist --data-dir DIR. To choose the digits, give --data digits."
    )
    return digits.load(), line
