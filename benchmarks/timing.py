"""Time, floating-point rate and peak memory, as the benchmarks measure them."""

import ctypes
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch

StepTimer = Callable[[int], float]  # makes a number of steps and returns milliseconds per step


def step_timer(make: Callable[[int], None]) -> StepTimer:
    """Returns a function that makes a number of steps and returns milliseconds per step.

    Args:
        make: Makes a number of steps.
    """

    def run(count: int) -> float:
        start = time.perf_counter()
        make(count)
        return (time.perf_counter() - start) / count * 1e3

    return run


def repeated(step: Callable[[int], None]) -> Callable[[int], None]:
    """Returns a function that makes a number of steps.

    Args:
        step: Makes the step of a number, 0, 1, 2, ...
    """
    numbers = itertools.count()

    def make(count: int) -> None:
        for number in itertools.islice(numbers, count):
            step(number)

    return make


def race(timers: dict[str, StepTimer], rounds: int, steps: int) -> dict[str, list[float]]:
    """Times several implementations alternately, so that a slow minute of the machine affects all of them.

    Args:
        timers: One per implementation.
        rounds: Number of rounds. One more round runs first and is not recorded.
        steps: Number of steps of each implementation per round.

    Returns:
        Milliseconds per step of each implementation, one value per round.
    """
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds + 1):
        for name, run in timers.items():
            times[name].append(run(steps))
    return {name: measured[1:] for name, measured in times.items()}


def matrix_product_rate() -> float:
    """Returns the floating-point operations per second of a 1024 x 1024 matrix product, best of 11."""
    a, best = torch.randn(1024, 1024), float("inf")
    for _ in range(11):
        start = time.perf_counter()
        for _ in range(5):
            a @ a
        best = min(best, (time.perf_counter() - start) / 5)
    return 2 * 1024**3 / best


def track_peak_memory() -> Callable[[], float]:
    """Resets the peak memory of this process.

    Freed memory is returned to the system first. Linux only.

    Returns:
        A function that returns how far the peak has risen since the reset, in MiB.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the current size: see proc(5)
    before = _peak_memory()
    return lambda: _peak_memory() - before


def _peak_memory() -> float:
    """The largest resident size of this process so far, in MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024
