"""Tests in processes that are forked from one with the libraries, in a copy of the project."""

import contextlib
import gc
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from compileall import compile_dir
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

from tools.mutants.mutations import Mutation

# What the tests import besides the project. A forked process has it already.
LIBRARIES = ["torch", "torchvision.datasets", "pyro", "torch._dynamo", "torch._inductor.config", "arviz"]
LIBRARIES += ["matplotlib.figure", "sklearn.datasets", "sklearn.decomposition", "sklearn.linear_model"]
LIBRARIES += ["scipy.stats", "jinja2", "PIL.Image", "h5py", "yaml", "tqdm", "psutil", "filelock"]
LIBRARIES += ["hypothesis.strategies", "_hypothesis_pytestplugin", "anyio.pytest_plugin", "xdist.plugin"]
OWN = ("inference", "ppl_models", "tools", "tests", "benchmarks", "exercises")  # never taken from the parent
IMPORTED = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # those of LIBRARIES
PYTEST = ("-q", "-p", "no:cacheprovider", "--tb=line", "--show-capture=no", "-W", IMPORTED)
SPARE = 20.0  # CPU seconds on top of those of the tests, for imports
OUTCOMES = {"killed": True, "timeout": True, "survived": False}  # whether the tests have noticed


def load_libraries() -> None:
    """Imports the libraries into this process, with one thread, so that it can be forked."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # the tests skip what needs it
    sys.modules["torch"].set_num_threads(1)
    gc.freeze()  # pytest collects garbage several times in a forked process, which leaves these objects alone


def copy_project(root: Path, folder: Path) -> Path:
    """Copies the files that git does not ignore, and compiles them such that a change is always seen."""
    copy = folder / "project"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if name and (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
    for name in OWN:
        if (copy / name).is_dir():
            compile_dir(copy / name, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return copy


def forked(copy: Path, log: Path, seconds: float, work: Callable[[], int]) -> int | None:
    """Calls a function in a forked process whose folder is a copy of the project.

    Args:
        copy: the folder.
        log: for the output.
        seconds: CPU seconds that the process may take. It may last thirty times as long.
        work: returns the exit status.

    Returns:
        The exit status; None if it took too long.
    """
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            limit = int(seconds) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(copy)
            for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
                del sys.modules[name]
            sys.path.insert(0, str(copy))
            sys.dont_write_bytecode = False  # pytest keeps the tests that it has compiled
            os.environ["PYTHONPATH"] = str(copy)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    deadline, found = time.monotonic() + 30 * seconds, (0, 0)
    while found[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
        found = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and the processes that it has started
    if found[0] == 0:
        os.waitpid(child, 0)
        return None
    status = os.waitstatus_to_exitcode(found[1])
    return None if status in (-signal.SIGXCPU, -signal.SIGKILL) else status


class Chosen:
    """A plugin of pytest that runs some tests only, in their order.

    Args:
        tests: their names.
        file: for the name of the test that fails.
    """

    def __init__(self, tests: Sequence[str], file: Path) -> None:
        self.place = {test: place for place, test in enumerate(tests)}
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Writes the name of the test that fails."""
        if report.failed:
            self.file.write_text(report.nodeid, encoding="utf-8")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leaves the other tests out."""
        kept = [item for item in items if item.nodeid in self.place]
        items[:] = sorted(kept, key=lambda item: self.place[item.nodeid])


def outcome(copy: Path, mutation: Mutation, tests: Sequence[str], seconds: float) -> tuple[str, str]:
    """Makes the mutation in the copy, runs tests, and undoes it.

    Args:
        copy: of the project.
        mutation: the change.
        tests: the tests, in their order; the first one that fails ends the run.
        seconds: CPU seconds that they take without the mutation.

    Returns:
        "killed" if a test fails or the tests cannot start, "timeout" if they take more than five times as
        long, and "survived" otherwise, also without tests. And the name of the test that fails, if one does.
    """
    if not tests:
        return "survived", ""
    file, killer = copy / mutation.path, copy.parent / "killer"
    killer.write_text("", encoding="utf-8")
    content = file.read_bytes()

    def run() -> int:
        named = dict.fromkeys(test.partition("::")[0] for test in tests)
        return int(pytest.main(["-x", *PYTEST, *named], plugins=[Chosen(tests, killer)]))

    try:
        file.write_bytes(mutation.apply(content))
        status = forked(copy, copy.parent / "log", SPARE + 5 * seconds, run)
    finally:
        file.write_bytes(content)
    result = "timeout" if status is None else "survived" if status == pytest.ExitCode.OK else "killed"
    return result, killer.read_text(encoding="utf-8")
