"""Progress of a training, and the signals that stop it."""

import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from inference.training.callbacks import Callback

if TYPE_CHECKING:
    from inference.training.loop import Loop


class Progress(Callback):
    """Shows progress: a bar in a terminal or a notebook, elsewhere one line per evaluation.

    Args:
        steps: of the whole training.
        quiet: shows nothing.
    """

    def __init__(self, steps: int, quiet: bool = False):
        self.steps, self.quiet, self.first_step = steps, quiet, 0
        self.began = time.perf_counter()
        self.accuracy: dict[str, float] = {}  # on the test set, by the last evaluation
        hidden = quiet or not (sys.stderr.isatty() or notebook())
        self.bar = tqdm(total=steps, unit="step", dynamic_ncols=True, disable=hidden)

    def start(self, step: int) -> None:
        """Starts the clock of a training that begins at a step."""
        self.first_step, self.began = step, time.perf_counter()
        self.bar.update(step)

    def say(self, line: str) -> None:
        """Prints a line on the standard error, above the bar if there is one."""
        if not self.quiet:
            self.bar.write(line, file=sys.stderr)

    def on_block_end(self, loop: "Loop") -> None:
        """Advances the bar."""
        self.bar.update(loop.step - self.bar.n)

    def on_log(self, loop: "Loop", metrics: Mapping[str, float]) -> None:
        """Shows the terms of the batch and the accuracy next to the bar."""
        if not self.bar.disable:
            self.bar.set_postfix_str(_words({**metrics, **self.accuracy}), refresh=False)

    def on_evaluate(self, loop: "Loop", metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Prints the metrics of the first held-out part; without a bar also the speed and the time left."""
        if self.quiet or not metrics:
            return
        split, values = next(iter(metrics.items()))
        self.accuracy = {name: value for name, value in values.items() if name == "accuracy"}
        line = f"step {loop.step}/{self.steps}  {split}: {_words(values)}"
        if not self.bar.disable:
            self.bar.write(line)
            return
        rate = (loop.step - self.first_step) / (time.perf_counter() - self.began)
        left = f"  ({rate:.1f} steps/s, {_clock((self.steps - loop.step) / rate)} left)" if rate else ""
        print(line + left, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def notebook() -> bool:
    """Whether the code runs in a Jupyter notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _words(values: Mapping[str, float]) -> str:
    names = {"negative_elbo": "-ELBO"}
    return "  ".join(f"{names.get(name, name)} {value:.4g}" for name, value in values.items())


def _clock(seconds: float) -> str:
    return tqdm.format_interval(seconds)


def table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Formats metrics, one per line: value, standard error over images, Monte Carlo standard error."""
    lines = [f"{'test set':16} {'value':>10} {'s.e.':>8} {'m.c.s.e.':>9}"]
    for name, metric in metrics.items():
        error = f"{metric['mc_se']:9.4f}" if "mc_se" in metric else ""
        se = f"{metric['se']:8.4f}" if "se" in metric else " " * 8
        lines.append(f"{name:16} {metric['value']:10.4f} {se} {error}".rstrip())
    return "\n".join(lines)


class StopSignals:
    """Turns a first Ctrl-C, SIGTERM or SIGHUP into a request to stop between two steps.

    A second signal has its usual effect.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.stopped

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        signal.signal(number, self.previous[number])

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # other threads cannot handle signals
            numbers = [signal.SIGINT, signal.SIGTERM]
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                numbers.append(signal.SIGHUP)  # unless nohup has the process ignore it
            self.previous = {number: signal.signal(number, self._stop) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # see `distributed.peer_loss_guard`
                signal.signal(number, handler)
