"""Measures how the time and memory of a step grow with particles, components, labels and batch size.

python -m benchmarks.growth            print the table
python -m benchmarks.growth --write    write it into docs/cost.md, and the plot into docs/growth.png

Each point is measured in a process of its own. Milliseconds are the best of several trials. Memory is the
peak growth of the process over a few steps, after its first steps. The slope is d log(time) / d log(size)
between a point and the previous one; 1 is linear growth. The knee is the last size before the slope first
exceeds 0.5; up to there the fixed cost of a step dominates.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure

from benchmarks import COST
from benchmarks.implementations import random_batches, suite
from benchmarks.timing import track_peak_memory
from inference.backend.allocator import keep_freed_memory
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from ppl_models import GMVAE, SSVAE, VAE
from ppl_models.base import LatentVariableModel
from tools.table import write_between

MARKS = "<!-- growth: made by python -m benchmarks.growth --write -->", "<!-- end of growth -->"
BATCH = 97
SHAPE = (1, 28, 28)
TRIALS = 5
SECONDS = 0.5  # approximate duration of a trial


class Axis(NamedTuple):
    """A variable that grows, and the step at each of its sizes.

    Attributes:
        sizes: Sizes to measure.
        model: Builds the model of a size.
        estimator: Name of the estimator.
        particles: Number of particles at a size.
        batch: Batch size at a size.
    """

    sizes: tuple[int, ...]
    model: Callable[[int], LatentVariableModel]
    estimator: str
    particles: Callable[[int], int]
    batch: Callable[[int], int]


AXES = {
    "particles of `vae`, `iwae`": Axis(
        (1, 3, 10, 30, 100, 300, 1000), lambda _: VAE(SHAPE), "iwae", lambda n: n, lambda _: BATCH
    ),
    "components of `gmvae`": Axis(
        (10, 30, 100, 300, 1000, 3000, 10_000),
        lambda n: GMVAE(SHAPE, components=n),
        "trace",
        lambda _: 1,
        lambda _: BATCH,
    ),
    "labels of `ssvae`": Axis(
        (2, 5, 10, 20, 50, 100), lambda n: SSVAE(SHAPE, n), "enum", lambda _: 1, lambda _: BATCH
    ),
    "batch of `vae`": Axis(
        (16, 64, 256, 1024, 4096), lambda _: VAE(SHAPE), "mean_field", lambda _: 1, lambda n: n
    ),
}


def main(arguments: list[str]) -> int:
    """Measures every point, prints the table and, with `--write`, writes it and the plot into docs/."""
    parser = Parser(prog="python -m benchmarks.growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table and the plot into docs/")
    given = parser.parse_args(arguments)
    found = {name: [measure(name, size) for size in axis.sizes] for name, axis in AXES.items()}
    print(table(found))
    if given.write:
        write_between(COST, MARKS, table(found) + "\n\n![Time and memory of a step](growth.png)")
        plot(found, COST.parent / "growth.png")
    return 0


def measure(name: str, size: int) -> tuple[float, float]:
    """Returns milliseconds per step and peak memory in MiB, measured in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, name, size).result()


@fast_float32(torch.device("cpu"))
def _measure(name: str, size: int) -> tuple[float, float]:
    axis = AXES[name]
    torch.manual_seed(0)
    model = axis.model(size)
    batches = random_batches(model, axis.batch(size))
    run = suite(model, batches, "inductor", axis.estimator, axis.particles(size))
    run(3)
    peak = track_peak_memory()
    run(2)
    memory = peak()
    keep_freed_memory()
    steps = max(int(SECONDS * 1e3 / run(2)), 1)
    return min(run(steps) for _ in range(TRIALS)), memory


def slopes(axis: Axis, values: list[float]) -> list[float]:
    """Returns d log(value) / d log(size) between neighbouring points."""
    sizes = axis.sizes
    return [
        math.log(max(b, 1e-9) / max(a, 1e-9)) / math.log(n / m)
        for m, n, a, b in zip(sizes, sizes[1:], values, values[1:], strict=False)
    ]


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    """Returns the table of docs/cost.md, one row per point."""
    head = "| variable | size | ms per step | slope | memory, MiB | slope |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for name, points in found.items():
        axis = AXES[name]
        times, memory = ([point[i] for point in points] for i in range(2))
        time_slopes, memory_slopes = slopes(axis, times), slopes(axis, memory)
        knee = next((n for n, slope in zip(axis.sizes, time_slopes, strict=False) if slope > 0.5), None)
        columns = (axis.sizes, times, [math.nan, *time_slopes], memory, [math.nan, *memory_slopes])
        for size, ms, time_slope, mib, memory_slope in zip(*columns, strict=True):
            mark = " (knee)" if size == knee else ""
            cells = [f"{size:,}{mark}", f"{ms:.2f}", f"{time_slope:.2f}", f"{mib:.0f}", f"{memory_slope:.2f}"]
            lines.append(f"| {name} | {' | '.join(cells)} |".replace("nan", ""))
    return "\n".join(lines)


def plot(found: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Plots time and memory against size on logarithmic axes, one column per variable."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    panels = figure.subplots(2, len(found), sharex="col")
    for column, (name, points) in zip(panels.T, found.items(), strict=True):
        sizes = AXES[name].sizes
        for panel, values, unit in zip(column, zip(*points, strict=True), ("ms", "MiB"), strict=True):
            panel.loglog(sizes, values, "o-", color="C0", label="measured")
            linear = [values[-1] * n / sizes[-1] for n in sizes]
            panel.loglog(sizes, linear, ":", color="0.5", label="linear")
            panel.set_ylim(min(values) / 2, max(values) * 2)
            panel.set_ylabel(unit)
            panel.grid(alpha=0.3)
        column[0].set_title(name.replace("`", ""), fontsize=10)
        column[1].set_xlabel("size")
    panels[0][0].legend(fontsize=8)
    figure.suptitle(
        f"A training step: batch size {BATCH}, images of 28 x 28, {torch.get_num_threads()} threads"
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run_command(main)
