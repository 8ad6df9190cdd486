"""Windows and macOS on Linux: what they lack is taken away, and what they refuse is refused."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import inference.evaluate as evaluate_command
import inference.report as report_command
from inference import load, svi
from inference.backend import allocator, files
from inference.data.labelled import read_indices
from inference.tuning import process
from tests import forks
from tests.support import TINY, lines

ROOT = Path(__file__).parents[2]
BINARY = 1 << 29  # in place of Windows' O_BINARY, which Linux lacks


class Windows:
    """What Windows refuses: to open a folder, and to replace or remove a file that is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.open, self.opened = os.open, 0
        monkeypatch.setattr(os, "open", self.open_file)
        for name in ("replace", "rename", "unlink", "remove"):
            monkeypatch.setattr(os, name, self.refusing(getattr(os, name)))

    def open_file(self, path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        """Without O_BINARY Windows changes line ends."""
        if sys._getframe(1).f_code.co_filename == files.__file__:
            if os.path.isdir(path):
                raise PermissionError(13, "Permission denied", str(path))
            assert flags & BINARY, path
            self.opened += 1
        return self.open(path, flags & ~BINARY, *arguments, **keywords)

    def refusing(self, action: Any) -> Any:
        """Returns a function that refuses to act on an open file."""

        def act(*paths: Any, **keywords: Any) -> None:
            links = (Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd"))
            held = {os.readlink(link) for link in links if link.is_symlink()}
            for path in paths:
                if os.path.realpath(path) in held:
                    raise PermissionError(13, "The process cannot access the file", str(path))
            action(*paths, **keywords)

        return act


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc/self/fd")
def test_a_run_needs_nothing_that_windows_lacks(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, names in (
        (os, ("fork", "mkfifo", "getuid", "geteuid", "chown", "statvfs")),
        (signal, ("SIGHUP", "SIGKILL", "SIGUSR1", "alarm")),
    ):
        for name in names:
            monkeypatch.delattr(module, name)
    for module, name, value in (
        (files, "resource", None),
        (files, "NOFOLLOW", 0),
        (files, "NONBLOCK", 0),
        (files, "BINARY", BINARY),
        (process, "fcntl", None),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("USERNAME", "user")  # Windows sets it
    windows, run = Windows(monkeypatch), tmp_path / "run"
    command = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(run)]
    assert svi.main(command) == 0
    assert svi.main(["--resume", str(run), "--steps", "60"]) == 0
    assert evaluate_command.main([str(run), "--particles", "1", "10"]) == 0
    assert report_command.main([str(run)]) == 0 and (run / "report.html").exists()
    model = load(run)
    for _ in range(2):  # the second time it replaces a file
        model.save(tmp_path / "vae.pt")
    loaded = load(tmp_path / "vae.pt").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    assert [line["step"] for line in lines(run)][-1] == 60 and windows.opened > 100
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize("error", [TypeError, AttributeError, OSError])
def test_another_c_library_has_no_mallopt(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses CDLL(None) with a TypeError, and macOS has no mallopt."""

    def refuse(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    allocator.keep_freed_memory()


def test_a_list_of_indices_from_windows_is_read(tmp_path: Path) -> None:
    """With a byte order mark and Windows' line ends."""
    (tmp_path / "labelled.txt").write_bytes(b"\xef\xbb\xbf12\r\n3  # a three\r\n")
    assert read_indices(tmp_path / "labelled.txt") == [12, 3]


def test_a_checkout_has_the_same_bytes_on_every_system() -> None:
    """Git for Windows changes line ends otherwise: digests of files and shell scripts would break."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout")
    paths = [".ci/run", "exercises/04_elbo.py", "runs/published/weights/checksums.json", "README.md"]
    command = ["git", "check-attr", "eol", "--", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{path}: eol: lf" for path in paths]


def test_programs_of_tests_start_without_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    program = "import os, sys; print(os.environ.get('RANK'), sys.argv[1]); sys.exit(3)"
    done = forks.run("-c", program, "x")
    assert (done.returncode, done.stdout, done.stderr) == (3, "None x\n", "")
    done = forks.run("-c", program, "x", processes=2)
    assert done.returncode == 3 and sorted(done.stdout.splitlines()) == ["0 x", "1 x"]
