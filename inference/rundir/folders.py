"""The folder of a run: its name, its lock, and whether it is still the same folder."""

import errno
import itertools
import stat
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from inference.errors import UserError


def is_used(folder: Path) -> bool:
    """Whether a folder holds more than a run leaves that was killed before it started."""
    return any(path.name != "lock" and path.suffix != ".tmp" for path in folder.iterdir())


def folder_id(folder: Path) -> tuple[int, int] | None:
    """The numbers of the device and of the folder on it; None if there is no folder."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def new_folder(parent: Path, name: str) -> Path:
    """Creates a folder, with the next free number if it exists: runs of one second get different ones."""
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in itertools.chain([""], (f".{n}" for n in itertools.count(2))):
        try:
            (parent / (name + suffix)).mkdir()
            return parent / (name + suffix)
        except FileExistsError:
            continue
    raise AssertionError  # there is always a next number


def unwritable(folder: Path, error: OSError) -> UserError:
    """Returns the UserError for a folder that cannot be written to."""
    reason = error.strerror or error
    return UserError(
        f"cannot write to {folder} ({reason}). Check its permissions and the free space, or use a copy of it."
    )


def acquire_lock(lock: FileLock, folder: Path) -> None:
    """Acquires the lock of a folder.

    Raises:
        Timeout: another process holds it.
        OSError: `lock` is not a regular file, or cannot be created.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(
            (folder / "lock").lstat().st_mode
        ):  # FileLock would truncate the target of a link
            raise OSError(errno.EINVAL, "lock is not a regular file")
    lock.acquire()
