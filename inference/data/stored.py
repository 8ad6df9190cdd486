"""Data that stay on disk: rows of mapped arrays, and temporary files for what is decoded or read once."""

import mmap
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from inference.backend.files import GIB, check_memory, free_memory
from inference.errors import UserError

LIMIT = GIB  # bytes of an array, above which it stays on disk
CHUNK = 2**24  # bytes that are read at a time


def exceeds_limit(size: float) -> bool:
    """Whether data of a size in bytes stay on disk: above 1 GiB, or above a quarter of the free memory."""
    return size > LIMIT or size > free_memory() / 4


def is_stored(x: np.ndarray) -> bool:
    """Whether an array is mapped from a file and stays there."""
    base: Any = x
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base is not None and exceeds_limit(x.nbytes)


def slices(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yields consecutive parts of an array, of about 16 MiB."""
    rows = max(CHUNK * len(x) // max(x.nbytes, 1), 1)
    return (x[start : start + rows] for start in range(0, len(x), rows))


class Rows:
    """Data points in an array on disk. Indexing reads and converts them; nothing else is read.

    Args:
        array: all data points as they are on disk, (n, ...).
        convert: converts some of them to a tensor, (rows, *shape).
        index: the rows of the array that these data points are, (m,); None means all.
        edges: zeros around images, as `torch.nn.functional.pad` takes them.

    Attributes:
        shape: (m, *shape).
        dtype: of what indexing returns.
    """

    def __init__(
        self,
        array: np.ndarray,
        convert: Callable[[np.ndarray], Tensor],
        index: Tensor | None = None,
        edges: tuple[int, ...] = (),
    ):
        self.array, self.convert, self.index, self.edges = np.asarray(array), convert, index, edges
        first = self._read(np.zeros(1, int))
        self.shape, self.dtype = torch.Size((len(self), *first.shape[1:])), first.dtype

    def __len__(self) -> int:
        return len(self.array) if self.index is None else len(self.index)

    def dim(self) -> int:
        """Returns the number of dimensions, as a tensor does."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> Tensor:
        """Reads data points.

        Args:
            key: a slice, a whole number, or a tensor of them on any device.

        Returns:
            The data points, on the CPU.

        Raises:
            UserError: they need more memory than is free.
        """
        if isinstance(key, slice):
            places = torch.arange(*key.indices(len(self)))
            check_memory(2 * len(places) * self.shape[1:].numel() * self.dtype.itemsize, "reading a data set")
        else:
            places = torch.as_tensor(key).cpu()
        flat = places.flatten()
        x = self._read((flat if self.index is None else self.index[flat]).numpy())
        return x.view(*places.shape, *x.shape[1:])

    def _read(self, rows: np.ndarray) -> Tensor:
        x = self.convert(self.array[rows])
        return pad(x, self.edges) if self.edges else x

    def select(self, index: Tensor) -> "Rows":
        """Returns some of the data points without reading them.

        Args:
            index: their places, (m,), or a mask, (n,).
        """
        places = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        return Rows(
            self.array, self.convert, places if self.index is None else self.index[places], self.edges
        )

    def padded(self, edges: tuple[int, ...]) -> "Rows":
        """Returns the data points with zeros around them."""
        return Rows(self.array, self.convert, self.index, edges)


Data = Tensor | Rows


def select(x: Data, index: Tensor) -> Data:
    """Returns some data points, by their places or by a mask. Rows on disk are not read."""
    return x.select(index) if isinstance(x, Rows) else x[index]


def padded(x: Data, edges: tuple[int, ...]) -> Data:
    """Returns images with zeros around them."""
    return x.padded(edges) if isinstance(x, Rows) else pad(x, edges)


def chunks(x: Data) -> Iterator[Tensor]:
    """Yields consecutive data points: all of a tensor, about 16 MiB of rows on disk."""
    rows = len(x)
    if isinstance(x, Rows):
        rows = max(CHUNK // max(x.shape[1:].numel() * x.dtype.itemsize, 1), 1)
    return (x[start : start + rows] for start in range(0, max(len(x), 1), max(rows, 1)))


class Growing:
    """An array that grows: in memory, and in a temporary file as soon as it is too large.

    The file is in the folder that TMPDIR names. It has no name and disappears with the process. Use it as a
    context manager.

    Args:
        name: what messages call the data.
    """

    def __init__(self, name: str):
        self.name, self.parts, self.size, self.rows = name, list[np.ndarray](), 0, 0
        self.file: IO[bytes] | None = None

    def __enter__(self) -> "Growing":
        return self

    def __exit__(self, *error: object) -> None:
        if self.file:
            self.file.close()  # a map keeps the file

    def append(self, part: np.ndarray) -> None:
        """Adds rows (n, *shape).

        Raises:
            UserError: they have another shape, or, in the file, another type; or it cannot be written.
        """
        if self.parts and part.shape[1:] != self.parts[0].shape[1:]:
            raise UserError(f"{self.name} has items of different shapes. Give them the same shape.")
        self.rows, self.size = self.rows + len(part), self.size + part.nbytes
        if self.file is None:
            self.parts.append(part)
            if exceeds_limit(self.size):
                self._spill()
        else:
            self._write(part)

    def _spill(self) -> None:
        """Moves the rows into a file."""
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        for part in self.parts:
            self._write(part)
        self.parts = [self.parts[0][:0].copy()]

    def _write(self, part: np.ndarray) -> None:
        assert self.file is not None
        if part.dtype != self.parts[0].dtype:
            raise UserError(f"{self.name} has items of different types. Give them the same type.")
        try:
            self.file.write(np.ascontiguousarray(part).data)
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"{self.name} cannot be stored in {tempfile.gettempdir()} ({error.strerror or error}). "
                "Set TMPDIR to a folder with more space."
            ) from None

    def array(self) -> np.ndarray:
        """Returns all rows, (n, *shape); mapped from the file if there is one."""
        if self.file is None:
            return np.concatenate(self.parts)
        first = self.parts[0]
        return np.memmap(self.file, first.dtype, "r", shape=(self.rows, *first.shape[1:]))
