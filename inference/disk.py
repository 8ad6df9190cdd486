"""Files that are there whole or not at all, and that show it if a bit of them has changed."""

import hashlib
import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from inference.errors import BadInput

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

GIB = 2**30
END = b"PK\x05\x06"  # how the last record of a zip archive begins; its last two bytes count a comment's
COMMENT = 64  # the SHA-256 of all before it, in hexadecimal


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that not even a power cut leaves half of it.

    It goes to a temporary file first, is flushed to the disk and read back; then takes the place of the one
    before it. Raises OSError where that cannot be, with the file before it as it was.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        if temporary.read_bytes() != content:
            raise OSError("what was read back is not what was written")
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


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

    Raises BadInput where the file is not whole, would need more memory than there is, or holds anything else.
    """
    check_memory(2 * path.stat().st_size, str(path))
    content = path.read_bytes()
    body, said = content[:-COMMENT], content[-COMMENT:]
    if body[-22:-18] != END or said != hashlib.sha256(body).hexdigest().encode():
        raise BadInput(f"{path} is damaged, or no checkpoint (its checksum is wrong): start the run anew")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(record.file_size for record in archive.infolist()) > len(content):
                raise ValueError("it holds more than its size")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is no plain data
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise BadInput(
            f"{path} is refused, it is more than plain data ({reason}): start the run anew"
        ) from None
    return state


def check_memory(need: float, what: str) -> None:
    """Raise BadInput where so many bytes are more than the memory that is free."""
    free = psutil.virtual_memory().available
    if resource:  # where a process may be kept from taking all of it
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            free = min(free, max(most - psutil.Process().memory_info().vms, 0))
    if need > free:
        raise BadInput(
            f"{what} needs {need / GIB:.1f} GiB of memory, and {free / GIB:.1f} are free: "
            "make it smaller, or find a larger machine"
        )
