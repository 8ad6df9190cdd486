"""One clear line for whoever gave a command something it cannot use."""

import difflib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType

from inference.backend.allocator import keep_freed_memory


class UserError(ValueError):
    """What was given is wrong: one line says what, and what to do. Commands print it and exit with 2."""

    def __init__(self, message: str):
        super().__init__(message.replace("\n", "\\n"))  # of a name that has some


class TrainingAborted(RuntimeError):
    """A run cannot go on: the message says why, and what to do. Commands print it and exit with 1."""


class TrainingDiverged(TrainingAborted):
    """Training ran away."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """A `UserError` for a name that is not among the known ones, with the nearest of them suggested."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}: {hint}")


def exit_on_interrupt() -> None:
    """Exit at once, with status 130 and without a traceback, at Ctrl-C.

    Each command calls this before its imports, which take seconds and leave nothing to clean up.
    `run_command` restores Python's own handler for `main`. If the process ignores Ctrl-C, it still does.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_now)


def _exit_now(number: int, frame: FrameType | None) -> None:
    os._exit(130)


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Run a command's `main` on the arguments given and leave with its status; bad input: one line, and 2."""
    try:
        if signal.getsignal(signal.SIGINT) is _exit_now:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        keep_freed_memory()
        _run(main)
    except KeyboardInterrupt:
        exit_on_interrupt()  # another Ctrl-C while Python shuts down prints no traceback either
        sys.exit(130)


def _run(main: Callable[[list[str]], int | None]) -> None:
    for stream in (sys.stdout, sys.stderr):  # a name that is no text does not stop the line that says it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingAborted as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has gone: `... | head`
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "allocate" in str(error) or "out of memory" in str(error)):
            raise
        print(
            "error: no memory is left: lower --batch-size or --particles, or make the model smaller; a run "
            "keeps its last checkpoint",
            file=sys.stderr,
        )
        sys.exit(1)
