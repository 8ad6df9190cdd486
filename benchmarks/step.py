"""A training step beside the same model by hand in plain torch, and beside plain pyro.infer.SVI.

python -m benchmarks.step              print the table
python -m benchmarks.step --write      put it into README.md, between its marks
python -m benchmarks.step --model hvae --model vae      of some models

Absolute times wobble from machine to machine and from minute to minute: the rivals are timed in turn, in one
process, on the same batch, and what counts is the ratio. Milliseconds are medians over the rounds. Memory is
what a process of its own grows by at its peak, in its first steps, as Linux counts it.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn

from benchmarks import by_hand, by_hand_codes, by_hand_colour
from inference.arithmetic import fast_float32
from inference.compare import example_inputs
from inference.errors import BadInput, run_command, unknown
from inference.estimators import ESTIMATORS, Loss
from inference.options import Parser, positive
from inference.svi import finite
from inference.table import write_readme
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

BATCH = 97
MARKS = "<!-- steps: made by python -m benchmarks.step --write -->", "<!-- end of steps -->"
Step = Callable[..., None]

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
COLOUR = ("conv_vae", "hvae", "fsvae", "gated_vae", "af_vae", "vqvae")  # at 3 x 32 x 32


def main(arguments: list[str]) -> int:
    """Time every model, print the table and, if asked, write it into the README."""
    parser = Parser(prog="python -m benchmarks.step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds", type=positive(int), default=15, metavar="N", help="alternations (default: 15)"
    )
    parser.add_argument(
        "--steps", type=positive(int), default=20, metavar="N", help="steps a turn (default: 20)"
    )
    about = "one of these alone; may be given again (default: all)"
    parser.add_argument("--model", action="append", metavar="NAME", help=about)
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    given = parser.parse_args(arguments)
    for name in given.model or ():
        if name not in MODELS:
            raise unknown("model", name, MODELS)
    if given.write and given.model:
        raise BadInput("--write is of the whole table: leave out --model")
    if given.rounds < 2:
        raise BadInput("--rounds 1 gives no spread: take 2 or more")
    fast_float32()  # as `fit` does; the rivals have it too
    head = "| model | step | ms | MiB | the suite's step takes | and memory |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for name in given.model or MODELS:
        rivals = contenders(name)
        slow = any(isinstance(part, nn.Conv2d | nn.Embedding) for part in made(name).modules())
        steps = -(-given.steps // 10) if slow else given.steps
        times = race(rivals, example_inputs(made(name), BATCH), given.rounds, steps)
        memory = {rival: grown(name, rival) for rival in rivals}
        for rival, measured in times.items():
            cells = [f"`{name}`", rival, f"{statistics.median(measured):.2f}", f"{memory[rival]:.0f}", "", ""]
            if rival != "the suite":
                cells[4] = f"{_ratio(times['the suite'], measured)} times as long"
                cells[5] = f"{memory['the suite'] / memory[rival]:.2f} times as much"
            lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if given.write:
        write_readme(MARKS, "\n".join(lines))
    return 0


def contenders(name: str) -> dict[str, Step]:
    """Every way to make a training step of a model: how it is written -> the step."""
    pyro.clear_param_store()  # where plain SVI keeps its parameters, under the same names for every model
    torch.manual_seed(0)
    steps: dict[str, Step] = {"the suite": suite(made(name))}
    if name == "gmvae":  # what its prior costs
        steps["the suite's `vae`"] = suite(made("vae"))
    for written, build in WRITTEN[name].items():
        steps[written] = plain(*build())
    return {**steps, "`pyro.infer.SVI`": svi(made(name))}


def made(name: str) -> LatentVariableModel:
    """The model on images of MNIST's size, of 32 x 32 in colour, or on maps of 8 x 8 codes."""
    cls = MODELS[name]
    return cls(cls.padded((3, 32, 32) if name in COLOUR else cls.example), 10)


def suite(model: LatentVariableModel) -> Step:
    """The step of `inference.svi.fit`."""
    loss = Loss(model, model.estimators[0])
    optimizer = adam(model.parameters())

    def step(**batch: Tensor) -> None:
        with pyro.validation_enabled(False):
            objective = loss(**batch)
        objective.backward()
        if finite(objective, model):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain(nets: list[nn.Module], loss: Callable[..., Tensor], lr: float = 1e-3) -> Step:
    """The step as one writes it in plain torch."""
    optimizer = adam((p for net in nets for p in net.parameters()), lr)

    def step(**batch: Tensor) -> None:
        optimizer.zero_grad()
        loss(**batch).backward()
        optimizer.step()

    return step


def svi(model: LatentVariableModel) -> Step:
    """The step as Pyro's tutorials write it: the parameter store, Pyro's Adam, validation as it comes."""

    def program(**batch: Tensor) -> None:
        pyro.module("model", model)
        model.model(**batch)

    elbo = ESTIMATORS[model.estimators[0]].elbo(1)
    step = pyro.infer.SVI(program, model.guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step
    return lambda **batch: step(**batch)


def adam(parameters: Iterable[nn.Parameter], lr: float = 1e-3) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def race(
    rivals: dict[str, Step], batch: dict[str, Tensor], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Milliseconds a step, each rival in turn in each round, after a round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds + 1):
        for name, step in rivals.items():
            began = time.perf_counter()
            for _ in range(steps):
                step(**batch)
            times[name].append((time.perf_counter() - began) / steps * 1e3)
    return {name: measured[1:] for name, measured in times.items()}


def grown(name: str, rival: str) -> float:
    """MiB by which a process of its own grows at its peak while it makes a few steps."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_grow, name, rival).result()


def _grow(name: str, rival: str) -> float:
    fast_float32()
    step, batch = contenders(name)[rival], example_inputs(made(name), BATCH)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now: see proc(5)
    before = _peak()
    for _ in range(3):
        step(**batch)
    return _peak() - before


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
