"""A training step beside the same model by hand in plain torch, beside pyro.infer.SVI, and beside NumPyro.

python -m benchmarks.step              print the table
python -m benchmarks.step --write      put it into docs/cost.md, and the times into step.json
python -m benchmarks.step --model hvae --model vae      of some models; with --write their rows alone are new

Absolute times wobble from machine to machine and from minute to minute: the rivals are timed in turn, in one
run, on a batch of the same shape, and what counts is the ratio. Milliseconds are medians over the rounds.
Pyro runs without its validation, in the suite's step and in plain SVI.
By hand it is also given to torch.compile. NumPyro has an environment of its own, .peers/, which this command
makes; where that cannot be, it is left out. The arithmetic alone is what the operations of the suite's matrix
products and convolutions, counted, would take at the best rate that a product of 1 024 x 1 024 reached in any
library of the run. Memory is what a process of its own grows by at its peak, once it has made a few steps.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import pyro
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import COST, by_hand, by_hand_codes, by_hand_colour
from benchmarks.peer import Peer, peers
from inference.backend.device import fast_float32
from inference.cli.options import Parser, positive
from inference.compare import example_inputs
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.errors import UserError, run_command, unknown
from inference.rundir.files import write_whole
from inference.training.gradients import Gradients
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from tools.table import write_between

BATCH = 97
MARKS = "<!-- steps: made by python -m benchmarks.step --write -->", "<!-- end of steps -->"
TIMES = Path(__file__).with_name("step.json")
SUITE, SVI, NUMPYRO = "the suite", "`pyro.infer.SVI`, validation off", "NumPyro"
Step = Callable[..., None]
Turn = Callable[[int], float]  # so many steps -> milliseconds a step

# What each model is measured against: how it is written -> the function that writes it.
WRITTEN: dict[str, dict[str, Callable[[], by_hand.Written]]] = {
    "vae": {"by hand": by_hand.vae},
    "gmvae": {"by hand": by_hand.gmvae},
    "ssvae": {"by hand, x tiled": by_hand.ssvae, "by hand, x once": by_hand.ssvae_split},
    "ae": {"by hand": by_hand.ae},
    "beta_vae": {"by hand": by_hand.beta_vae},
    "conv_vae": {"by hand": by_hand_colour.conv_vae},
    "hvae": {"by hand": by_hand_colour.hvae},
    "fsvae": {"by hand": by_hand_colour.fsvae},
    "gated_vae": {"by hand": by_hand_colour.gated_vae},
    "af_vae": {"by hand": by_hand_codes.af_vae},
    "pixel_vae": {"by hand": by_hand_codes.pixel_vae},
    "vqvae": {"by hand": by_hand_codes.vqvae},
    "code_pixelcnn": {"by hand": by_hand_codes.code_pixelcnn},
    "code_transformer": {"by hand": by_hand_codes.code_transformer},
    "ppca": {"by hand": by_hand.ppca},
    "vae2d": {"by hand": by_hand.vae2d},
    "flow": {"by hand": by_hand.flow},
    "made": {"by hand": by_hand.made},
}
IN_NUMPYRO = ("vae", "gmvae", "ssvae", "ppca", "vae2d", "conv_vae")
COLOUR = ("conv_vae", "hvae", "fsvae", "gated_vae", "af_vae", "vqvae")  # at 3 x 32 x 32


@fast_float32(torch.device("cpu"))  # as in training; the rivals have it too
def main(arguments: list[str]) -> int:
    """Time every model, print the table and, if asked, write it into docs/cost.md."""
    parser = Parser(prog="python -m benchmarks.step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds", type=positive(int), default=9, metavar="N", help="alternations (default: 9)"
    )
    parser.add_argument(
        "--steps", type=positive(int), default=20, metavar="N", help="steps a turn (default: 20)"
    )
    about = "one of these alone; may be given again (default: all)"
    parser.add_argument("--model", action="append", metavar="NAME", help=about)
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    for name in given.model or ():
        if name not in WRITTEN:
            raise unknown("model", name, WRITTEN)
    if given.rounds < 2:
        raise UserError("--rounds 1 gives no spread: take 2 or more")
    python = peers()
    products = {"torch": product()}
    if python:
        with Peer(python) as peer:
            products["NumPyro"] = peer.ask("product")
    found: dict[str, dict[str, Any]] = {}
    for name in given.model or WRITTEN:
        found[name] = {"threads": torch.get_num_threads(), "products": products}
        found[name] |= measured(name, given.rounds, given.steps, python)
        print(table({name: found[name]}), file=sys.stderr, flush=True)
    print(table(found))
    if given.write:
        found = (json.loads(TIMES.read_text()) if TIMES.exists() else {}) | found
        found = {name: found[name] for name in WRITTEN if name in found}
        write_whole(TIMES, (json.dumps(found, indent=1) + "\n").encode())
        write_between(COST, MARKS, table(found))
    return 0


def measured(name: str, rounds: int, steps: int, python: Path | None) -> dict[str, Any]:
    """Times, memory and operations of every way to make a model's step."""
    batch = example_inputs(made(name), BATCH)
    slow = any(isinstance(part, nn.Conv2d | nn.Embedding) for part in made(name).modules())
    with ExitStack() as held:
        steppers = contenders(name)
        turns = {rival: turn(step, batch) for rival, step in steppers.items()}
        if python and name in IN_NUMPYRO:
            peer = held.enter_context(Peer(python))
            peer.ask(name)
            turns[NUMPYRO] = peer.steps
        times = race(turns, rounds, -(-steps // 10) if slow else steps)
    return {
        "operations": operations(name, batch),
        "times": times,
        "memory": {rival: grown(name, rival) for rival in steppers},
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """The table of docs/cost.md, from what was measured of each model."""
    head = "| model | step | ms | the suite's step takes | MiB |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for name, model in found.items():
        times, ours = model["times"], model["times"][SUITE]
        for rival, its in times.items():
            ratio = "" if rival == SUITE else f"{_ratio(ours, its)} times as long"
            memory = f"{model['memory'][rival]:.0f}" if rival in model["memory"] else ""
            lines.append(f"| `{name}` | {rival} | {statistics.median(its):.2f} | {ratio} | {memory} |")
        library, rate = max(model["products"].items(), key=lambda item: item[1])
        floor = model["operations"] / rate * 1e3
        ratio = f"{statistics.median(ours) / floor:.2f} times as long"
        words = f"the arithmetic alone, at {library}'s {rate / 1e9:.0f} GFLOP/s"
        lines.append(f"| `{name}` | {words} | {floor:.2f} | {ratio} | |")
    return "\n".join(lines)


def contenders(name: str, mode: str = "inductor", compiled: bool = True) -> dict[str, Step]:
    """Every mode in torch to make a training step of a model: how it is written -> the step."""
    pyro.clear_param_store()  # where plain SVI keeps its parameters, under the same names for every model
    torch.manual_seed(0)
    steps: dict[str, Step] = {SUITE: suite(made(name), mode)}
    if name == "gmvae":  # what its prior costs
        steps["the suite's `vae`"] = suite(made("vae"), mode)
    for written, build in WRITTEN[name].items():
        steps[written] = plain(*build())
        if compiled:
            nets, loss, *rate = cast(tuple[Any, ...], build())
            steps[f"{written}, `torch.compile`"] = plain(nets, torch.compile(loss), *rate)
    return {**steps, SVI: svi(made(name))}


def made(name: str) -> LatentVariableModel:
    """The model on images of MNIST's size, of 32 x 32 in colour, or on maps of 8 x 8 codes."""
    cls = MODELS[name]
    return cls(cls.padded((3, 32, 32) if name in COLOUR else cls.example_shape), 10)


def suite(
    model: LatentVariableModel, mode: str, estimator: str | None = None, particles: int | None = None
) -> Step:
    """The step of `inference.svi.fit`."""
    gradients = Gradients(Loss(model, estimator or model.estimators[0], particles), mode)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(**batch: Tensor) -> None:
        _, good, _ = gradients(batch)
        if good:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain(nets: list[nn.Module], loss: Callable[..., Tensor], lr: float = 1e-3) -> Step:
    """The step as one writes it in plain torch."""
    optimizer = torch.optim.Adam((p for net in nets for p in net.parameters()), lr=lr, fused=True)

    def step(**batch: Tensor) -> None:
        optimizer.zero_grad()
        loss(**batch).backward()
        optimizer.step()

    return step


def svi(model: LatentVariableModel) -> Step:
    """The step as Pyro's tutorials write it: the parameter store and Pyro's Adam; without validation."""

    def program(**batch: Tensor) -> None:
        pyro.module("model", model)
        model.model(**batch)

    elbo = ESTIMATORS[model.estimators[0]].elbo(1)
    step = pyro.infer.SVI(program, model.guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step

    def unchecked(**batch: Tensor) -> None:
        with pyro.validation_enabled(False):
            step(**batch)

    return unchecked


def turn(step: Step, batch: dict[str, Tensor]) -> Turn:
    """So many steps of one rival, timed."""

    def make(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            step(**batch)
        return (time.perf_counter() - began) / steps * 1e3

    return make


def race(turns: dict[str, Turn], rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds a step, each rival in turn in each round, after a round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, make in turns.items():
            times[name].append(make(steps))
    return {name: measured[1:] for name, measured in times.items()}


def product() -> float:
    """Operations a second in a product of 1 024 x 1 024 matrices, the best of ten turns."""
    a, best = torch.randn(1024, 1024), float("inf")
    for _ in range(11):
        began = time.perf_counter()
        for _ in range(5):
            a @ a
        best = min(best, (time.perf_counter() - began) / 5)
    return 2 * 1024**3 / best


def operations(name: str, batch: dict[str, Tensor]) -> int:
    """Operations of the matrix products and convolutions in one step of the suite."""
    model = made(name)
    gradients = Gradients(Loss(model, model.estimators[0]))
    with FlopCounterMode(display=False) as counter:
        gradients(batch)
    return counter.get_total_flops()


def grown(name: str, rival: str) -> float:
    """MiB by which a process of its own grows at its peak while it makes a few steps more."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_grow, name, rival).result()


def _grow(name: str, rival: str) -> float:
    step, batch = contenders(name)[rival], example_inputs(made(name), BATCH)
    for _ in range(2):  # what is made once is made
        step(**batch)
    peak = peak_from_now()
    for _ in range(3):
        step(**batch)
    return peak()


def peak_from_now() -> Callable[[], float]:
    """What is free is given back. Then a function tells by how many MiB the process has grown at most."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now: see proc(5)
    before = _peak()
    return lambda: _peak() - before


def _peak() -> float:
    """The most memory that this process has had at once, in MiB, as Linux keeps count of it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def _ratio(ours: list[float], theirs: list[float]) -> str:
    """The median of the rounds' ratios, and their quartiles."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    run_command(main)
