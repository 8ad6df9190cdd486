"""Times the three modes of a training step, and the number of steps from which each mode pays off.

python -m benchmarks.modes

Capture and compilation times are those of a first use: TorchInductor's cache is empty. The modes run
alternately, in one process.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import itertools
import os
import statistics
import tempfile
import time

import torch
from torch import nn

from benchmarks.implementations import build_model, suite
from benchmarks.timing import race, step_timer
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.data.examples import example_inputs
from inference.training.gradients import MODES

BATCH, ROUNDS, STEPS = 97, 5, 20
NAMES = ("vae", "ssvae", "ppca", "flow", "conv_vae", "code_transformer")
HEAD = (
    "| model | eager, ms | graph, ms | capture, s | pays off from step "
    "| inductor, ms | compilation, s | pays off from step |"
)


@fast_float32(torch.device("cpu"))
def main(arguments: list[str]) -> int:
    """Times some models in every mode and prints the table."""
    parser = Parser(prog="python -m benchmarks.modes", description=(__doc__ or "").splitlines()[0])
    parser.parse_args(arguments)
    print(HEAD)
    print("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for name in NAMES:
            print(row(name), flush=True)
    return 0


def row(name: str) -> str:
    """Returns a model's row: the time of each mode, and the step from which it beats the mode before it."""
    torch.manual_seed(0)
    batch, steps, first_step = example_inputs(build_model(name), BATCH), {}, {}
    for mode in MODES:
        steps[mode] = suite(build_model(name), mode)
        start = time.perf_counter()
        steps[mode](**batch)
        first_step[mode] = time.perf_counter() - start
    slow = any(isinstance(part, nn.Conv2d | nn.Embedding) for part in build_model(name).modules())
    timers = {mode: step_timer(step, batch) for mode, step in steps.items()}
    rounds = race(timers, ROUNDS, STEPS // 10 if slow else STEPS)
    times = {mode: statistics.median(each) for mode, each in rounds.items()}
    cells = [f"`{name}`", f"{times['eager']:.2f}"]
    for before, mode in itertools.pairwise(MODES):
        saved = (times[before] - times[mode]) / 1e3
        since = f"{max((first_step[mode] - first_step[before]) / saved, 0):.0f}" if saved > 0 else "never"
        cells += [f"{times[mode]:.2f}", f"{first_step[mode] - first_step['eager']:.1f}", since]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_command(main)
