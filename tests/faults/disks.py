"""Runs whose disk is full, or whose folder is read-only or disappears."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from inference.backend import files
from inference.data.batches import Batches
from inference.rundir import run as run_module
from inference.training import session

from .sandbox import VAE, Report, Result, difference, run

NOBODY = 65534  # user and group id
LIMIT = 10_000  # bytes per file: less than a checkpoint, more than metrics.jsonl
# One trial of each way in which a run may end, for less than a tenth of the trials.
FEW = ("full from the middle on", "file size limited for some steps", "read-only at the start")
FEW += ("a folder that disappears and returns", "a folder that another run replaces")


def at_steps(faults: dict[int, Callable[[], None]]) -> None:
    """Causes each fault when the batch of its step is loaded."""
    load = Batches.__call__

    def call(self: Batches, step: int) -> dict:
        if step in faults:
            faults[step]()
        return load(self, step)

    Batches.__call__ = call  # type: ignore[method-assign]


class FullDisk:
    """Stands in for the module `os` on a full disk: the first write is half done, later writes fail."""

    def __init__(self) -> None:
        self.left = 1

    def __getattr__(self, name: str) -> object:
        return self.write if name == "write" else getattr(os, name)

    def write(self, file: int, content: bytes) -> int:
        if self.left:
            self.left -= 1
            return os.write(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk() -> None:
    """Makes later writes of this process fail."""
    run_module.os = files.os = FullDisk()  # type: ignore[attr-defined]


def free_disk() -> None:
    """Makes writes work again."""
    run_module.os = files.os = os  # type: ignore[attr-defined]


def limit_file_size(size: int) -> None:
    """Limits the size of the files that this process writes, in bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def drop_privileges(folder: Path) -> None:
    """Continues as the user nobody: for the superuser no folder is read-only."""
    if os.getuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def fail_writes(folder: Path, fraction: float, data_dir: Path) -> Report:
    """Makes writes fail in each way: from the start, from the middle on, and in the middle only.

    Below a tenth of the trials, there is one for each way to end, and no run draws pictures or writes a
    report, which takes most of the time.
    """
    few = fraction < 0.1
    report = Report(
        "runs with a full disk, or a folder that is read-only or disappears, from the start or in the middle"
    )
    folder.chmod(0o755)
    log, uninterrupted = folder / "log", folder / "uninterrupted"
    assert run([*VAE, "--run-dir", uninterrupted], log, pictures=False).status == 0

    def trial(
        name: str,
        before: Callable[[Path], None],
        check: Callable[[Path, Result], str],
        pictures: bool = True,
    ) -> None:
        if few and name not in FEW:
            return
        home = folder / name
        home.mkdir()
        run_dir = home / "run"
        drawn = pictures and not few
        result = run([*VAE, "--run-dir", run_dir], log, before=lambda: before(run_dir), pictures=drawn)
        free_disk()
        problem = check(run_dir, result) if result.clean else result.text
        report.check(not problem, f"{name}: {problem}")

    def refused(run_dir: Path, result: Result) -> str:
        """The command exits with status 2 and leaves no files."""
        left = sorted(path.name for path in run_dir.parent.rglob("*"))
        if result.status != 2 or "cannot write to" not in result.text:
            return f"not refused, but status {result.status}: {result.text}"
        return f"left behind: {left}" if left else ""

    def unsaved(run_dir: Path, result: Result) -> str:
        """The command warns once and exits with status 1; the resumed run equals an uninterrupted one."""
        warnings = result.text.count("warning: cannot write to")
        if result.status != 1 or warnings != 1 or "cannot write all results" not in result.text:
            return f"status {result.status}, {warnings} warnings: {result.text}"
        run_dir.chmod(0o755)
        resumed = run(["--resume", run_dir], log, pictures=False)
        return resumed.text if resumed.status else difference(uninterrupted, run_dir)

    def saved(run_dir: Path, result: Result) -> str:
        """The command warns once, reports once that it can write again, and exits with status 0."""
        messages = "warning: cannot write to", "can be written to again"
        counts = [result.text.count(message) for message in messages]
        if result.status or counts != [1, 1]:
            return f"status {result.status}, {counts} messages: {result.text}"
        return difference(uninterrupted, run_dir)

    def finished(run_dir: Path, result: Result) -> str:
        """The command exits with status 0, and the run equals an uninterrupted one."""
        return result.text if result.status else difference(uninterrupted, run_dir)

    # The pictures are drawn where the fault lasts until then.
    trial("full at the start", lambda run_dir: fill_disk(), refused)
    trial("full from the middle on", lambda run_dir: at_steps({17: fill_disk}), unsaved)
    trial(
        "full for some steps", lambda run_dir: at_steps({17: fill_disk, 31: free_disk}), saved, pictures=False
    )

    def full_at_the_last_measurement(run_dir: Path) -> None:
        at_steps({39: fill_disk})
        units = session.active_units
        session.active_units = lambda *given: (free_disk(), units(*given))[1]

    trial("full at the last measurement", full_at_the_last_measurement, saved)
    trial("file size limited at the start", lambda run_dir: limit_file_size(800), refused)
    trial(
        "file size limited from the middle on",
        lambda run_dir: at_steps({17: lambda: limit_file_size(LIMIT)}),
        unsaved,
    )
    freed = {17: lambda: limit_file_size(LIMIT), 31: lambda: limit_file_size(resource.RLIM_INFINITY)}
    trial("file size limited for some steps", lambda run_dir: at_steps(freed), saved, pictures=False)

    def read_only_at_the_start(run_dir: Path) -> None:
        drop_privileges(run_dir.parent)
        run_dir.parent.chmod(0o555)

    def read_only(run_dir: Path) -> Callable[[], None]:
        return lambda: run_dir.chmod(0o555)

    def unprivileged(faults: Callable[[Path], dict[int, Callable[[], None]]]) -> Callable[[Path], None]:
        def before(run_dir: Path) -> None:
            drop_privileges(run_dir.parent)
            at_steps(faults(run_dir))

        return before

    trial("read-only at the start", read_only_at_the_start, refused)
    trial("read-only from the middle on", unprivileged(lambda run_dir: {17: read_only(run_dir)}), unsaved)
    writable = unprivileged(lambda run_dir: {17: read_only(run_dir), 31: lambda: run_dir.chmod(0o755)})
    trial("read-only for some steps", writable, saved, pictures=False)

    removed = unprivileged(lambda run_dir: {17: lambda: shutil.rmtree(run_dir)})
    trial(
        "a folder that disappears",
        removed,
        finished,
    )

    def moved(run_dir: Path) -> dict[int, Callable[[], None]]:
        other = run_dir.with_name("other")
        return {
            17: lambda: run_dir.rename(other),
            31: lambda: (shutil.rmtree(run_dir), other.rename(run_dir)),
        }

    trial(
        "a folder that disappears and returns",
        unprivileged(moved),
        finished,
    )

    def replaced(run_dir: Path) -> dict[int, Callable[[], None]]:
        def replace() -> None:
            shutil.rmtree(run_dir)
            run_dir.mkdir()
            (run_dir / "config.json").write_text('{"another": "run"}\n')

        return {17: replace}

    def untouched(run_dir: Path, result: Result) -> str:
        """The command exits with status 1 and writes nothing into the other run's folder."""
        left = sorted(path.name for path in run_dir.iterdir() if path.name != "lock")
        correct = result.status == 1 and left == ["config.json"]
        return "" if correct else f"status {result.status}, {left}: {result.text}"

    trial("a folder that another run replaces", unprivileged(replaced), untouched)
    if not few:
        fill_file_system(folder, report, uninterrupted)
    return report


