"""How a command starts and ends: Ctrl-C, errors in one line, exit status."""

import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from inference.backend.allocator import keep_freed_memory
from inference.errors import TrainingAborted, UserError


def exit_on_interrupt() -> None:
    """Makes Ctrl-C exit at once with status 130 and without a traceback.

    Each command calls this before its imports, which take seconds and leave nothing to clean up.
    `run_command` restores Python's own handler for `main`. A process that ignores Ctrl-C still does.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_now)


def _exit_now(number: int, frame: FrameType | None) -> None:
    os._exit(130)


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command's `main` on the process's arguments, and exits with its status.

    A UserError is printed in one line and exits with 2, a TrainingAborted with 1, Ctrl-C with 130.
    """
    try:
        if signal.getsignal(signal.SIGINT) is _exit_now:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        keep_freed_memory()
        _run(main)
    except KeyboardInterrupt:
        exit_on_interrupt()  # another Ctrl-C while Python shuts down prints no traceback either
        sys.exit(130)


def _run(main: Callable[[list[str]], int | None]) -> None:
    for stream in (sys.stdout, sys.stderr):  # a name that cannot be encoded does not stop a message
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from inference.cli.models import with_registered_model  # imports torch

        sys.exit(main(with_registered_model(sys.argv[1:])) or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingAborted as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of the output has gone: `... | head`
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
            "error: out of memory. Lower --batch-size or --particles, or make the model smaller. A run "
            "keeps its last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(1)
