"""Shows where the time of a compiled training step goes.

python -m benchmarks.profile                    print the table
python -m benchmarks.profile vae --kernels      list the kernels of a model too
python -m benchmarks.profile --write            write the table into docs/cost.md, between its marks

The step is that of training: one program, many steps per call, on random images. It is compiled with a record
around each of its kernels, and runs in turn without and with torch's profiler. The parts are the times of the
kernels. "Rest" is the time of a step without the profiler less the parts: calls of the kernels, memory, and
the Python between two blocks of steps. The profiler takes about a microsecond per kernel, which counts as a
part of it. Inductor puts the gradient of a bias and its update into one kernel, which counts as Adam.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import COST
from benchmarks.implementations import BOUNDS, build_model, random_batches, suite
from benchmarks.step import BATCH, count_operations
from benchmarks.timing import matrix_product_rate
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import unknown
from tools.table import write_between

MARKS = "<!-- profile: made by python -m benchmarks.profile --write -->", "<!-- end of profile -->"
MODELS = ("vae", "gmvae", "ssvae", "ppca", "vae2d", "flow", "made", "iwae")
# What the names of a part's kernels contain. The first part that fits counts.
PARTS = {
    "matrix products": ("mm_out", "mkl", "linear", "convolution"),
    "random numbers": ("bernoulli", "normal", "uniform", "rand"),
    "Adam": ("lerp",),
    "other elementwise, sums": ("",),
}
TURN, ROUNDS = 500.0, 5  # milliseconds of a round, and rounds


class Profile(NamedTuple):
    """The profile of a model's step.

    Attributes:
        step: milliseconds per step without the profiler.
        kernels: milliseconds per step of each kernel, by name.
        operations: floating-point operations of a step in matrix products and convolutions.
        best: operations per second of a 1024 x 1024 product.
    """

    step: float
    kernels: dict[str, float]
    operations: int
    best: float

    def parts(self) -> dict[str, float]:
        """Returns milliseconds per step by part, the rest included. Their sum is the step."""
        found = dict.fromkeys(PARTS, 0.0)
        for name, time in self.kernels.items():
            found[part_of(name)] += time
        return found | {"rest": self.step - sum(found.values())}


def part_of(kernel: str) -> str:
    """Returns the part that a kernel belongs to."""
    return next(part for part, words in PARTS.items() if any(word in kernel for word in words))


def main(arguments: list[str]) -> int:
    """Profiles the models, prints the table and, with `--write`, writes it into docs/cost.md."""
    parser = Parser(prog="python -m benchmarks.profile", description=(__doc__ or "").splitlines()[0])
    about = f"the models (default: {', '.join(MODELS)})"
    parser.add_argument("models", nargs="*", metavar="NAME", help=about)
    parser.add_argument("--kernels", action="store_true", help="list the kernels too")
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    for name in given.models:
        if name not in MODELS:
            raise unknown("model", name, MODELS)
    found = {name: measure(name) for name in given.models or MODELS}
    if given.kernels:
        for name, model in found.items():
            for kernel, time in sorted(model.kernels.items(), key=lambda item: -item[1]):
                print(f"{name}  {time:8.4f} ms  {part_of(kernel)}: {kernel}")
    print(table(found))
    if given.write:
        write_between(COST, MARKS, table(found))
    return 0


def measure(name: str) -> Profile:
    """Profiles a model in a process of its own, since torch reads the setting for records when it starts."""
    with tempfile.TemporaryDirectory() as cache:
        own = {"TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE": "1", "PPL_MODELS_CACHE": cache}
        before = dict(os.environ)
        os.environ.update(own)
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                return pool.submit(_measure, name).result()
        finally:
            os.environ.clear()
            os.environ.update(before)


@fast_float32(torch.device("cpu"))  # as in training
def _measure(name: str) -> Profile:
    torch.manual_seed(0)
    model = build_model(name)
    run = suite(model, random_batches(model, BATCH), "inductor", BOUNDS.get(name, (name, None))[1])
    run(3)  # compiles the step
    count, times, totals = max(int(TURN / run(10)), 1), [], dict[str, float]()
    for _ in range(ROUNDS):
        times.append(run(count))
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run(count)
        for event in profiler.key_averages():
            per_step = event.self_cpu_time_total / 1e3 / count / ROUNDS
            totals[event.key] = totals.get(event.key, 0.0) + per_step
    return Profile(statistics.median(times), totals, count_operations(name), matrix_product_rate())


def table(found: dict[str, Profile]) -> str:
    """The table of docs/cost.md."""
    head = ["model", *PARTS, "rest", "step, ms", "GFLOP/s"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, model in found.items():
        parts = model.parts()
        cells = [f"{time:.3f} ({time / model.step:.0%})" for time in parts.values()]
        rate = model.operations / parts["matrix products"] / 1e6
        cells += [f"{model.step:.3f}", f"{rate:.0f} of {model.best / 1e9:.0f}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
