"""Disks that are full, folders that cannot be written to, and folders that are gone."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from inference import svi
from inference.data.batches import Batches
from inference.rundir import files
from inference.rundir import run as run_module

from .sandbox import VAE, Ended, Found, run, same

NOBODY = 65534
LIMIT = 10_000  # bytes a file may have: a checkpoint has more, a line of metrics less


def at_steps(faults: dict[int, Callable[[], None]]) -> None:
    """Have each fault come about when the batch of that step is drawn."""
    draw = Batches.__call__

    def call(self: Batches, step: int) -> dict:
        if step in faults:
            faults[step]()
        return draw(self, step)

    Batches.__call__ = call  # type: ignore[method-assign]


class Full:
    """The module `os` on a disk that is full: a write takes half of what it is given, the next nothing."""

    def __init__(self) -> None:
        self.left = 1

    def __getattr__(self, name: str) -> object:
        return self.write if name == "write" else getattr(os, name)

    def write(self, file: int, content: bytes) -> int:
        if self.left:
            self.left -= 1
            return os.write(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill() -> None:
    run_module.os = files.os = Full()  # type: ignore[attr-defined]


def make_room() -> None:
    run_module.os = files.os = os  # type: ignore[attr-defined]


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def as_nobody(folder: Path) -> None:
    """Give up the rights of the superuser, for whom no folder is read-only."""
    if os.getuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def that_fail(folder: Path, share: float, data_dir: Path) -> Found:
    """Each way to fail at the start and in the middle, for good and for a while."""
    found = Found(
        "runs on disks that fill, folders that turn read-only or vanish, at the start and in the middle"
    )
    folder.chmod(0o755)
    log, whole = folder / "log", folder / "whole"
    assert run([*VAE, "--run-dir", whole], log).status == 0

    def trial(name: str, before: Callable[[Path], None], check: Callable[[Path, Ended], str]) -> None:
        home = folder / name
        home.mkdir()
        run_dir = home / "run"
        ended = run([*VAE, "--run-dir", run_dir], log, before=lambda: before(run_dir))
        make_room()
        differs = check(run_dir, ended) if ended.clean else ended.text
        found.expect(not differs, f"{name}: {differs}")

    def refused(run_dir: Path, ended: Ended) -> str:
        left = sorted(path.name for path in run_dir.parent.rglob("*"))
        if ended.status != 2 or "cannot write to" not in ended.text:
            return f"not refused, but status {ended.status}: {ended.text}"
        return f"left behind: {left}" if left else ""

    def unsaved(run_dir: Path, ended: Ended) -> str:
        """Said once, and not well ended; then, with room again, it goes on as if nothing had been."""
        said = ended.text.count("warning: cannot write to")
        if ended.status != 1 or said != 1 or "could not take all results" not in ended.text:
            return f"status {ended.status}, said {said} times: {ended.text}"
        run_dir.chmod(0o755)
        again = run(["--resume", run_dir], log)
        return again.text if again.status else same(whole, run_dir)

    def saved(run_dir: Path, ended: Ended) -> str:
        """Said once, and once that it is over."""
        said = [ended.text.count(words) for words in ("warning: cannot write to", "can be written to again")]
        if ended.status or said != [1, 1]:
            return f"status {ended.status}, said {said} times: {ended.text}"
        return same(whole, run_dir)

    trial("full at the start", lambda run_dir: fill(), refused)
    trial("full from the middle on", lambda run_dir: at_steps({17: fill}), unsaved)
    trial("full for a while", lambda run_dir: at_steps({17: fill, 31: make_room}), saved)

    def full_at_the_last_measurement(run_dir: Path) -> None:
        at_steps({39: fill})
        units = svi.active_units
        svi.active_units = lambda *given: (make_room(), units(*given))[1]

    trial("full at the last measurement", full_at_the_last_measurement, saved)
    trial("no large files at the start", lambda run_dir: limit(800), refused)
    trial("no large files from the middle on", lambda run_dir: at_steps({17: lambda: limit(LIMIT)}), unsaved)
    freed = {17: lambda: limit(LIMIT), 31: lambda: limit(resource.RLIM_INFINITY)}
    trial("no large files for a while", lambda run_dir: at_steps(freed), saved)

    def read_only_at_the_start(run_dir: Path) -> None:
        as_nobody(run_dir.parent)
        run_dir.parent.chmod(0o555)

    def read_only(run_dir: Path) -> Callable[[], None]:
        return lambda: run_dir.chmod(0o555)

    def later(faults: Callable[[Path], dict[int, Callable[[], None]]]) -> Callable[[Path], None]:
        def before(run_dir: Path) -> None:
            as_nobody(run_dir.parent)
            at_steps(faults(run_dir))

        return before

    trial("read-only at the start", read_only_at_the_start, refused)
    trial("read-only from the middle on", later(lambda run_dir: {17: read_only(run_dir)}), unsaved)
    writable = later(lambda run_dir: {17: read_only(run_dir), 31: lambda: run_dir.chmod(0o755)})
    trial("read-only for a while", writable, saved)

    away = later(lambda run_dir: {17: lambda: shutil.rmtree(run_dir)})
    trial(
        "a folder that vanishes",
        away,
        lambda run_dir, ended: ended.text if ended.status else same(whole, run_dir),
    )

    def elsewhere(run_dir: Path) -> dict[int, Callable[[], None]]:
        other = run_dir.with_name("other")
        return {
            17: lambda: run_dir.rename(other),
            31: lambda: (shutil.rmtree(run_dir), other.rename(run_dir)),
        }

    trial(
        "a folder that goes and comes back",
        later(elsewhere),
        lambda run_dir, ended: ended.text if ended.status else same(whole, run_dir),
    )

    def replaced(run_dir: Path) -> dict[int, Callable[[], None]]:
        def replace() -> None:
            shutil.rmtree(run_dir)
            run_dir.mkdir()
            (run_dir / "config.json").write_text('{"another": "run"}\n')

        return {17: replace}

    def untouched(run_dir: Path, ended: Ended) -> str:
        left = sorted(path.name for path in run_dir.iterdir() if path.name != "lock")
        return (
            ""
            if ended.status == 1 and left == ["config.json"]
            else f"status {ended.status}, {left}: {ended.text}"
        )

    trial("another run in its place", later(replaced), untouched)
    small_file_system(folder, found, whole)
    return found


def small_file_system(folder: Path, found: Found, whole: Path) -> None:
    """A file system of its own that really is full, where the system lets one be made."""
    mount = folder / "mount"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True)
    if made.returncode:
        found.said += " (a small file system could not be made here)"
        return
    log, filler, run_dir = folder / "log", mount / "filler", mount / "run"

    def fill_it() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass

    try:
        ended = run([*VAE, "--run-dir", run_dir], log, before=lambda: at_steps({17: fill_it}), draw=False)
        said = ended.text.count("warning: cannot write to")
        differs = "" if (ended.status, said) == (1, 1) and ended.clean else f"{ended.status}: {ended.text}"
        filler.unlink()
        again = run(["--resume", run_dir], log, draw=False)
        differs = differs or (again.text if again.status else same(whole, run_dir))
        found.expect(not differs, f"a small file system, full from the middle on: {differs}")
        fill_it()
        ended = run([*VAE, "--run-dir", mount / "new"], log, draw=False)
        differs = "" if ended.status == 2 and ended.clean else f"{ended.status}: {ended.text}"
        found.expect(not differs and not (mount / "new").exists(), f"the same, full at the start: {differs}")
    finally:
        subprocess.run(["umount", mount], check=True)


if sys.platform == "darwin":
    NOBODY = 2**31 - 2
