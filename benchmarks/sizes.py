"""Measures how the time and memory of a step grow with the size of the images.

python -m benchmarks.sizes            print the table
python -m benchmarks.sizes --write    write it into docs/cost.md

Each row is measured in a process of its own, with random colour images. Milliseconds are the best of several
trials of an eager step. Memory is the peak growth of the process over two steps, after its first steps.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from benchmarks import COST
from benchmarks.implementations import random_batches, suite
from benchmarks.timing import track_peak_memory
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from ppl_models import MODELS
from tools.table import write_between

MARKS = "<!-- sizes: made by python -m benchmarks.sizes --write -->", "<!-- end of sizes -->"
NAMES, SIZES = ("conv_vae", "hvae", "vqvae"), (32, 64)
BATCH, STEPS, TRIALS = 32, 2, 5
HEAD = "| model | images | parameters | ms per step | ratio to 32 x 32 | memory, MiB | ratio to 32 x 32 |"

Point = tuple[int, float, float]  # parameters, milliseconds per step, MiB


def main(arguments: list[str]) -> int:
    """Measures every model at every size, prints the table and, with `--write`, writes it into docs/."""
    parser = Parser(prog="python -m benchmarks.sizes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    found = {name: [measure(name, size) for size in SIZES] for name in NAMES}
    print(table(found))
    if given.write:
        write_between(COST, MARKS, table(found))
    return 0


def measure(name: str, size: int) -> Point:
    """Returns the figures of a model at a size, measured in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, name, size).result()


@fast_float32(torch.device("cpu"))
def _measure(name: str, size: int) -> Point:
    torch.manual_seed(0)
    model = MODELS[name]((3, size, size))
    run = suite(model, random_batches(model, BATCH), "eager")
    run(STEPS)
    peak = track_peak_memory()
    run(STEPS)
    memory = peak()
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, min(run(STEPS) for _ in range(TRIALS)), memory


def table(found: dict[str, list[Point]]) -> str:
    """Returns the table of docs/cost.md, one row per model and size."""
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for name, points in found.items():
        _, first_ms, first_mib = points[0]
        for size, (parameters, ms, mib) in zip(SIZES, points, strict=True):
            cells = [f"3 x {size} x {size}", f"{parameters:,}", f"{ms:.0f}", f"{ms / first_ms:.2f}"]
            lines.append(f"| `{name}` | {' | '.join(cells)} | {mib:.0f} | {mib / first_mib:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
