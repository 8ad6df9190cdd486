"""Times whole trainings: from the command to a result, and per step, next to other implementations.

python -m benchmarks.time_to_result vae --data-dir DIR
python -m benchmarks.time_to_result vae gmvae ssvae --data-dir DIR --rounds 3 --write

Everything is included: start, compilation, evaluation. The suite runs `python -m inference.svi`, once with an
empty cache of compiled programs and once from the cache. NumPyro runs `benchmarks/peers/training.py`, which
scans many steps in one compiled call; plain PyTorch under `torch.compile` and Pyro's SVI run
`benchmarks/torch_training.py`. All have the same networks, data, batch size, noise in the observations, Adam
with learning rate 0.001, and evaluate the test set as often. They take turns. `conv_vae` trains on an .npz
file of SVHN in DIR.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import COST
from benchmarks.peer import PEERS, peers
from inference.backend.files import write_whole
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.data.dataset import Dataset
from inference.data.labelled import choose_labelled
from inference.data.load import load_dataset
from inference.data.observations import centred, fixed_binarization
from inference.errors import UserError
from inference.rundir.kinds import COUNT
from tools.table import write_between

MARKS = "<!-- results: made by python -m benchmarks.time_to_result --write -->", "<!-- end of results -->"


class Goal(NamedTuple):
    """A training and its goal.

    Attributes:
        data: name of the data set, or of a file in the data folder.
        batch_size: images per step.
        steps: after these a training without the result fails.
        bound: what the test set's bound must be at most. If it is infinite, all steps are the goal: the noise
            of one sample per point hides the last improvements.
        accuracy: what its accuracy must be at least, if the model classifies.
        metric: name of the bound in the suite.
        scanned: whether NumPyro trains to the goal. Otherwise a few of its steps are timed.
    """

    data: str
    batch_size: int
    steps: int
    bound: float
    accuracy: float = 0.0
    metric: str = "negative_elbo"
    scanned: bool = True


GOALS = {
    "vae": Goal("mnist", 97, 20_000, 100.5),
    "gmvae": Goal("mnist", 97, 20_000, 98.0),
    "ssvae": Goal("mnist", 97, 30_000, 94.0, 0.9),
    "vae2d": Goal("gauss-full-1", 128, 8_000, math.inf),
    # The convolutions of JAX on a CPU take seconds per step.
    "conv_vae": Goal("svhn_10k.npz", 128, 4_690, 86.0, metric="squared_error_and_kl", scanned=False),
}
TIMES = Path(__file__).with_name("time_to_result.json")
Result = tuple[float | None, float]  # seconds to the goal, if it was reached, and milliseconds per step


def main(arguments: list[str]) -> int:
    """Runs all in turn, and prints the table or, with `--write`, writes it into docs/cost.md."""
    given = _arguments(arguments)
    python, found = peers(), dict[str, dict[str, list[Result]]]()
    for name in given.models:
        found[name] = {}
        with tempfile.TemporaryDirectory() as folder:
            file = write_arrays(name, Path(folder), given.data_dir)
            for number in range(given.rounds):
                measure(name, given.data_dir, Path(folder), file, number, python, found[name])
        print(table({name: found[name]}), flush=True)
    if given.write:
        found = (json.loads(TIMES.read_text()) if TIMES.exists() else {}) | found
        found = {name: found[name] for name in GOALS if name in found}
        write_whole(TIMES, (json.dumps(found, indent=1) + "\n").encode())
        write_between(COST, MARKS, table(found))
    return 0


def _arguments(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(prog="python -m benchmarks.time_to_result", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", choices=list(GOALS), help="the models")
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="where the data are")
    parser.add_argument("--rounds", type=COUNT.parse, default=3, metavar="N", help="rounds (default: 3)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    return parser.parse_args(arguments)


def measure(
    name: str,
    data_dir: Path,
    folder: Path,
    file: Path,
    number: int,
    python: Path | None,
    rows: dict[str, list[Result]],
) -> None:
    """Runs a round of a model, and adds the results to the rows."""
    goal = GOALS[name]
    every = goal.steps // 20  # the suite evaluates so often
    for kind, cache in (("suite, empty cache", f"{number}"), ("suite", "0")):
        rows.setdefault(kind, []).append(time_suite(name, data_dir, folder, folder / cache))
    goals = [every, -math.inf if math.isinf(goal.bound) else goal.bound, goal.accuracy]
    if python:
        numbers = [goal.steps, *goals] if goal.scanned else [20, 10, *goals[1:]]
        command = [python, PEERS / "training.py", name, file, *numbers]
        rows.setdefault("NumPyro, scanned", []).append(time_peer(command, goal))
    for how in ("torch.compile", "max-autotune", "SVI"):
        command = [sys.executable, "-m", "benchmarks.torch_training", how, name, data_dir]
        kind = "`pyro.infer.SVI`" if how == "SVI" else f"plain PyTorch, `{how}`"
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(folder / f"{how}-{number}")}
        rows.setdefault(kind, []).append(time_peer(command, goal, environment))


def load(name: str, data_dir: Path) -> Dataset:
    """Loads the data of a model's training."""
    data = GOALS[name].data
    return load_dataset(str(data_dir / data) if data.endswith(".npz") else data, data_dir)


