"""Ctrl-C while a command starts: exit status 130, and no traceback."""

import ast
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import shortened

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("inference/*.py"), *ROOT.glob("benchmarks/*.py")]
COMMANDS = sorted(path for path in FILES if "run_command(main)" in path.read_text())
# Before the imports of every command.
GUARD = """
if __name__ == "__main__":
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()
"""


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and so would the commands that the tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(command: list[str], seconds: float) -> tuple[int, str]:
    """Exit status and standard error of a module's command that gets SIGINT while it starts.

    The time counts from the command's first import: a busy machine may take long to start Python itself.
    """
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", *command],  # which says on stderr what is imported
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "inference.errors" not in (line := process.stderr.readline()):
        assert line, "the command does not import inference.errors"
        assert line.split("|")[-1].strip() not in ("torch", "pyro"), (
            "torch is imported before inference.errors"
        )
    time.sleep(seconds)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    return process.returncode, "\n".join(line for line in said.splitlines() if "import time:" not in line)


@pytest.mark.parametrize("seconds", shortened([0.1, 0.3, 0.6, 1.0], [0.3, 1.0]))
def test_an_interrupt_in_the_first_second_of_a_training(
    seconds: float, small_npz: Path, tmp_path: Path
) -> None:
    run = ["--data", str(small_npz), "--steps", "1000000", "--run-dir", str(tmp_path / "run")]
    assert interrupted(["inference.svi", "--model", "vae", *run], seconds) == (130, "")


@pytest.mark.parametrize("command", shortened(["evaluate", "compare", "report", "sweep"], ["evaluate"]))
def test_an_interrupt_while_a_command_imports(command: str) -> None:
    assert interrupted([f"inference.{command}"], 0.2) == (130, "")


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_every_command_has_the_guard_before_its_imports(path: Path) -> None:
    _, first, *_ = ast.parse(path.read_text()).body  # after the docstring
    assert ast.dump(first) == ast.dump(ast.parse(GUARD).body[0])


def test_an_ignored_interrupt_stays_ignored() -> None:
    program = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from inference.cli.entry import exit_on_interrupt
exit_on_interrupt()
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_an_interrupt_of_a_running_command() -> None:
    program = """
from inference.cli.entry import exit_on_interrupt, run_command
exit_on_interrupt()
def main(arguments):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        print("cleaned up", flush=True)
import signal
run_command(main)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "")
