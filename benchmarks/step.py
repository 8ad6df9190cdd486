"""Times training steps of the suite against plain PyTorch, `torch.compile`, `pyro.infer.SVI` and NumPyro.

python -m benchmarks.step              print the table
python -m benchmarks.step --write      write it into docs/cost.md, and the times into step.json
python -m benchmarks.step --model hvae --model vae      time these models; --write updates their rows

A step takes its batch from a data set of random images, samples noise where the model's observation has some,
and updates the parameters by Adam. The suite and NumPyro (`lax.scan`) make many steps in one call, as in
training; `torch.compile` gets the whole step as one function.

Absolute times vary between machines and over time. All implementations therefore run alternately, in one
process, and the table gives ratios; milliseconds are medians over the rounds. Pyro's validation is off in the
suite's step and in plain SVI. NumPyro runs in an environment of its own,
.peers/, which this command creates; if it cannot be installed, its rows are omitted. "Matrix products only"
is the time that the floating-point operations of the suite's matrix products and convolutions would take at
the highest rate of a 1024 x 1024 product that torch or NumPyro reached in this run. Memory is the peak growth
of a separate process over a few steps, after its first steps.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import COST
from benchmarks.implementations import BOUNDS, SUITE, build_model, contenders, random_batches
from benchmarks.peer import Peer, peers
from benchmarks.plain_torch import IMPLEMENTATIONS
from benchmarks.timing import matrix_product_rate, race, track_peak_memory
from inference.backend.device import fast_float32
from inference.backend.files import write_whole
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.elbo.estimators import Loss
from inference.errors import UserError, unknown
from inference.rundir.kinds import COUNT
from inference.training.gradients import Gradients
from tools.table import write_between

BATCH = 97
TURN = 400  # approximate duration of a turn of the suite, in milliseconds
MARKS = "<!-- steps: made by python -m benchmarks.step --write -->", "<!-- end of steps -->"
TIMES = Path(__file__).with_name("step.json")
NUMPYRO = "NumPyro"
IN_NUMPYRO = ("vae", "iwae", "gmvae", "ssvae", "ppca", "vae2d", "flow", "conv_vae", "made")


@fast_float32(torch.device("cpu"))  # as in training, and for every implementation
def main(arguments: list[str]) -> int:
    """Times the models, prints the table and, with `--write`, writes it into docs/cost.md."""
    given = _arguments(arguments)
    python = peers()
    products = {"torch": matrix_product_rate()}
    if python:
        with Peer(python) as peer:
            products[NUMPYRO] = peer.ask("product")
    found: dict[str, dict[str, Any]] = {}
    for name in given.model or IMPLEMENTATIONS:
        found[name] = {"threads": torch.get_num_threads(), "products": products}
        found[name] |= measure(name, given.rounds, python)
        print(table({name: found[name]}), file=sys.stderr, flush=True)
    print(table(found))
    if given.write:
        found = (json.loads(TIMES.read_text()) if TIMES.exists() else {}) | found
        found = {name: found[name] for name in IMPLEMENTATIONS if name in found}
        write_whole(TIMES, (json.dumps(found, indent=1) + "\n").encode())
        write_between(COST, MARKS, table(found))
    return 0


def _arguments(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(prog="python -m benchmarks.step", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=COUNT.parse, default=9, metavar="N", help="number of rounds (default: 9)")
    about = "time this model only; can be repeated (default: all models)"
    add("--model", action="append", metavar="NAME", help=about)
    add("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    for name in given.model or ():
        if name not in IMPLEMENTATIONS:
            raise unknown("model", name, IMPLEMENTATIONS)
    if given.rounds < 2:
        raise UserError("--rounds 1 gives no quartiles. Use 2 or more.")
    return given


def measure(name: str, rounds: int, python: Path | None) -> dict[str, Any]:
    """Measures the training step of a model in every implementation.

    Args:
        name: Name of the model.
        rounds: Number of rounds.
        python: The Python of the NumPyro environment, or None.

    Returns:
        `times`, milliseconds per step of each round by implementation; `memory`, MiB by implementation;
        `operations`, floating-point operations per step.
    """
    with ExitStack() as stack:
        timers = contenders(name, BATCH)
        memory = {label: memory_growth(name, label) for label in timers}
        if python and name in IN_NUMPYRO:
            peer = stack.enter_context(Peer(python))
            peer.ask(name)
            timers[NUMPYRO] = peer.time_steps
        timers[SUITE](3)  # captures the step
        times = race(timers, rounds, max(int(TURN / timers[SUITE](10)), 1))
    return {"operations": count_operations(name), "times": times, "memory": memory}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns the table of docs/cost.md from the results of `measure` for each model."""
    head = "| model | implementation | ms per step | ratio, suite / this | memory, MiB |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for name, model in found.items():
        times, ours = model["times"], model["times"][SUITE]
        for label, theirs in times.items():
            ratio = "" if label == SUITE else _ratio(ours, theirs)
            memory = f"{model['memory'][label]:.0f}" if label in model["memory"] else ""
            lines.append(f"| `{name}` | {label} | {statistics.median(theirs):.2f} | {ratio} | {memory} |")
        library, rate = max(model["products"].items(), key=lambda item: item[1])
        floor = model["operations"] / rate * 1e3
        label = f"matrix products only, at {library}'s {rate / 1e9:.0f} GFLOP/s"
        lines.append(f"| `{name}` | {label} | {floor:.2f} | {statistics.median(ours) / floor:.2f} | |")
    return "\n".join(lines)


def count_operations(name: str) -> int:
    """Returns the floating-point operations of the suite's step in matrix products and convolutions."""
    model = build_model(name)
    _, estimator = BOUNDS.get(name, (name, None))
    gradients = Gradients(Loss(model, estimator or model.estimators[0]))
    batch = random_batches(model, BATCH)(0)
    with FlopCounterMode(display=False) as counter:
        gradients(batch)
    return counter.get_total_flops()


def memory_growth(name: str, implementation: str) -> float:
    """Returns by how many MiB a separate process grows at its peak over a few steps."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_memory_growth, name, implementation).result()


def _memory_growth(name: str, implementation: str) -> float:
    run = contenders(name, BATCH)[implementation]
    run(3)  # allocates the optimizer's state and compiles the step
    peak = track_peak_memory()
    run(3)
    return peak()


def _ratio(ours: list[float], theirs: list[float]) -> str:
    """The median and the quartiles of the ratios of each round."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    run_command(main)
