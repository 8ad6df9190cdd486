"""One training step beside the same model by hand in plain torch, and beside plain pyro.infer.SVI.

python -m benchmarks.step              print the table
python -m benchmarks.step --write      put it into README.md, between its marks

Absolute times wobble from machine to machine and from minute to minute: the three are timed in turn, in one
process, on the same batch, and what counts is the ratio. Milliseconds are medians over the rounds.
"""

import statistics
import time
from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from benchmarks import by_hand
from inference.compare import example_inputs
from inference.errors import run_command
from inference.estimators import ESTIMATORS, Loss
from inference.options import Parser, positive
from inference.table import write_readme
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

BATCH = 97
MARKS = "<!-- steps: made by python -m benchmarks.step --write -->", "<!-- end of steps -->"
Step = Callable[..., None]


def main(arguments: list[str]) -> int:
    """Time every model, print the table and, if asked, write it into the README."""
    parser = Parser(prog="python -m benchmarks.step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds", type=positive(int), default=9, metavar="N", help="alternations (default: 9)"
    )
    parser.add_argument(
        "--steps", type=positive(int), default=20, metavar="N", help="steps a turn (default: 20)"
    )
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    given = parser.parse_args(arguments)
    lines = [
        "| step, ms | suite | by hand | `pyro.infer.SVI` | suite / by hand | `pyro.infer.SVI` / by hand |",
        "|---|---|---|---|---|---|",
    ]
    for name, cls in MODELS.items():
        torch.manual_seed(0)
        model = cls((1, 28, 28), 10)
        rivals = {"suite": suite(model), "hand": by_hand.MODELS[name](), "svi": svi(cls((1, 28, 28), 10))}
        times = race(rivals, example_inputs(model, BATCH), given.rounds, given.steps)
        cells = [f"{statistics.median(measured):.2f}" for measured in times.values()]
        cells += [_ratio(times, "suite"), _ratio(times, "svi")]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    print("\n".join(lines))
    if given.write:
        write_readme(MARKS, "\n".join(lines))
    return 0


def suite(model: LatentVariableModel) -> Step:
    """The step of `inference.svi.fit`."""
    loss = Loss(model, model.estimators[0])
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)

    def step(**batch: Tensor) -> None:
        with pyro.validation_enabled(False):
            objective = loss(**batch)
        objective.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def svi(model: LatentVariableModel) -> Step:
    """The step as Pyro's tutorials write it: the parameter store, Pyro's Adam, validation as it comes."""

    def program(**batch: Tensor) -> None:
        pyro.module("model", model)
        model.model(**batch)

    elbo = ESTIMATORS[model.estimators[0]].elbo()
    step = pyro.infer.SVI(program, model.guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step
    return lambda **batch: step(**batch)


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


def _ratio(times: dict[str, list[float]], name: str) -> str:
    """The median of the rounds' ratios to the step by hand, and their quartiles."""
    ratios = [a / b for a, b in zip(times[name], times["hand"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    run_command(main)
