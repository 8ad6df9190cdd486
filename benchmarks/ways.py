"""The three ways to take a step beside each other, and from how many steps on each is worth its making.

python -m benchmarks.ways

The time to make kernels is that of a machine which has never made them: TorchInductor's own store of what it
has compiled is empty. Steps are timed in turn, in one process.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import itertools
import os
import statistics
import tempfile
import time

import torch
from torch import nn

from benchmarks.step import made, race, suite, turn
from inference.backend.device import fast_float32
from inference.cli.options import Parser
from inference.compare import example_inputs
from inference.errors import run_command
from inference.training.gradients import MODES

BATCH, ROUNDS, STEPS = 97, 5, 20
NAMES = ("vae", "ssvae", "ppca", "flow", "conv_vae", "code_transformer")


@fast_float32(torch.device("cpu"))
def main(arguments: list[str]) -> int:
    """Time these models, and print the table."""
    parser = Parser(prog="python -m benchmarks.ways", description=(__doc__ or "").splitlines()[0])
    parser.parse_args(arguments)
    print("| model | plain, ms | graph, ms | made in, s | from step | kernels, ms | made in, s | from step |")
    print("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as store:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = store
        for name in NAMES:
            print(row(name), flush=True)
    return 0


def row(name: str) -> str:
    """A model's times, and the step from which on a way is ahead of the one before it."""
    torch.manual_seed(0)
    batch, steps, making = example_inputs(made(name), BATCH), {}, {}
    for way in MODES:
        steps[way] = suite(made(name), way)
        began = time.perf_counter()
        steps[way](**batch)
        making[way] = time.perf_counter() - began
    slow = any(isinstance(part, nn.Conv2d | nn.Embedding) for part in made(name).modules())
    turns = {way: turn(step, batch) for way, step in steps.items()}
    raced = race(turns, ROUNDS, STEPS // 10 if slow else STEPS)
    times = {way: statistics.median(each) for way, each in raced.items()}
    cells = [f"`{name}`", f"{times['plain']:.2f}"]
    for before, way in itertools.pairwise(MODES):
        saved = (times[before] - times[way]) / 1e3
        since = f"{max((making[way] - making[before]) / saved, 0):.0f}" if saved > 0 else "never"
        cells += [f"{times[way]:.2f}", f"{making[way] - making['plain']:.1f}", since]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_command(main)
