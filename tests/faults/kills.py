"""Runs that are killed, at random times and while they write, and resumed."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from inference.backend import files
from inference.rundir import run as run_module

from .sandbox import SSVAE, VAE, Child, Report, difference, run

SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT]
CALLS = ("open", "write", "fsync", "close", "replace", "ftruncate")  # system calls with which a run writes


def kill_at_random_times(folder: Path, fraction: float, data_dir: Path) -> Report:
    """Kills runs up to three times each, at times uniform over their length, and resumes them."""
    report = Report("runs killed at random times and resumed: equal to uninterrupted ones, except timings")
    rng = random.Random(0)
    for name, arguments in (("ssvae", SSVAE), ("vae", VAE)):
        uninterrupted = folder / name
        start = time.monotonic()
        assert run([*arguments, "--run-dir", uninterrupted], folder / "log").status == 0
        length = time.monotonic() - start
        for i in range(max(round(50 * fraction), 1)):
            killed, kills = folder / f"{name}-{i}", []
            command: list[object] = [*arguments, "--run-dir", killed]
            while len(kills) < rng.choice([1, 1, 2, 3]):
                kills.append((rng.choice(SIGNALS), rng.uniform(0, length)))
                child = Child(command, folder / "log")
                if child.wait(kills[-1][1]) is None:
                    child.kill(kills[-1][0])
                    child.wait()
                if (killed / "config.json").exists():
                    command = ["--resume", killed]
            result = run(command, folder / "log")
            problem = result.text if result.status else difference(uninterrupted, killed)
            signals = ", ".join(f"{number.name} after {after:.2f} s" for number, after in kills)
            report.check(not problem, f"{name} killed by {signals}: {problem}")
    return report


class KillingOS:
    """Stands in for the module `os`, and kills the process at one of its system calls.

    Args:
        at: Index of the call.
        when: "before" or "after" the call, or "half way through" a write.
        calls: File to which the name of each call is appended.
    """

    def __init__(self, at: int, when: str, calls: Path):
        self.at, self.when, self.calls, self.count = at, when, calls, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            with self.calls.open("a") as file:
                print(name, file=file)
            self.count += 1
            if self.count - 1 != self.at:
                return real(*arguments)
            if self.when == "half way through" and name == "write":
                file, content = arguments
                real(file, content[: len(content) // 2])
            elif self.when == "after":
                real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        return call


def kill_while_writing(folder: Path, fraction: float, data_dir: Path) -> Report:
    """Kills runs before, half way through and after each system call that writes, and resumes them."""
    report = Report(
        "runs killed before, in and after each system call that writes configuration, metrics, checkpoints "
        "and results, and resumed: equal to uninterrupted ones, except timings"
    )
    arguments, uninterrupted, log = [*VAE, "--steps", "3"], folder / "uninterrupted", folder / "log"

    def patch(at: int, when: str, calls: Path) -> None:
        run_module.os = files.os = KillingOS(at, when, calls)  # type: ignore[attr-defined]

    def count() -> None:
        patch(-1, "", folder / "calls")

    assert run([*arguments, "--run-dir", uninterrupted], log, before=count, pictures=False).status == 0
    calls = (folder / "calls").read_text().split()
    trials = [(at, when) for at in range(len(calls)) for when in ("before", "half way through", "after")]
    trials = [(at, when) for at, when in trials if when != "half way through" or calls[at] == "write"]
    for at, when in random.Random(0).sample(trials, max(round(len(trials) * fraction), 1)):
        run_dir = folder / f"{at} {when}"
        command: list[object] = [*arguments, "--run-dir", run_dir]
        kill = partial(patch, at, when, folder / "unread")
        killed = run(command, log, before=kill, pictures=False)
        if (run_dir / "config.json").exists():
            command = ["--resume", run_dir]
        result = run(command, log, pictures=False)
        problem = result.text if result.status else difference(uninterrupted, run_dir)
        if killed.status != -signal.SIGKILL:
            problem = f"it was not killed, but ended with {killed.status}"
        report.check(not problem, f"killed {when} call {at}, {calls[at]}: {problem}")
    return report
