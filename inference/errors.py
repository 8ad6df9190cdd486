"""One clear line for whoever gave a command something it cannot use."""

import difflib
import io
import sys
from collections.abc import Callable, Iterable

from inference.allocator import keep_freed_memory


class BadInput(ValueError):
    """What was given is wrong: one line says what, and what to do. Commands print it and exit with 2."""

    def __init__(self, message: str):
        super().__init__(message.replace("\n", "\\n"))  # of a name that has some


class BrokenOff(RuntimeError):
    """A run cannot go on: the message says why, and what to do. Commands print it and exit with 1."""


class Diverged(BrokenOff):
    """Training ran away."""


def unknown(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """A `BadInput` for a name that is not among the known ones, with the nearest of them suggested."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    return BadInput(f"unknown {kind} {name!r}: {hint}")


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Run a command's `main` on the arguments given and leave with its status; bad input: one line, and 2."""
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # a name that is no text does not stop the line that says it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenOff as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
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
