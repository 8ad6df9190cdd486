"""Loading a data set by name or from a file."""

from pathlib import Path

from inference.data import digits, npz, points, torchvision_sets
from inference.data.dataset import Dataset
from inference.errors import UserError, unknown
from ppl_models.base import LatentVariableModel

IMAGE_SETS = (*torchvision_sets.SIZES, "digits")


def load_dataset(name: str, data_dir: str | Path = "data") -> Dataset:
    """Loads a data set by name or from an .npz file.

    Args:
        name: "digits", "mnist", "fashion-mnist", "svhn", "svhn-extra", "cifar10", a name of two-dimensional
            points such as "smiley", or the path of an .npz file.
        data_dir: the folder that holds the files of named data sets, or into which they are downloaded.

    Raises:
        UserError: the name is unknown, or the data cannot be read or downloaded.

    Example:
        >>> from inference.data import load_dataset
        >>> load_dataset("digits").x_train.shape
        torch.Size([1297, 1, 8, 8])
    """
    return find_dataset(name, Path(data_dir))[0]


def find_dataset(
    name: str | None, data_dir: Path, model: type[LatentVariableModel] | None = None
) -> tuple[Dataset, str | None]:
    """Loads the data set that a command line names, or the default one.

    Args:
        name: a name of `IMAGE_SETS` or `points.NAMES`, or the path of an .npz file. None means MNIST, or
            digits if MNIST is neither in `data_dir` nor can be downloaded.
        data_dir: the folder that holds the files of named data sets.
        model: the class that the data are for. It decides how an .npz file is read (see `npz.load`).

    Returns:
        The data set, and one line for the user, or None.

    Raises:
        UserError: the name is not known, or the data cannot be read or downloaded.
    """
    if name is None:
        return _load_default(data_dir)
    path = Path(name)
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
    raise unknown("data", name, [*IMAGE_SETS, *points.NAMES, "path/to/file.npz"])


def _load_default(data_dir: Path) -> tuple[Dataset, str | None]:
    """Returns MNIST, or digits and one line for the user if MNIST is not available."""
    if torchvision_sets.is_available("mnist", data_dir):
        return torchvision_sets.load("mnist", data_dir), None
    line = (
        f"MNIST is not in {data_dir} and cannot be downloaded. scikit-learn's 8x8 digits are used instead. "
        "To require MNIST, give --data mnist --data-dir DIR. To choose the digits, give --data digits."
    )
    return digits.load(), line
