"""Runs in processes of their own, forked from this one, and what they leave behind."""

import contextlib
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from inference import svi
from inference.errors import run_command
from inference.plots import images
from inference.rundir.files import unpack
from tests import support

TINY = ["--steps", "40", "--batch-size", "100", "--hidden", "20", "--z-dim", "2", "--data", "digits"]
VAE, SSVAE = ["--model", "vae", *TINY], ["--model", "ssvae", *TINY]


@dataclass
class Found:
    """What came of a kind of fault: in words, how many were tried, and what went wrong."""

    said: str
    tried: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, condition: bool, complaint: str) -> None:
        """Count a trial, and note what went wrong with it."""
        self.tried += 1
        if not condition:
            self.wrong.append(complaint)


@dataclass
class Ended:
    """How a run ended: its exit status, below zero where a signal ended it, and what it printed."""

    status: int
    text: str

    @property
    def clean(self) -> bool:
        return "Traceback" not in self.text


class Child:
    """`inference.svi` with these arguments, in a process forked from this one."""

    def __init__(
        self,
        arguments: Iterable[object],
        log: Path,
        before: Callable[[], None] = lambda: None,
        draw: bool = True,
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
                if not draw:
                    images.draw_all = lambda *_: None
                sys.argv = ["inference.svi", *map(str, arguments)]
                before()
                run_command(svi.main)
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def ended(self, within: float | None = None) -> Ended | None:
        """How it ended; None where it has not, within so many seconds."""
        deadline = None if within is None else time.monotonic() + within
        while True:
            pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if pid:
                return Ended(os.waitstatus_to_exitcode(status), self.log.read_text(errors="replace"))
            if deadline is not None and time.monotonic() >= deadline:
                return None
            time.sleep(0.002)


def warm(folder: Path) -> None:
    """Make a run in this process, so that those forked from it find all that is imported late."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        svi.main([*SSVAE, "--steps", "1", "--run-dir", str(folder / "warm")])


def run(arguments: Iterable[object], log: Path, **keywords: Any) -> Ended:
    """The same, waited for."""
    ended = Child(arguments, log, **keywords).ended()
    assert ended is not None
    return ended


def same(a: Path, b: Path) -> str:
    """What differs between two finished runs, all but the clock; nothing where nothing does."""
    if not support.same(unpack(a / "checkpoint.pt"), unpack(b / "checkpoint.pt")):
        return "the checkpoints differ"
    lines = [support.timeless(folder) for folder in (a, b)]
    if lines[0] != lines[1]:
        return f"the metrics differ: {len(lines[0])} and {len(lines[1])} lines"
    figures_of = [json.loads((folder / "results.json").read_text())["test"] for folder in (a, b)]
    return "" if figures_of[0] == figures_of[1] else "the results differ"
