"""Compares the training throughput of one process on all cores and of one process per core.

python -m benchmarks.processes             print the table
python -m benchmarks.processes --write     write it into docs/cost.md, between its marks

Both train with the same global batch size, on random images, by the main command, alternately. The time is
the difference between the first and the last line of metrics.jsonl.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from subprocess import DEVNULL, run

import numpy as np

from benchmarks import COST
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from tools.table import write_between

MARKS = "<!-- processes: made by python -m benchmarks.processes --write -->", "<!-- end of processes -->"
CORES = os.cpu_count() or 1
ROUNDS, STEPS = 3, 400
CASES = (("ssvae", 97), ("vae", 970))


def main(arguments: list[str]) -> int:
    """Times every case, prints the table and, with `--write`, writes it into docs/cost.md."""
    parser = Parser(prog="python -m benchmarks.processes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    head = f"| model | global batch size | images per second, 1 process | {CORES} processes | speed-up |"
    lines = [head, "|---" * 5 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "random.npz"
        noise = np.random.RandomState(0)
        x = noise.randint(0, 256, (10_100, 28, 28), dtype=np.uint8)
        y = np.arange(len(x)) % 10
        np.savez(data, x_train=x[:10_000], y_train=y[:10_000], x_test=x[10_000:], y_test=y[10_000:])
        for model, batch in CASES:
            rates: dict[int, list[float]] = {1: [], CORES: []}
            for number in range(ROUNDS):
                for processes, found in rates.items():
                    run_dir = Path(folder) / f"{model}-{batch}-{number}-{processes}"
                    found.append(throughput(model, batch, processes, data, run_dir))
            one, several = rates.values()
            ratios = [b / a for a, b in zip(one, several, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells = [f"`{model}`", str(batch), *(f"{statistics.median(each):.0f}" for each in (one, several))]
            lines.append(f"| {' | '.join(cells)} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
            print(lines[-1], flush=True)
    if given.write:
        write_between(COST, MARKS, "\n".join(lines))
    return 0


def throughput(model: str, batch: int, processes: int, data: Path, run_dir: Path) -> float:
    """Trains a model and returns images per second."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    options = ["--model", model, "--data", str(data), "--batch-size", str(batch), "--steps", str(STEPS)]
    options += ["--compile", "inductor", "--run-dir", str(run_dir)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "inference.svi", *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(CORES // processes)}
    run(command, env=environment, check=True, stdout=DEVNULL, stderr=DEVNULL)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    times = {line["step"]: line["seconds"] for line in lines if line["split"] == "train"}
    first, last = min(times), max(times)
    return (last - first) * batch / (times[last] - times[first])


if __name__ == "__main__":
    run_command(main)