def fill_file_system(folder: Path, report: Report, uninterrupted: Path) -> None:
    """Fills a small file system of its own, if one can be mounted."""
    mount = folder / "mount"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True)
    if made.returncode:
        report.summary += " (a small file system could not be mounted)"
        return
    log, filler, run_dir = folder / "log", mount / "filler", mount / "run"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass

    try:
        result = run([*VAE, "--run-dir", run_dir], log, before=lambda: at_steps({17: fill}), pictures=False)
        warnings = result.text.count("warning: cannot write to")
        correct = (result.status, warnings) == (1, 1) and result.clean
        problem = "" if correct else f"{result.status}: {result.text}"
        filler.unlink()
        resumed = run(["--resume", run_dir], log, pictures=False)
        problem = problem or (resumed.text if resumed.status else difference(uninterrupted, run_dir))
        report.check(not problem, f"a small file system, full from the middle on: {problem}")
        fill()
        result = run([*VAE, "--run-dir", mount / "new"], log, pictures=False)
        problem = "" if result.status == 2 and result.clean else f"{result.status}: {result.text}"
        correct = not problem and not (mount / "new").exists()
        report.check(correct, f"a small file system, full at the start: {problem}")
    finally:
        subprocess.run(["umount", mount], check=True)


if sys.platform == "darwin":
    NOBODY = 2**31 - 2
