"""A user's images in a folder: PNG, JPEG and WebP files, with subfolders as classes."""

from pathlib import Path
from typing import NamedTuple

from inference.data.dataset import Dataset
from inference.data.decode import files_in
from inference.data.labels import needs_labels
from inference.data.pictures import as_labels, dataset_of
from inference.errors import UserError
from ppl_models.base import LatentVariableModel

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PARTS = ("train", "test")
VALIDATION = ("val", "valid", "validation", "dev")  # folders next to `train` or `test` that are not classes


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        files: the image files, class by class, each class in the order of the names.
        classes: the class of each file; empty if there are no subfolders.
        others: the number of files that are not images.
    """

    files: list[Path]
    classes: list[str]
    others: int


def load(
    folder: Path, image_size: int | None = None, model: type[LatentVariableModel] | None = None
) -> tuple[Dataset, str]:
    """Reads the images of a folder.

    Subfolders are classes, numbered in the order of their names, or of their numbers if all names are whole
    numbers; a class may have subfolders of its own. Images directly in the folder have no labels. If there
    are both `train` and `test`, each of them is such a folder. Otherwise `split.train_and_test` splits the
    images. Hidden files are not read, nor are files with other endings than `SUFFIXES`. Links are refused.

    Args:
        folder: the folder.
        image_size: the height and width to which images are resized and cropped (see `decode`). None means
            that all images must have the same size.
        model: the class that the data are for. It decides whether labels are required.

    Returns:
        The data set, uint8, (n, 1 or 3, height, width), and one line for the user.

    Raises:
        UserError: a file cannot be read, the images differ in size, or labels are required and missing.
    """
    parts = _parts(folder)
    found = [_find(part) for part in parts]
    if len({bool(part.classes) for part in found}) > 1:
        raise UserError(f"{folder}: only one of train/ and test/ has subfolders. Give both the same classes.")
    files = [file for part in found for file in part.files]
    names = [name for part in found for name in part.classes]
    if not names and needs_labels(model):
        raise UserError(
            f"{folder} has no labels, and this model needs them. Move the images into one "
            "subfolder per class."
        )
    sizes = [len(part.files) for part in found]
    labels = as_labels(names) if names else None
    data, notes = dataset_of(str(folder.resolve()), files_in(folder, files), labels, sizes, image_size, model)
    others = sum(part.others for part in found)
    if others:
        notes.insert(1, f"{others} files that are not PNG, JPEG or WebP are not read")
    return data, "; ".join(notes)


def _parts(folder: Path) -> list[Path]:
    """Returns the folders `train` and `test` if there are both, and otherwise the folder itself.

    Raises UserError if there is only one of the two, and it is not a class among others.
    """
    names = [entry.name for entry in _entries(folder) if entry.is_dir()]
    present = [part for part in PARTS if part in names]
    if len(present) == 2:
        more = [name for name in names if name not in (*PARTS, *VALIDATION)]
        if more:
            raise UserError(
                f"{folder} has {more[0]}/ next to train/ and test/. Move it into them, or rename train/ and "
                "test/ if they are classes."
            )
        return [folder / part for part in PARTS]
    if present and all(name in (*present, *VALIDATION) for name in names):
        missing = next(part for part in PARTS if part not in present)
        raise UserError(
            f"{folder} has {present[0]}/ but no {missing}/. Add it, or give "
            f"{folder / present[0]}, which is then split."
        )
    return [folder]


def _find(folder: Path) -> Found:
    """Returns the image files of a folder. Raises UserError if there are none, or a class is empty."""
    subfolders = [entry for entry in _entries(folder) if entry.is_dir()]
    files, others = _images(folder, deep=False)
    if not subfolders:
        if not files:
            raise UserError(f"{folder} has no images. Name a folder of {', '.join(SUFFIXES)} files.")
        return Found(files, [], others)
    if files:
        raise UserError(
            f"{folder} has images, such as {files[0].name}, next to folders, such as {subfolders[0].name}/. "
            "Move them into a folder of their class."
        )
    classes: list[str] = []
    for subfolder in subfolders:
        found, more = _images(subfolder, deep=True)
        if not found:
            raise UserError(f"{subfolder} has no images. Delete it, or add {', '.join(SUFFIXES)} files.")
        files += found
        classes += [subfolder.name] * len(found)
        others += more
    return Found(files, classes, others)


def _images(folder: Path, deep: bool) -> tuple[list[Path], int]:
    """Returns the images of a folder, also of its subfolders if `deep`, and the number of others."""
    images, others = [], 0
    for entry in _entries(folder):
        if entry.is_dir():
            found, more = _images(entry, deep) if deep else ([], 0)
            images += found
            others += more
        elif entry.suffix.lower() in SUFFIXES:
            images.append(entry)
        else:
            others += 1
    return images, others


def _entries(folder: Path) -> list[Path]:
    """Returns what a folder holds, sorted by name, without hidden files.

    Raises UserError for a link, for a name that is not UTF-8, and for a folder that cannot be read.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}). Check its permissions.") from None
    for entry in entries:
        if entry.is_symlink():
            raise UserError(f"{entry} is a link. Replace it with the file or folder that it names.")
        if not entry.name.isprintable():  # which surrogates of bytes that are not UTF-8 are not
            raise UserError(f"{folder} has the name {entry.name!a}, which is not printable. Rename it.")
    return entries
