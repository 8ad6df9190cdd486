"""What a training run says while it goes, and how it is stopped."""

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from tqdm import tqdm


class Progress:
    """How training goes: a bar on a terminal, a plain line at each measurement elsewhere."""

    def __init__(self, start: int, steps: int, quiet: bool = False):
        self.start, self.steps, self.quiet = start, steps, quiet
        self.began = time.perf_counter()
        self.accuracy: dict[str, float] = {}  # on the test set, as last measured
        hidden = quiet or not sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, disable=hidden)

    def advance(self) -> None:
        """One step has been made."""
        self.bar.update()

    def show(self, values: dict[str, float]) -> None:
        """Put the training batches' running figures on the bar, and the last accuracy on the test set."""
        if not self.bar.disable:
            self.bar.set_postfix_str(_words(values | self.accuracy), refresh=False)

    def say(self, line: str) -> None:
        """A line on the standard error, above the bar where there is one."""
        if not self.quiet:
            self.bar.write(line, file=sys.stderr)

    def report(self, step: int, values: dict[str, float]) -> None:
        """Say the figures on the test set; where there is no bar, the speed and the time left as well."""
        self.accuracy = {name: value for name, value in values.items() if name == "accuracy"}
        line = f"step {step}/{self.steps}  test: {_words(values)}"
        if not self.bar.disable:
            self.bar.write(line)
            return
        rate = (step - self.start) / (time.perf_counter() - self.began)
        left = f"  ({rate:.1f} steps/s, {_clock((self.steps - step) / rate)} left)" if rate else ""
        print(line + left, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def _words(values: dict[str, float]) -> str:
    names = {"negative_elbo": "-ELBO"}
    return "  ".join(f"{names.get(name, name)} {value:.4g}" for name, value in values.items())


def _clock(seconds: float) -> str:
    return tqdm.format_interval(seconds)


def table(test: dict[str, dict[str, float]]) -> str:
    """The results on the test set, a line each: value, standard error over images, Monte-Carlo error."""
    lines = [f"{'test set':16} {'value':>10} {'s.e.':>8} {'m.c.s.e.':>9}"]
    for name, figure in test.items():
        error = f"{figure['mc_se']:9.4f}" if "mc_se" in figure else ""
        se = f"{figure['se']:8.4f}" if "se" in figure else " " * 8
        lines.append(f"{name:16} {figure['value']:10.4f} {se} {error}".rstrip())
    return "\n".join(lines)


class StopSignals:
    """Turns a first Ctrl-C, SIGTERM or SIGHUP into a wish to stop between two steps; another acts at once."""

    def __init__(self) -> None:
        self.stopped = False
        self.previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.stopped

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        signal.signal(number, self.previous[number])

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be taken
            numbers = [signal.SIGINT, signal.SIGTERM]
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                numbers.append(signal.SIGHUP)  # the terminal has gone, and nohup has not said that it may
            self.previous = {number: signal.signal(number, self._stop) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
