"""Runs in processes forked from this one, and the comparison of their folders."""

import contextlib
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from inference import fitting, svi
from inference.backend.files import unpack
from inference.cli.entry import run_command
from inference.html import report as html_report
from tests import support

TINY = ["--steps", "40", "--batch-size", "100", "--hidden", "20", "--z-dim", "2", "--data", "digits"]
VAE, SSVAE = ["--model", "vae", *TINY], ["--model", "ssvae", *TINY]


@dataclass
class Report:
    """The result of the trials of one kind of fault.

    Attributes:
        summary: A description for the output.
        trials: Number of trials.
        failures: A description of each failed trial.
    """

    summary: str
    trials: int = 0
    failures: list[str] = field(default_factory=list)

    def check(self, condition: bool, failure: str) -> None:
        """Counts a trial, and records a failure if the condition is false."""
        self.trials += 1
        if not condition:
            self.failures.append(failure)


@dataclass
class Result:
    """How a run ended.

    Attributes:
        status: The exit status; negative if a signal ended the run.
        text: The output of the run.
    """

    status: int
    text: str

    @property
    def clean(self) -> bool:
        """Whether the output has no traceback."""
        return "Traceback" not in self.text


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """Within it, runs draw no pictures and write no report."""
    with (
        mock.patch.object(fitting, "draw_all", lambda *_: None),
        mock.patch.object(html_report, "write_after_training", lambda *_: 0),
    ):
        yield


class Child:
    """`inference.svi` in a process forked from this one.

    Args:
        arguments: The command line.
        log: File for the output.
        before: Called in the new process before the command starts.
        pictures: Whether the run draws its pictures and writes its report.
    """

    def __init__(
        self,
        arguments: Iterable[object],
        log: Path,
        before: Callable[[], None] = lambda: None,
        pictures: bool = True,
    ):
        self.log = log
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                os.dup2(file, 1)
                os.dup2(file, 2)
                sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
                torch.set_num_threads(1)
                sys.argv = ["inference.svi", *map(str, arguments)]
                before()
                with contextlib.nullcontext() if pictures else without_pictures():
                    run_command(svi.main)
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the process."""
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> Result | None:
        """Waits for the process to end.

        Args:
            timeout: In seconds; None waits forever.

        Returns:
            How the process ended; None if it has not ended before the timeout.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if pid:
                return Result(os.waitstatus_to_exitcode(status), self.log.read_text(errors="replace"))
            if deadline is not None and time.monotonic() >= deadline:
                return None
            time.sleep(0.002)


def warm(folder: Path, pictures: bool) -> None:
    """Trains in this process, so that the forked runs find all modules imported.

    Args:
        folder: For the run.
        pictures: Whether the forked runs draw pictures and write reports.
    """
    torch.set_num_threads(1)
    given = contextlib.nullcontext() if pictures else without_pictures()
    with contextlib.redirect_stdout(io.StringIO()), given:
        svi.main([*SSVAE, "--steps", "1", "--run-dir", str(folder / "warm")])


def run(arguments: Iterable[object], log: Path, **keywords: Any) -> Result:
    """Starts a `Child` and waits for it."""
    result = Child(arguments, log, **keywords).wait()
    assert result is not None
    return result


def difference(a: Path, b: Path) -> str:
    """Compares two finished runs, timings excepted, bit for bit.

    Returns:
        A description of the first difference; "" if there is none.
    """
    if not support.same(unpack(a / "checkpoint.pt"), unpack(b / "checkpoint.pt")):
        return "the checkpoints differ"
    metrics = [support.timeless(folder) for folder in (a, b)]
    if metrics[0] != metrics[1]:
        return f"the metrics differ: {len(metrics[0])} and {len(metrics[1])} lines"
    results = [json.loads((folder / "results.json").read_text())["test"] for folder in (a, b)]
    return "" if results[0] == results[1] else "the results differ"
