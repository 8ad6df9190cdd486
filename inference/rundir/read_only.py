"""The run of another process."""

from collections.abc import Callable
from typing import Any

from inference.rundir.run import Run


class ReadOnlyRun(Run):
    """The run of another process, which writes it: this process reads, and leaves no trace."""

    def acquire(self) -> None:
        """Does nothing: the process that writes holds the lock."""

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Does nothing."""

    def log(self, **measurement: Any) -> None:
        """Does nothing."""

    def save(self, write: Callable[[], None]) -> bool:
        """Does nothing; returns True."""
        return True

    def truncate_metrics_after(self, step: int) -> None:
        """Does nothing."""
