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

import torch
from torch import nn

from benchmarks.implementations import build_model, random_batches, suite
from benchmarks.timing import race
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.rundir.config import MODES

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
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "PPL_MODELS_CACHE": cache}
        for name in NAMES:
            print(row(name), flush=True)
    return 0


def row(name: str) -> str:
    """Returns a model's row: the time of each mode, and the step from which it beats the mode before it."""
    torch.manual_seed(0)
    timers, first_steps = {}, {}
    for mode in MODES:
        model = build_model(name)
        timers[mode] = suite(model, random_batches(model, BATCH), mode)
        first_steps[mode] = 2 * timers[mode](2) / 1e3  # the second one is captured
    slow = any(isinstance(part, nn.Conv2d | nn.Embedding) for part in build_model(name).modules())
    rounds = race(timers, ROUNDS, STEPS // 10 if slow else STEPS)
    times = {mode: statistics.median(each) for mode, each in rounds.items()}
    cells = [f"`{name}`", f"{times['eager']:.2f}"]
    for before, mode in itertools.pairwise(MODES):
        saved = (times[before] - times[mode]) / 1e3
        since = f"{max((first_steps[mode] - first_steps[before]) / saved, 0):.0f}" if saved > 0 else "never"
        cells += [f"{times[mode]:.2f}", f"{first_steps[mode] - first_steps['eager']:.1f}", since]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_command(main)
