"""Errors whose message a command prints in one line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The input is wrong. The message says what is wrong and what to do; commands print it and exit 2."""

    def __init__(self, message: str):
        super().__init__(message.replace("\n", "\\n"))  # a name may contain one


class TrainingAborted(RuntimeError):
    """Training cannot continue. The message says why and what to do; commands print it and exit with 1."""


class TrainingDiverged(TrainingAborted):
    """The loss, its gradient or a metric is not finite."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns the UserError for an unknown name, with the nearest known one as a hint.

    Args:
        kind: what the name is of, such as "model".
        name: the unknown name.
        known: the names to choose from.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}: {hint}")
