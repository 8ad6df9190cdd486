"""Files that are written whole or not at all, checkpoints with a checksum, reading that follows no links."""

import errno
import hashlib
import io
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from inference.errors import UserError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

GIB = 2**30
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
BINARY, NOFOLLOW, NONBLOCK = (getattr(os, f"O_{name}", 0) for name in ("BINARY", "NOFOLLOW", "NONBLOCK"))
END = (
    b"PK\x05\x06"  # start of a zip archive's last record, whose last two bytes are the length of its comment
)
COMMENT = 64  # length of the checksum: the SHA-256 of everything before it, in hexadecimal


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: even a power cut does not leave half of it.

    The content goes to a new temporary file in the same folder, is flushed to the disk and read back. Then it
    replaces `path`. A link at `path` is replaced, not followed.

    Args:
        path: of the file.
        content: of the file.

    Raises:
        OSError: the file cannot be written. An existing file is unchanged then.
    """
    with replacing(path) as temporary:
        file = os.open(temporary, os.O_WRONLY | NOFOLLOW | BINARY)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        if temporary.read_bytes() != content:
            raise OSError("the disk does not return what was written")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a new empty file in the folder of `path`, which replaces `path` after the block.

    The name of the new file has a random part. O_EXCL ensures that a file or link that somebody else put into
    the folder is never opened. If the block raises, the new file is removed.

    Raises:
        OSError: `path` is a folder, a device or a FIFO, which are not replaced.
    """
    with suppress(FileNotFoundError):
        if stat.S_IFMT(path.lstat().st_mode) not in (stat.S_IFREG, stat.S_IFLNK):
            raise OSError(errno.EEXIST, "it is not a regular file", str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | BINARY, 0o666))
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def remove_temporaries(folder: Path) -> None:
    """Removes the temporary files that a killed process left in a folder, whose lock the caller must hold."""
    for path in folder.glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Saves a matplotlib figure with `write_whole`, as a PNG unless the path has another suffix.

    Args:
        figure: the figure.
        path: of the file.
        options: of `Figure.savefig`.

    Raises:
        OSError: the file cannot be written.
    """
    path, content = path if path.suffix else path.with_suffix(".png"), io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), **options)
    write_whole(path, content.getvalue())


def open_append(path: Path) -> int:
    """Opens a regular file to append to it, and creates it if it is missing.

    Returns:
        The file descriptor.

    Raises:
        OSError: `path` is a link or another file that is not regular.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NOFOLLOW | NONBLOCK | BINARY
    return _regular(path, os.open(path, flags, 0o666))


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Reads a regular file. A link in a stranger's run folder could point anywhere, so links are refused.

    Args:
        path: of the file.
        most: maximum size in bytes.

    Raises:
        OSError: the file cannot be read.
        UserError: it is too large, or is a link, a FIFO, a folder or a device.
    """
    try:
        file = _regular(path, os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK | BINARY))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise UserError(f"{path} is not a regular file. Replace it with one.") from None
        raise
    with os.fdopen(file, "rb") as opened:
        if most is not None and os.fstat(file).st_size > most:
            raise UserError(f"{path} is larger than {most} bytes, the limit for such a file.")
        return opened.read() if most is None else opened.read(most + 1)[:most]


def _regular(path: Path, file: int) -> int:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def _flush_folder(folder: Path) -> None:
    """Flushes a folder's entries to the disk, on systems that can open a folder."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def pack(state: dict[str, Any]) -> bytes:
    """Serialises plain data with `torch.save`, and appends the SHA-256 as the archive's comment."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()[:-2] + COMMENT.to_bytes(2, "little")
    return body + hashlib.sha256(body).hexdigest().encode()


def unpack(path: Path) -> dict[str, Any]:
    """Reads a file that `pack` made, as data and not as code.

    Raises:
        UserError: the file is damaged, holds more than plain data, or needs more memory than is free.
    """
    check_memory(2 * path.lstat().st_size, str(path))
    content = read_regular(path)
    body, said = content[:-COMMENT], content[-COMMENT:]
    if content[-22:-18] == END and content[-2:] == b"\0\0" and zipfile.is_zipfile(io.BytesIO(content)):
        raise UserError(
            f"{path} has no checksum, so an older version of this project wrote it, and this version cannot "
            "read it. Use the commit that config.json names."
        )
    if body[-22:-18] != END or said != hashlib.sha256(body).hexdigest().encode():
        raise UserError(
            f"{path} is damaged or not a checkpoint: its checksum is wrong. Restore it from a copy, or "
            "train the run again in another folder."
        )
    return load_plain(content, path)


def load_plain(content: bytes, path: Path) -> dict[str, Any]:
    """Reads the plain data of a file that `torch.save` wrote, as data and not as code.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        UserError: the content is not a file of torch, or holds anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(record.file_size for record in archive.infolist()) > len(content):
                raise ValueError("it expands beyond its size")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except zipfile.BadZipFile:
        raise UserError(
            f"{path} is not a saved model or checkpoint. Name a file of model.save, or a run folder."
        ) from None
    except Exception as error:  # torch raises many types of error here
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is rejected: it contains objects other than tensors and plain data ({reason}). "
            "Do not use this file."
        ) from None
    return state


def free_memory() -> float:
    """Returns the bytes of memory that this process can still take."""
    free = psutil.virtual_memory().available
    if resource:  # which can limit a process
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            free = min(free, max(most - psutil.Process().memory_info().vms, 0))
    return free


def check_memory(need: float, what: str) -> None:
    """Raises UserError if a number of bytes exceeds the free memory."""
    free = free_memory()
    if need > free:
        raise UserError(
            f"{what} needs {need / GIB:.1f} GiB of memory, and {free / GIB:.1f} are free: "
            "make it smaller, or find a larger machine"
        )
