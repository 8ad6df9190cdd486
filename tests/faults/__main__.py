"""Tries every kind of fault, and prints the number of trials and of failures.

python -m tests.faults                     all kinds, all trials: about half an hour on two cores
python -m tests.faults --only kills races  some kinds
python -m tests.faults --fraction 0.1      a tenth of the trials of each kind

Each run is a process forked from this one. The data are scikit-learn's digits, and MNIST if --data-dir has
it. The exit status is 1 if a trial failed. Linux and macOS only.
"""

import tempfile
import time
from pathlib import Path

from inference.cli.entry import run_command
from inference.cli.parser import DATA_DIR, Parser
from inference.errors import unknown
from inference.rundir.kinds import POSITIVE

from . import command_lines, disks, files, kills, races, sandbox

KINDS = {
    "kills": kills.kill_at_random_times,
    "writes": kills.kill_while_writing,
    "disks": disks.fail_writes,
    "races": races.start_two_runs,
    "commands": command_lines.give_invalid_commands,
    "files": files.damage_files,
    "hostile": files.give_hostile_files,
}


def main(arguments: list[str]) -> int:
    """Prints one line per kind of fault, and one line per failure."""
    parser = Parser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument(
        "--fraction", type=POSITIVE.parse, default=1.0, metavar="F", help="of the trials (default: 1)"
    )
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="where MNIST is")
    given = parser.parse_args(arguments)
    failures = 0
    for kind in given.only:
        if kind not in KINDS:
            raise unknown("kind of fault", kind, KINDS)
    with tempfile.TemporaryDirectory() as folder:
        sandbox.warm(Path(folder), pictures=given.fraction >= 0.1)
    for kind in given.only:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            report = KINDS[kind](Path(folder).resolve(), given.fraction, given.data_dir.resolve())
        print(f"{kind}: {report.summary}, {report.trials} trials, {len(report.failures)} failures", end="")
        print(f" ({time.perf_counter() - start:.0f} s)", flush=True)
        for failure in report.failures:
            print(f"    {failure}", flush=True)
        failures += len(report.failures)
    return 1 if failures else 0


if __name__ == "__main__":
    run_command(main)