def write_arrays(name: str, folder: Path, data_dir: Path) -> Path:
    """Writes the data for NumPyro, with the suite's own noise in the test set."""
    goal, file, data = GOALS[name], folder / "data.npz", load(name, data_dir)
    arrays: dict[str, Any] = {"batch_size": goal.batch_size, "noisy": goal.data == "mnist"}
    if name == "conv_vae":
        arrays |= {"x_train": centred(data.x_train[:]), "x_test": centred(data.x_test[:])}
    elif name == "vae2d":
        arrays |= {"x_train": data.x_train, "x_test": data.x_test}
    else:
        x_test = fixed_binarization(data.x_test[:]).flatten(1)
        arrays |= {"x_train": data.x_train[:].flatten(1), "x_test": x_test}
    if name == "ssvae":
        assert data.y_train is not None
        chosen = choose_labelled(data, 100, seed=0)
        arrays |= {"x_labelled": data.x_train[chosen].flatten(1), "y_labelled": data.y_train[chosen]}
        arrays |= {"levels_test": data.x_test[:].flatten(1), "y_test": data.y_test}
    np.savez(file, **arrays)
    return file


def time_suite(name: str, data_dir: Path, folder: Path, cache: Path) -> Result:
    """Runs the suite's command until the test set's bound and accuracy reach the goal.

    Returns:
        Seconds from the start of the command until the evaluation was written, and milliseconds per step
        between log lines without an evaluation in between (median).
    """
    goal, run = GOALS[name], Path(tempfile.mkdtemp(dir=folder)) / "run"
    data = data_dir / goal.data if goal.data.endswith(".npz") else goal.data
    command: list[object] = [sys.executable, "-m", "inference.svi", "--model", name, "--data", data]
    command += ["--data-dir", data_dir, "--run-dir", run, "--steps", goal.steps, "--seed", 0]
    command += ["--batch-size", goal.batch_size, "--lr", 0.001, "--schedule", "constant"]
    environment = {"PPL_MODELS_CACHE": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    file, seconds, read = run / "metrics.jsonl", None, 0
    lines: list[dict[str, Any]] = []
    while seconds is None and process.poll() is None:
        time.sleep(0.1)
        size = file.stat().st_size if file.exists() else 0
        if size == read:  # parsing takes time from the training
            continue
        whole, read = file.read_text().rpartition("\n")[0], size
        lines = [json.loads(line) for line in whole.splitlines()]
        tests = [line for line in lines if line["split"] == "test"]
        if any(reached(goal, line["step"], line[goal.metric], line.get("accuracy", 1.0)) for line in tests):
            seconds = time.perf_counter() - began
    process.terminate()
    process.wait()
    if not lines:
        raise UserError(f"the suite's training of {name} failed. Run: {' '.join(map(str, command))}")
    every, logged = goal.steps // 20, [line for line in lines if line["split"] == "train"]
    steps = [
        (b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) * 1e3
        for a, b in itertools.pairwise(logged)
        if a["step"] // every == b["step"] // every and a["step"] > 500 and a["step"] % every
    ]
    return seconds, statistics.median(steps)


def time_peer(command: Sequence[object], goal: Goal, environment: dict[str, str] | None = None) -> Result:
    """Runs another implementation's training. Returns seconds from the start, and milliseconds per step."""
    began = time.perf_counter()
    parts = [str(part) for part in command]
    done = subprocess.run(parts, capture_output=True, text=True, env=os.environ | (environment or {}))
    seconds = time.perf_counter() - began
    if done.returncode:
        raise UserError(f"a peer failed: {' '.join(parts)}: {done.stderr.strip().splitlines()[-1]}")
    *_, evaluation, last = done.stdout.splitlines()
    step, bound, accuracy = (float(value) for value in evaluation.split())
    return (seconds if reached(goal, step, bound, accuracy) else None), float(last.split()[-1])


def reached(goal: Goal, step: float, bound: float, accuracy: float) -> bool:
    """Whether an evaluation is the goal."""
    if math.isinf(goal.bound):
        return step == goal.steps
    return bound <= goal.bound and accuracy >= goal.accuracy


def table(found: dict[str, dict[str, list[Result]]]) -> str:
    """The table of docs/cost.md."""
    lines = ["| training | implementation | seconds to the result | ms per step |", "|---|---|---|---|"]
    for name, rows in found.items():
        goal = GOALS[name]
        accuracy = f" and {goal.accuracy:.0%} accuracy" if goal.accuracy else ""
        end = f"to {goal.metric.replace('_', ' ')} {goal.bound:g}{accuracy}"
        title = f"`{name}` {f'for {goal.steps:,} steps' if math.isinf(goal.bound) else end}"
        for kind, results in rows.items():
            times, steps = zip(*results, strict=True)
            within = [seconds for seconds in times if seconds is not None]
            missed = f"reached in {len(within)} of {len(times)} runs"
            seconds = summary(within, 1) if len(within) == len(times) else missed
            lines.append(f"| {title} | {kind} | {seconds} | {summary(steps, 3)} |")
    return "\n".join(lines)


def summary(values: Sequence[float], digits: int) -> str:
    """The median, and the smallest and largest value if there are several."""
    middle = f"{statistics.median(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else middle


if __name__ == "__main__":
    run_command(main)
