"""Runs that are killed: at random moments, and inside of what they write."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from inference.rundir import files
from inference.rundir import run as run_module

from .sandbox import SSVAE, VAE, Child, Found, run, same

SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT]
CALLS = ("open", "write", "fsync", "close", "replace", "ftruncate")  # of the system, by which a run writes


def at_random(folder: Path, share: float, data_dir: Path) -> Found:
    """Runs killed at a moment drawn from their whole length, some of them again, and resumed."""
    found = Found("runs killed at random moments and resumed, all but the clock bit for bit as uninterrupted")
    draw = random.Random(0)
    for name, arguments in (("ssvae", SSVAE), ("vae", VAE)):
        whole = folder / name
        began = time.monotonic()
        assert run([*arguments, "--run-dir", whole], folder / "log").status == 0
        length = time.monotonic() - began
        for i in range(max(round(50 * share), 1)):
            stopped, kills = folder / f"{name}-{i}", []
            command: list[object] = [*arguments, "--run-dir", stopped]
            while len(kills) < draw.choice([1, 1, 2, 3]):
                kills.append((draw.choice(SIGNALS), draw.uniform(0, length)))
                child = Child(command, folder / "log")
                if child.ended(kills[-1][1]) is None:
                    child.kill(kills[-1][0])
                    child.ended()
                if (stopped / "config.json").exists():
                    command = ["--resume", stopped]
            ended = run(command, folder / "log")
            differs = ended.text if ended.status else same(whole, stopped)
            said = ", ".join(f"{number.name} after {after:.2f} s" for number, after in kills)
            found.expect(not differs, f"{name} killed by {said}: {differs}")
    return found


class Killing:
    """The module `os`, of whose calls number `at` is the last: killed before, in the middle or after."""

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


def inside_the_writing(folder: Path, share: float, data_dir: Path) -> Found:
    """Runs killed before, half way through and after each call of the system by which they write anything."""
    found = Found(
        "runs killed before, in and after each system call that writes configuration, metrics, checkpoints "
        "and results, and resumed, all but the clock bit for bit as uninterrupted"
    )
    arguments, whole, log = [*VAE, "--steps", "3"], folder / "whole", folder / "log"

    def patch(at: int, when: str, calls: Path) -> None:
        run_module.os = files.os = Killing(at, when, calls)  # type: ignore[attr-defined]

    def count() -> None:
        patch(-1, "", folder / "calls")

    assert run([*arguments, "--run-dir", whole], log, before=count, draw=False).status == 0
    calls = (folder / "calls").read_text().split()
    trials = [(at, when) for at in range(len(calls)) for when in ("before", "half way through", "after")]
    trials = [(at, when) for at, when in trials if when != "half way through" or calls[at] == "write"]
    for at, when in random.Random(0).sample(trials, max(round(len(trials) * share), 1)):
        stopped = folder / f"{at} {when}"
        command: list[object] = [*arguments, "--run-dir", stopped]
        kill = partial(patch, at, when, folder / "unread")
        killed = run(command, log, before=kill, draw=False)
        if (stopped / "config.json").exists():
            command = ["--resume", stopped]
        ended = run(command, log, draw=False)
        differs = ended.text if ended.status else same(whole, stopped)
        if killed.status != -signal.SIGKILL:
            differs = f"it was not killed, but ended with {killed.status}"
        found.expect(not differs, f"killed {when} call {at}, {calls[at]}: {differs}")
    return found
