"""Measures training on images of 64 x 64 that stay on disk, on one, two and four machines.

python -m benchmarks.scale                     print the table
python -m benchmarks.scale --write             write it into docs/cost.md, between its marks
python -m benchmarks.scale --model af_vae      measure this model; --write updates its rows

The machines are those of `benchmarks.network`: network namespaces with one process of one thread each, behind
a virtual switch of 1 Gbit/s. All read one file of more than 1 GiB of random colour images. The joint batch is
the same on any number of machines. Steps are eager. Memory is the growth of a process at its peak, after its
first step: parameters and the state of Adam are not part of it, gradients are.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import math
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.network import RATES, group_on, machines, set_rate
from benchmarks.rows import ModelTable
from benchmarks.worker import EAGER
from inference.cli.entry import run_command
from inference.data.stored import LIMIT
from ppl_models import MODELS

MARKS = "<!-- scale: made by python -m benchmarks.scale --write -->", "<!-- end of scale -->"
NAMES = ("pixel_vae", "af_vae", "vqvae")
COUNTS = (1, 2, 4)  # machines
SHAPE, BATCH = (64, 64, 3), 16
ROUNDS = 3  # of one step
BATCHES = 2  # per step, of the training that accumulates gradients
HEAD = (
    "| model | parameters | machines | images per second | ms per step | ms in exchanges | MB sent per step "
    f"| memory, MiB | images per second, bfloat16 | images per second, {BATCHES} batches per step |"
)
TABLE = ModelTable(MARKS, HEAD, NAMES)
KINDS: dict[str, dict[str, Any]] = {
    "usual": {},
    "bfloat16": {"precision": "bfloat16"},
    "accumulated": {"accumulate": BATCHES},
}


def main(arguments: list[str]) -> int:
    """Measures every model, prints the table and, with `--write`, writes it into docs/cost.md."""
    given = TABLE.parse(arguments, "benchmarks.scale", (__doc__ or "").splitlines()[0])
    with machines(max(COUNTS)) as names, TemporaryDirectory(dir=".") as folder:
        set_rate(names, RATES[0])
        file = Path(folder) / "images.npy"
        write_images(file)
        TABLE.measure(given, lambda name: [row(name, n, measure(name, names[:n], file)) for n in COUNTS])
    return 0


def write_images(path: Path, count: int = LIMIT // math.prod(SHAPE) + 1) -> None:
    """Writes random images, uint8 (count, 64, 64, 3): by default as many as stay on disk."""
    block = np.random.default_rng(0).integers(256, size=(1000, *SHAPE), dtype=np.uint8)
    x = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *SHAPE))
    for start in range(0, count, len(block)):
        x[start : start + len(block)] = block[: count - start]
    x.flush()


def measure(model: str, names: list[str], file: Path) -> dict[str, dict[str, float]]:
    """Trains a model on some machines in three ways. Returns the answers of `Group.ask`, see `KINDS`."""
    with group_on(names, model, BATCH, file) as group:
        found = {}
        for kind, settings in KINDS.items():
            answers = [group.ask(EAGER, 1, **settings) for _ in range(ROUNDS)]
            found[kind] = {key: statistics.median(answer[key] for answer in answers) for key in answers[0]}
        found["usual"]["memory"] = group.ask(EAGER, 1, memory=True)["memory"]
    return found


def row(model: str, count: int, found: dict[str, dict[str, float]]) -> str:
    """Returns the row of a model on a number of machines."""
    usual, (height, width, channels) = found["usual"], SHAPE
    parameters = sum(p.numel() for p in MODELS[model]((channels, height, width)).parameters())
    cells = [f"`{model}`", f"{parameters:,}", str(count), f"{BATCH / usual['ms'] * 1e3:.1f}"]
    cells += [f"{usual['ms']:.0f}", f"{usual['exchange_ms']:.0f}", f"{usual['bytes'] / 1e6:.1f}"]
    cells += [f"{usual['memory']:.0f}", f"{BATCH / found['bfloat16']['ms'] * 1e3:.1f}"]
    cells.append(f"{BATCHES * BATCH / found['accumulated']['ms'] * 1e3:.1f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_command(main)
