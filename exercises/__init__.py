"""Exercises that check themselves: the student's files, their solutions and the checks.

    >>> from exercises import check

`check("04")` checks `exercises/04_elbo.py`, and `check("04", bound=my_bound)` a function from a notebook. The
command is `python -m exercises.check 04`. `TODO` marks an answer that is still to be written.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from exercises.checking.run import check

    TODO: Tensor

__all__ = ["TODO", "check"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: the command installs its Ctrl-C handler before torch."""
    if name == "check":
        from exercises.checking.run import check

        return check
    if name == "TODO":
        from exercises.checking.rows import TODO

        return TODO
    raise AttributeError(f"module 'exercises' has no attribute {name!r}")
