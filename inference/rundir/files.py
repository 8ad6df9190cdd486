"""Files that are there whole or not at all, and that show it if a bit of them has changed."""

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
END = b"PK\x05\x06"  # how the last record of a zip archive begins; its last two bytes count a comment's
COMMENT = 64  # the SHA-256 of all before it, in hexadecimal


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that not even a power cut leaves half of it.

    The content goes to a new temporary file in the same folder, is flushed to the disk and read back; then
    the file replaces `path`. A link at `path` is replaced, not followed. Raises OSError if the file cannot be
    written, and leaves the file before it as it was.
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
            raise OSError("what was read back is not what was written")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new empty file in the folder of `path`; after the block it replaces `path`.

    Its name is that of `path` with a random part and `.tmp`. It is created with O_EXCL: a file or a link that
    somebody else put into the folder is never opened. If the block raises, the new file is removed. Raises
    OSError if `path` is a folder, a device or a FIFO, which are not replaced.
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
    """Remove the temporary files that a killed process left in a folder, which the caller must hold."""
    for path in folder.glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Save a matplotlib figure with `write_whole`, as a PNG unless its name says otherwise.

    `options` are those of `Figure.savefig`. Raises OSError if the file cannot be written.
    """
    path, content = path if path.suffix else path.with_suffix(".png"), io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), **options)
    write_whole(path, content.getvalue())


def open_append(path: Path) -> int:
    """A descriptor to append to a regular file, which is created if it is missing.

    Raises OSError if `path` is a link or anything else than a regular file.
    """
    return _regular(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NOFOLLOW | NONBLOCK, 0o666))


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file.

    Raises OSError if it cannot be read, and UserError if it has more than `most` bytes or is a link, a FIFO,
    a folder or a device: a run folder may come from a stranger, who could make it point anywhere.
    """
    try:
        file = _regular(path, os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK | BINARY))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise UserError(f"{path} is not a regular file. Replace it with one.") from None
        raise
    with os.fdopen(file, "rb") as opened:
        if most is not None and os.fstat(file).st_size > most:
            raise UserError(f"{path} is larger than {most} bytes, the most that is read of such a file.")
        return opened.read() if most is None else opened.read(most + 1)[:most]


def _regular(path: Path, file: int) -> int:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def _flush_folder(folder: Path) -> None:
    """Have the disk know a folder's names as well, on systems where a folder can be opened."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def pack(state: dict[str, Any]) -> bytes:
    """What `torch.save` makes of plain data, with its own SHA-256 as the archive's comment."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()[:-2] + COMMENT.to_bytes(2, "little")
    return body + hashlib.sha256(body).hexdigest().encode()


def unpack(path: Path) -> dict[str, Any]:
    """The plain data of a file that `pack` made, read as data and not as code.

    Raises UserError if the file is not whole, would need more memory than there is, or holds anything else.
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
            f"{path} is damaged, or no checkpoint (its checksum is wrong). Restore it from a copy, or "
            "train the run again in another folder."
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(record.file_size for record in archive.infolist()) > len(content):
                raise ValueError("it holds more than its size")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is no plain data
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is refused, it is more than plain data ({reason}). Do not use this file."
        ) from None
    return state


def check_memory(need: float, what: str) -> None:
    """Raise UserError where so many bytes are more than the memory that is free."""
    free = psutil.virtual_memory().available
    if resource:  # where a process may be kept from taking all of it
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            free = min(free, max(most - psutil.Process().memory_info().vms, 0))
    if need > free:
        raise UserError(
            f"{what} needs {need / GIB:.1f} GiB of memory, and {free / GIB:.1f} are free: "
            "make it smaller, or find a larger machine"
        )
