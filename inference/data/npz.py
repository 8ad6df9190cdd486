"""A user's images, points or codes in an .npz or .npy file."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from inference.backend.files import check_memory
from inference.data.dataset import Dataset
from inference.data.labels import Header, needs_labels, read_labels
from inference.data.observations import IMAGES, OBSERVATIONS, POINTS, DataKind
from inference.data.split import train_and_test
from inference.data.stored import exceeds_limit, select
from inference.errors import UserError
from ppl_models.base import LatentVariableModel

SPLIT = "numpy.savez('own.npz', x_train=x[:-1000], x_test=x[-1000:])"
KEYS = ("x_train", "x_test", "y_train", "y_test")  # other keys are not read
OBJECTS = "Save an array of numbers; numpy.stack makes one from images of the same size."
AGAIN = "Write the file again."


def load(path: Path, model: type[LatentVariableModel] | None = None) -> tuple[Dataset, str | None]:
    """Reads the data set of an .npz file, or of an .npy file with one array. The content decides which it is.

    An .npz holds x_train and x_test, and y_train and y_test if there are labels. Other keys are not read. The
    array of an .npy holds x, and `split.train_and_test` splits it; it has no labels.

    Images are (n, height, width), (n, height, width, channels) or (n, channels, height, width) with 1 or 3
    channels. Their scale, 0..1, 0..255 or 0..65535, is detected (see `arrays.image_scale`). Points are (n, 2)
    and codes (n, height, width); neither is scaled. Labels are whole numbers or text, (n,).

    Args:
        path: the file.
        model: the class that the data are for. It decides whether x holds images, points or codes, and
            whether labels are required; without it x holds images and no labels are required.

    Returns:
        The data set, and one line for the user about scale and labels, or None.

    Raises:
        UserError: there is no such file, or it holds anything else. An array that is larger than the free
            memory is not read, except that images and codes of a large .npy stay on disk (see `stored`).
    """
    kind = OBSERVATIONS[model.observation].data if model else IMAGES
    dims = model.example_shape[0] if model and kind is POINTS else None
    with _opened(path) as file:
        single = file.read(6) == b"\x93NUMPY"
    arrays, headers = ({"array": _read_single(path, kind)}, {}) if single else _read(path)
    x = {part: arrays.pop(part) for part in tuple(arrays) if not part.startswith("y")}
    tensors, scale = kind.read(x, str(path), dims)
    if single:
        train, test = train_and_test(len(tensors["array"]), str(path))
        whole = tensors["array"]
        tensors = {"x_train": select(whole, train), "x_test": select(whole, test)}
    counts = {"y_train": len(tensors["x_train"]), "y_test": len(tensors["x_test"])}
    if single and needs_labels(model):
        raise UserError(
            f"{path} has no labels, and this model needs them. Give an .npz with x_train, "
            "y_train, x_test and y_test."
        )
    labels = read_labels(str(path), arrays, headers, counts, needs_labels(model))
    parts = tensors["x_train"], labels.y["y_train"], tensors["x_test"], labels.y["y_test"]
    data = Dataset(str(path.resolve()), *parts, scale=scale, class_names=labels.names, kind=kind)
    lines = [f"{path}: images are read on a scale of 0 to {scale}"] if scale else []
    lines += [f"a tenth is the test set, {len(data.x_test)} of {len(x['array'])}"] if single else []
    return data, "; ".join(lines + ([labels.note] if labels.note else [])) or None


def _opened(path: Path) -> IO[bytes]:
    """Opens a file. Raises UserError if it is not a regular file that can be read."""
    if path.exists() and not path.is_file():  # a FIFO would block
        raise UserError(f"{path} is not a regular file. Name an .npz or .npy file.")
    try:
        return open(path, "rb")
    except FileNotFoundError:
        advice = "Give the path of an .npz or .npy file, or the name of a data set such as mnist or digits."
        raise UserError(f"no file {path}. {advice}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from None


def _read_single(path: Path, kind: DataKind) -> np.ndarray:
    """Returns the array of an .npy, mapped into memory. A large one stays on disk, except points."""
    try:
        with open(path, "rb") as file:
            header = _header(file, path.stat().st_size, "the array")
        if header.dtype.hasobject:
            raise UserError(f"{path} cannot be read, it is an array of Python objects. {OBJECTS}")
        if not math.prod(header.shape):
            return np.empty(header.shape, header.dtype)  # which cannot be mapped
        size = math.prod(header.shape) * header.dtype.itemsize
        if kind is not POINTS and exceeds_limit(size):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        check_memory(3 * size, str(path))
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # numpy raises many kinds for a damaged header
        raise UserError(f"{path} cannot be read as an .npy ({error}). {AGAIN}") from None


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Header]]:
    """Returns the arrays of KEYS by name, except labels of Python objects, and the headers of all of KEYS."""
    try:
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
                raise UserError(f"{path} cannot be read, {key} is an array of Python objects. {OBJECTS}")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key, header in headers.items() if not header.dtype.hasobject}
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise UserError(f"{path} cannot be read as an .npz ({error}). {AGAIN}") from None
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
            if key in KEYS:
                with archive.open(record) as file:
                    headers[key] = _header(file, record.file_size, record.filename)
    return headers, names


def _header(file: IO[bytes], size: int, what: str) -> Header:
    """Reads the header of an array. Raises ValueError if it and the `size` of the file do not fit."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if not dtype.hasobject and file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{what} has another size than its header says")
    return Header(shape, dtype)
