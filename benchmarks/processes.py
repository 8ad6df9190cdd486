"""Compares the training throughput of one process on all cores and of one process per core.

python -m benchmarks.processes             print the table
python -m benchmarks.processes --write     write it into docs/cost.md, between its marks
python -m benchmarks.processes --model hvae --model vae     time these models; --write updates their rows

Both train with the same joint batch, on random images, and take turns. The processes of a group stay alive
between its turns and sleep. The processes per core also train in two other ways: by eager steps with one
exchange of all gradients, and by `DistributedDataParallel`, which exchanges the gradients in buckets during
the backward pass.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import os
import statistics
import sys
from contextlib import ExitStack

from benchmarks.implementations import build_model
from benchmarks.rows import ModelTable
from benchmarks.worker import DDP, EAGER, SUITE, TORCHRUN, Group
from inference.cli.entry import run_command

MARKS = "<!-- processes: made by python -m benchmarks.processes --write -->", "<!-- end of processes -->"
CORES = os.cpu_count() or 1
ROUNDS, TURN = 7, 1000  # milliseconds of a turn, approximately
CASES = {
    **{"vae": 970, "ssvae": 970, "conv_vae": 96, "hvae": 96},
    **{"af_vae": 96, "pixel_vae": 96, "vqvae": 96},
}
HEAD = (
    f"| model | parameters | joint batch | images per second, 1 process | {CORES} processes | speed-up "
    "| eager, all_reduce | eager, DDP |"
)
TABLE = ModelTable(MARKS, HEAD, tuple(CASES))
ONE = "one"  # process on all cores
Times = dict[str, list[float]]  # milliseconds per step of each round, by training


def main(arguments: list[str]) -> int:
    """Times every case, prints the table and, with `--write`, writes it into docs/cost.md."""
    given = TABLE.parse(arguments, "benchmarks.processes", (__doc__ or "").splitlines()[0])
    TABLE.measure(given, lambda name: [row(name, CASES[name], measure(name, CASES[name]))])
    return 0


def measure(name: str, batch: int) -> Times:
    """Times the training of a model by one process, and by one process per core, in turns."""
    per_core = [*TORCHRUN, "--standalone", "--nproc-per-node", str(CORES)]
    with ExitStack() as stack:
        one, several = (
            stack.enter_context(Group(name, batch, [launcher], {"OMP_NUM_THREADS": str(threads)}))
            for launcher, threads in (([sys.executable], CORES), (per_core, 1))
        )
        turns = {ONE: (one, SUITE)} | {kind: (several, kind) for kind in (SUITE, EAGER, DDP)}
        steps = {key: max(int(TURN / group.ask(kind, 2)["ms"]), 1) for key, (group, kind) in turns.items()}
        times: Times = {key: [] for key in turns}
        for _ in range(ROUNDS):
            for key, (group, kind) in turns.items():
                times[key].append(group.ask(kind, steps[key])["ms"])
    return times


def row(name: str, batch: int, times: Times) -> str:
    """Returns the row of a model: images per second, and ratios of the throughput to one process's."""
    parameters = sum(p.numel() for p in build_model(name).parameters())
    rates = [batch / statistics.median(times[key]) * 1e3 for key in (ONE, SUITE)]
    cells = [f"`{name}`", f"{parameters:,}", str(batch), *(f"{rate:.0f}" for rate in rates)]
    cells.append(ratios(times[ONE], times[SUITE], quartiles=True))
    cells += [ratios(times[ONE], times[key]) for key in (EAGER, DDP)]
    return f"| {' | '.join(cells)} |"


def ratios(one: list[float], other: list[float], quartiles: bool = False) -> str:
    """Returns the median of the ratios of the rounds, with quartiles if requested."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(one, other, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})" if quartiles else f"{middle:.2f}"


if __name__ == "__main__":
    run_command(main)
