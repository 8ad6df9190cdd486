"""Times whole trainings: from the command to a result, and per step, next to scanned NumPyro.

python -m benchmarks.time_to_result vae --data-dir DIR

Everything is included: start, compilation, evaluation. The suite runs `python -m inference.svi` on MNIST,
once with an empty cache of compiled programs and then from the cache. NumPyro runs
`benchmarks/peers/training.py`, which scans many steps in one compiled call. Both have the same networks,
batches of 97, Adam with learning rate 0.001, fresh binarisation in every step, and an evaluation of the test
set every 1,000 steps. They take turns.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peer import PEERS, peers
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.data.load import load_dataset
from inference.data.observations import fixed_binarization
from inference.errors import UserError

TARGETS = {"vae": 100.5, "gmvae": 98.0}  # test -ELBO, in nats per image
STEPS, EVERY = 20_000, 1_000


def main(arguments: list[str]) -> int:
    """Runs both in turn and prints the table."""
    parser = Parser(prog="python -m benchmarks.time_to_result", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=list(TARGETS), help="the model")
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="where MNIST is")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds (3)")
    given = parser.parse_args(arguments)
    python = peers()
    if python is None:
        raise UserError("NumPyro cannot be installed, so there is nothing to compare with.")
    target, rows = TARGETS[given.model], dict[str, list[tuple[float, float]]]()
    with tempfile.TemporaryDirectory() as folder:
        file = write_arrays(Path(folder), given.data_dir)
        for number in range(given.rounds):
            for name, cache in (("suite, cold", f"cold-{number}"), ("suite, warm", "cold-0")):
                seconds, step = time_suite(given, target, Path(folder), Path(folder) / cache)
                rows.setdefault(name, []).append((seconds, step))
            command = [python, PEERS / "training.py", given.model, file, STEPS, EVERY, target]
            rows.setdefault("NumPyro, scanned", []).append(time_numpyro([str(part) for part in command]))
    print(f"| {given.model} to -ELBO {target} | seconds | ms per step |", "|---|---|---|", sep="\n")
    for name, found in rows.items():
        to_target, per_step = zip(*found, strict=True)
        print(f"| {name} | {summary(to_target, 1)} | {summary(per_step, 3)} |")
    return 0


def write_arrays(folder: Path, data_dir: Path) -> Path:
    """Writes MNIST for NumPyro: training levels, and the test images with the suite's fixed noise."""
    data = load_dataset("mnist", data_dir)
    file = folder / "mnist.npz"
    test = fixed_binarization(data.x_test).flatten(1).numpy()
    np.savez(file, x_train=data.x_train.flatten(1).numpy(), x_test=test)
    return file


def time_suite(given: object, target: float, folder: Path, cache: Path) -> tuple[float, float]:
    """Runs the suite's command until its test -ELBO is at most the target.

    Returns:
        Seconds from the start of the command until the evaluation was written, and milliseconds per step
        between log lines without an evaluation in between (median).
    """
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    model, data_dir = vars(given)["model"], vars(given)["data_dir"]
    command = [sys.executable, "-m", "inference.svi", "--model", model, "--data", "mnist"]
    command += ["--data-dir", data_dir, "--steps", STEPS, "--run-dir", run]  # evaluates 20 times
    environment = {
        **os.environ,
        "PPL_MODELS_CACHE": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
    }
    began = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], env=environment, stdout=subprocess.DEVNULL)
    file, seconds = run / "metrics.jsonl", None
    lines: list[dict] = []
    while seconds is None and process.poll() is None:
        time.sleep(0.02)
        if file.exists():
            whole = file.read_text().rpartition("\n")[0]
            lines = [json.loads(line) for line in whole.splitlines()]
        if any(line["split"] == "test" and line["negative_elbo"] <= target for line in lines):
            seconds = time.perf_counter() - began
    process.terminate()
    process.wait()
    if seconds is None:
        raise UserError(f"the suite did not reach {target} in {STEPS} steps")
    logged = [line for line in lines if line["split"] == "train"]
    steps = [
        (b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) * 1e3
        for a, b in itertools.pairwise(logged)
        if a["step"] // EVERY == b["step"] // EVERY and a["step"] > EVERY and a["step"] % EVERY
    ]
    return seconds, statistics.median(steps)


def time_numpyro(command: list[str]) -> tuple[float, float]:
    """Runs the training in NumPyro. Returns seconds from the start, and milliseconds per step."""
    began = time.perf_counter()
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    seconds = time.perf_counter() - began
    step, value = lines[-2].split()
    if float(value) > float(command[-1]):
        raise UserError(f"NumPyro did not reach {command[-1]} in {step} steps, but {value}")
    return seconds, float(lines[-1].split()[-1])


def summary(values: Sequence[float], digits: int) -> str:
    """The median, and the smallest and largest value."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    run_command(main)
