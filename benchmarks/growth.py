"""How the time of a step and its memory grow: with particles, components, labels and the batch.

python -m benchmarks.growth            print the table
python -m benchmarks.growth --write    put it into docs/cost.md, and the plot into docs/growth.png

Each point is a process of its own. Milliseconds are the best of several turns; memory is what the process
grows by at its peak, once it has made a few steps. The slope is that of time against size from the point
before, both as logarithms: 1 is linear. The knee is the first size from which on it is above a half: below it
a step costs what a step costs, whatever its size.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

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
from benchmarks.step import peak_from_now, suite, turn
from inference.backend.allocator import keep_freed_memory
from inference.backend.device import fast_float32
from inference.cli.options import Parser
from inference.compare import example_inputs
from inference.errors import run_command
from ppl_models import GMVAE, SSVAE, VAE
from ppl_models.base import LatentVariableModel
from tools.table import write_between

MARKS = "<!-- growth: made by python -m benchmarks.growth --write -->", "<!-- end of growth -->"
BATCH = 97
SHAPE = (1, 28, 28)
TURNS = 5
SECONDS = 0.5  # of a turn, about


class Axis(NamedTuple):
    """What grows: a model and an estimator of a size."""

    sizes: tuple[int, ...]
    model: Callable[[int], LatentVariableModel]
    estimator: str
    particles: Callable[[int], int]
    batch: Callable[[int], int]


AXES = {
    "particles of `vae`, iwae": Axis(
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
    """Measure every point, print the table and, if asked, write it into docs/cost.md with the plot."""
    parser = Parser(prog="python -m benchmarks.growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    found = {words: [point(words, size) for size in axis.sizes] for words, axis in AXES.items()}
    print(table(found))
    if given.write:
        write_between(COST, MARKS, table(found) + "\n\n![Time and memory of a step](growth.png)")
        draw(found, COST.parent / "growth.png")
    return 0


def point(words: str, size: int) -> tuple[float, float]:
    """Milliseconds of a step, and MiB at its peak, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, words, size).result()


@fast_float32(torch.device("cpu"))
def _measure(words: str, size: int) -> tuple[float, float]:
    axis = AXES[words]
    torch.manual_seed(0)
    model = axis.model(size)
    step = suite(model, "inductor", axis.estimator, axis.particles(size))
    batch = example_inputs(model, axis.batch(size))
    make = turn(step, batch)
    make(2)
    peak = peak_from_now()
    make(2)
    memory = peak()
    keep_freed_memory()
    steps = max(int(SECONDS * 1e3 / make(2)), 1)
    return min(make(steps) for _ in range(TURNS)), memory


def slopes(axis: Axis, values: list[float]) -> list[float]:
    """d log value / d log size between each two points."""
    sizes = axis.sizes
    return [
        math.log(max(b, 1e-9) / max(a, 1e-9)) / math.log(n / m)
        for m, n, a, b in zip(sizes, sizes[1:], values, values[1:], strict=False)
    ]


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    """A row a point."""
    head = "| what grows | size | ms | slope | MiB | slope |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for words, points in found.items():
        axis = AXES[words]
        times, memory = ([point[i] for point in points] for i in range(2))
        steps = slopes(axis, times)
        knee = next((n for n, slope in zip(axis.sizes, steps, strict=False) if slope > 0.5), None)
        columns = zip(
            *(axis.sizes, times, [math.nan, *steps], memory, [math.nan, *slopes(axis, memory)]), strict=True
        )
        for size, ms, slope, mib, other in columns:
            mark = ", the knee" if size == knee else ""
            cells = [f"{size:,}{mark}", f"{ms:.2f}", f"{slope:.2f}", f"{mib:.0f}", f"{other:.2f}"]
            lines.append(f"| {words} | {' | '.join(cells)} |".replace("nan", ""))
    return "\n".join(lines)


def draw(found: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Time and memory against size, both as logarithms, a panel an axis."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    panels = figure.subplots(2, len(found), sharex="col")
    for column, (words, points) in zip(panels.T, found.items(), strict=True):
        sizes = AXES[words].sizes
        for panel, values, unit in zip(column, zip(*points, strict=True), ("ms", "MiB"), strict=True):
            panel.loglog(sizes, values, "o-", color="C0", label="measured")
            linear = [values[-1] * n / sizes[-1] for n in sizes]
            panel.loglog(sizes, linear, ":", color="0.5", label="linear")
            panel.set_ylim(min(values) / 2, max(values) * 2)
            panel.set_ylabel(unit)
            panel.grid(alpha=0.3)
        column[0].set_title(words.replace("`", ""), fontsize=10)
        column[1].set_xlabel("size")
    panels[0][0].legend(fontsize=8)
    figure.suptitle(
        f"A step of the suite: batch {BATCH}, images of 28 x 28, {torch.get_num_threads()} threads"
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run_command(main)
