"""A user's images, points or codes in an .npz file."""

import math
import zipfile
from pathlib import Path

import numpy as np

from inference.backend.files import check_memory
from inference.data.dataset import Dataset
from inference.data.labels import Header, read_labels
from inference.data.observations import IMAGES, OBSERVATIONS, POINTS
from inference.errors import UserError
from ppl_models.base import LatentVariableModel

SPLIT = "numpy.savez('own.npz', x_train=x[:-1000], x_test=x[-1000:])"
KEYS = ("x_train", "x_test", "y_train", "y_test")  # other keys are not read


def load(path: Path, model: type[LatentVariableModel] | None = None) -> tuple[Dataset, str | None]:
    """Reads the data set of an .npz with x_train and x_test, and y_train and y_test if there are labels.

    Images are (n, height, width), (n, height, width, channels) or (n, channels, height, width) with 1 or 3
    channels. Their scale, 0..1, 0..255 or 0..65535, is detected (see `arrays.image_scale`). Points are (n, 2)
    and codes (n, height, width); neither is scaled. Labels are whole numbers, (n,). Other keys are not read.

    Args:
        path: the file.
        model: the class that the data are for. It decides whether x holds images, points or codes, and
            whether labels are required; without it x holds images and no labels are required.

    Returns:
        The data set, and one line for the user about scale and labels, or None.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file holds anything else. An array that is larger than the free memory is not read.
    """
    kind = OBSERVATIONS[model.observation].data if model else IMAGES
    needs_labels = bool(model and {"y", "x_labelled"} & set(model.inputs))
    arrays, headers = _read(path)
    x = {part: arrays.pop(part) for part in ("x_train", "x_test")}
    dims = model.example_shape[0] if model and kind is POINTS else None
    tensors, scale = kind.read(x, str(path), dims)
    counts = {"y_train": len(tensors["x_train"]), "y_test": len(tensors["x_test"])}
    y, note = read_labels(str(path), arrays, headers, counts, needs_labels)
    parts = tensors["x_train"], y["y_train"], tensors["x_test"], y["y_test"]
    data = Dataset(str(path.resolve()), *parts, scale=scale, kind=kind)
    lines = [f"{path}: images are read on a scale of 0 to {scale}"] if scale else []
    return data, "; ".join(lines + ([note] if note else [])) or None


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Header]]:
    """Returns the arrays of KEYS by name, except labels of Python objects, and the headers of all of KEYS."""
    try:
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise UserError(f"{path} is a .npy, one array. Load it as x and split it with {SPLIT}.")
        headers, names = _headers(path)
        sizes = (math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())
        check_memory(3 * sum(sizes), str(path))  # as they are, with the channel first, and as levels
        for key in ("x_train", "x_test"):
            if key not in headers:
                raise UserError(
                    f"{path} has no {key}, only {', '.join(names) or 'nothing'}. "
                    f"Split the images in two parts and save both, as in {SPLIT}."
                )
            if headers[key].dtype.hasobject:
                raise UserError(
                    f"{path} cannot be read, {key} is an array of Python objects. "
                    "Save an array of numbers; numpy.stack makes one from images of the same size."
                )
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key, header in headers.items() if not header.dtype.hasobject}
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise UserError(f"{path} cannot be read as an .npz ({error}). Write the file again.") from None
    return arrays, headers


def _headers(path: Path) -> tuple[dict[str, Header], list[str]]:
    """Returns the headers of KEYS, and the names of all arrays.

    Raises ValueError if a header and its data differ in size.
    """
    headers, names = {}, []
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            key = record.filename.removesuffix(".npy")
            names.append(key)
            if key not in KEYS:
                continue
            with archive.open(record) as file:
                major, _ = np.lib.format.read_magic(file)
                read = (
                    np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
                size = math.prod(shape) * dtype.itemsize
                if not dtype.hasobject and file.tell() + size != record.file_size:
                    raise ValueError(f"{record.filename} has another size than its header says")
                headers[key] = Header(shape, dtype)
    return headers, names
