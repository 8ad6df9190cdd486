"""The callback that writes event files for TensorBoard."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import UserError
from inference.training.callbacks import Callback

if TYPE_CHECKING:
    from inference.training.loop import Loop


class TensorBoard(Callback):
    """Writes the metrics of a training into event files: `tensorboard --logdir FOLDER` shows them.

    Each metric is a scalar `NAME/SPLIT`, such as `negative_elbo/validation`, over the steps. A resumed
    training hides the events of the steps that it repeats. If the folder cannot be written to, one warning is
    printed and training continues without events.

    Args:
        folder: of the event files.

    Raises:
        UserError: the package tensorboard is missing, or `folder` is not a folder.

    Example:
        >>> from inference import fit
        >>> from inference.training.tensorboard import TensorBoard
        >>> fit(model, data, callbacks=[TensorBoard("events")])  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path):
        check_tensorboard()
        self.folder, self.failed = Path(folder), False
        self.writer: Any = None
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise UserError(f"{self.folder} is not a folder. Move it away, and the run makes one.")

    def on_log(self, loop: "Loop", metrics: Mapping[str, float]) -> None:
        """Writes the terms of a training batch."""
        self._attempt(loop, {"train": metrics})

    def on_evaluate(self, loop: "Loop", metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Writes an evaluation."""
        self._attempt(loop, metrics)

    def on_train_end(self, loop: "Loop") -> None:
        """Closes the event file."""
        if self.writer is not None:
            self._attempt(loop, {})
            self.writer.close()
            self.writer = None

    def _attempt(self, loop: "Loop", metrics: Mapping[str, Mapping[str, float]]) -> None:
        if self.failed:
            return
        try:
            self._write(loop.step, metrics)
        except OSError as error:
            self.failed = True
            reason = error.strerror or error
            print(f"warning: no more events are written to {self.folder} ({reason})", file=sys.stderr)

    def _write(self, step: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        for split, values in metrics.items():
            for name, value in values.items():
                self.writer.add_scalar(f"{name}/{split}", value, step)
        self.writer.flush()


def check_tensorboard() -> None:
    """Raises UserError if the package tensorboard is missing."""
    if find_spec("tensorboard") is None:
        raise UserError('TensorBoard is not installed. Install it: pip install "ppl-models[tensorboard]"')
