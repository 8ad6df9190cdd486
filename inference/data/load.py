"""Loading a data set by name, from a file or from a folder."""

from pathlib import Path

from inference.data import (
    digits,
    huggingface,
    image_folder,
    npz,
    points,
    tables,
    text,
    torchvision_others,
    torchvision_sets,
)
from inference.data.dataset import Dataset
from inference.data.vocabulary import Vocabulary
from inference.errors import UserError, unknown
from ppl_models.base import LatentVariableModel

IMAGE_SETS = (*torchvision_sets.SIZES, "digits")


def load_dataset(
    name: str,
    data_dir: str | Path = "data",
    *,
    label_column: str | None = None,
    image_size: int | None = None,
    tokens: str | None = None,
    max_length: int | None = None,
) -> Dataset:
    """Loads a data set by name, from a file or from a folder.

    Args:
        name: "digits", "mnist", "fashion-mnist", "svhn", "svhn-extra", "cifar10", another set of torchvision
            such as "torchvision:KMNIST", a name of two-dimensional points such as "smiley", the path of an
            .npz or .npy file, of a .csv, .tsv or .parquet table or of a .txt file, a folder of images, or the
            folder that Hugging Face's `save_to_disk` wrote.
        data_dir: the folder that holds the files of named data sets, or into which they are downloaded. A
            file that is not in the working directory is looked for here.
        label_column: name of the labels' column in a table or a data set of Hugging Face.
        image_size: height and width to which the images of a folder are resized and cropped.
        tokens: "words" (default) or "characters" of a .txt file.
        max_length: the largest number of tokens of a line of a .txt file; longer lines are cut.

    Raises:
        UserError: the name is unknown, or the data cannot be read or downloaded.

    Example:
        >>> from inference.data import load_dataset
        >>> load_dataset("digits").x_train.shape
        torch.Size([1297, 1, 8, 8])
    """
    return find_dataset(
        name,
        Path(data_dir),
        label_column=label_column,
        image_size=image_size,
        tokens=tokens,
        max_length=max_length,
    )[0]


def find_dataset(
    name: str | None,
    data_dir: Path,
    model: type[LatentVariableModel] | None = None,
    *,
    label_column: str | None = None,
    image_size: int | None = None,
    tokens: str | None = None,
    max_length: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[Dataset, str | None]:
    """Loads the data set that a command line names, or the default one.

    Args:
        name: a name of `IMAGE_SETS` or `points.NAMES`, torchvision:NAME, or the path of an .npz or .npy file,
            of a table, of a text, of a folder of images, or of one that Hugging Face's `save_to_disk` wrote.
            None means MNIST, or digits if MNIST is neither in `data_dir` nor can be downloaded.
        data_dir: the folder that holds the files of named data sets. A file that is not in the working
            directory is looked for here.
        model: the class that the data are for. It decides how a file is read (see `npz.load`).
        label_column: name of the labels' column in a table or a data set of Hugging Face.
        image_size: height and width to which the images of a folder are resized and cropped.
        tokens: unit of the tokens of a text, see `text.load`.
        max_length: largest number of tokens of a line of a text.
        vocabulary: that of the run which reads a text.

    Returns:
        The data set, and one line for the user, or None.

    Raises:
        UserError: the name is not known, or the data cannot be read.
    """
    known, path = name in points.NAMES or name in IMAGE_SETS, Path(name or "")
    if path.suffix and not known and not path.exists() and (data_dir / path).is_file():
        path = data_dir / path
    is_table = path.suffix.lower() in tables.SUFFIXES
    is_folder = name is not None and not known and path.is_dir()
    is_saved = is_folder and huggingface.is_saved(path)
    if label_column is not None and not (is_table or is_saved):
        raise UserError("--label-column names a column of a table. Give --data FILE.csv, or leave it out.")
    if image_size is not None and not is_folder:
        raise UserError("--image-size applies to a folder of images. Leave it out.")
    is_text = path.suffix.lower() == text.SUFFIX and not known
    if not is_text and (tokens is not None or max_length is not None):
        option = "--max-length" if tokens is None else "--tokens"
        raise UserError(f"{option} applies to a text. Give --data FILE.txt, or leave it out.")
    if name is None:
        return _load_default(data_dir)
    if is_saved:
        return huggingface.load(path, label_column, image_size, model)
    if is_folder:
        return image_folder.load(path, image_size, model)
    if is_text:
        return text.load(path, tokens, max_length, vocabulary)
    if is_table:
        return tables.load(path, label_column), None
    line = f"{name} is the data set of this name. For the folder, give ./{name}." if path.is_dir() else None
    if path.suffix.lower() in (".npz", ".npy"):
        return npz.load(path, model)
    if name in points.NAMES:
        return points.load(name), line
    if name == "digits":
        return digits.load(), line
    if name in torchvision_sets.SIZES:
        if line and not torchvision_sets.is_available(name, data_dir):
            raise UserError(f"the data set {name} cannot be downloaded. For the folder, give ./{name}.")
        return torchvision_sets.load(name, data_dir), line
    if name.startswith(torchvision_others.PREFIX):
        return torchvision_others.load(name, data_dir)
    if path.exists():
        raise UserError(
            f"{name} is neither an .npz or .npy file, a table, a text nor a folder of images. Save images as "
            f"arrays, with {npz.SPLIT}."
        )
    if len(path.parts) > 1 or name.endswith("/"):
        raise UserError(
            f"there is no file or folder {name}. Give the path of one, or the name of a data set such as "
            "mnist or digits."
        )
    others = ["torchvision:NAME", "the path of a file or a folder"]
    raise unknown("data", name, [*IMAGE_SETS, *points.NAMES, *others])


def _load_default(data_dir: Path) -> tuple[Dataset, str | None]:
    """Returns MNIST, or digits and one line for the user if MNIST is not available."""
    if torchvision_sets.is_available("mnist", data_dir):
        return torchvision_sets.load("mnist", data_dir), None
    line = (
        f"MNIST is not in {data_dir} and cannot be downloaded. scikit-learn's 8x8 digits are used instead. "
        "To require MNIST, give --data mnist --data-dir DIR. To choose the digits, give --data digits."
    )
    return digits.load(), line
