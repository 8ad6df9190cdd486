"""Callbacks of the training loop: the base class, the history, and the recorder that writes a run folder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inference.rundir.checkpoint import config_digest
from inference.rundir.run import Run

if TYPE_CHECKING:
    from inference.training.loop import Loop


class Callback:
    """Called by the training loop. Override the methods that you need.

    The loop has `step`, `config`, `model`, `seconds` and `evaluated_model`. A callback stops training after
    the current step by `loop.stop_requested = True`.
    """

    def on_step_end(self, loop: "Loop") -> None:
        """Called after each step. With this method, the loop makes one step per call and not many."""

    def on_block_end(self, loop: "Loop") -> None:
        """Called after some steps, at least every 100, and about four times a second."""

    def on_log(self, loop: "Loop", metrics: Mapping[str, float]) -> None:
        """Called after every 100th step and the last one.

        Args:
            loop: the training loop.
            metrics: terms of the bound on the batch of that step, in nats per image.
        """

    def on_evaluate(self, loop: "Loop", metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Called after each evaluation on held-out data.

        Args:
            loop: the training loop.
            metrics: by split, such as "test", and by name.
        """

    def on_train_end(self, loop: "Loop") -> None:
        """Called once after the last step, also if training was stopped."""


class History(Callback):
    """What training measured.

    Attributes:
        metrics: one dict per measurement, with `step`, `split`, `seconds` and the values by name.
    """

    def __init__(self) -> None:
        self.metrics: list[dict[str, Any]] = []

    def on_log(self, loop: "Loop", metrics: Mapping[str, float]) -> None:
        """Records the terms of a training batch."""
        self.metrics.append({"step": loop.step, "split": "train", "seconds": loop.seconds, **metrics})

    def on_evaluate(self, loop: "Loop", metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Records an evaluation."""
        for split, values in metrics.items():
            self.metrics.append({"step": loop.step, "split": split, "seconds": loop.seconds, **values})

    def to_frame(self) -> Any:
        """Returns the measurements as a pandas DataFrame, one row each.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(self.metrics)

    def __repr__(self) -> str:
        last = self.metrics[-1] if self.metrics else {}
        values = ", ".join(f"{name}={value:.4g}" for name, value in last.items() if isinstance(value, float))
        return f"History({len(self.metrics)} measurements; last: step {last.get('step', 0)}, {values})"


class RunRecorder(Callback):
    """Writes the measurements and the checkpoints of a training into its run folder."""

    def __init__(self, run: Run):
        self.run, self.saved = run, False
        self.state: dict[str, Any] = {}  # of the last checkpoint

    def on_log(self, loop: "Loop", metrics: Mapping[str, float]) -> None:
        """Logs the terms of a training batch."""
        self.run.log(step=loop.step, split="train", seconds=loop.seconds, **metrics)

    def on_evaluate(self, loop: "Loop", metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Logs an evaluation and saves a checkpoint."""
        for split, values in metrics.items():
            self.run.log(step=loop.step, split=split, seconds=loop.seconds, **values)
        self._save(loop)

    def on_train_end(self, loop: "Loop") -> None:
        """Saves a checkpoint if training stopped early."""
        if loop.step < loop.config.steps:
            self._save(loop)

    def _save(self, loop: "Loop") -> None:
        config = self.run.config
        self.state.update({"model": config.model, "config_digest": config_digest(config)})
        self.state.update(loop.state_dict())
        self.saved = self.run.save_checkpoint(self.state)
