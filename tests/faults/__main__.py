"""Try every fault, and say how often, what was asked of it, and what came out.

python -m tests.faults                     all, at full length: about half an hour on two cores
python -m tests.faults --only kills races  some of them
python -m tests.faults --share 0.1         a tenth of each

Runs are processes of their own, forked from this one; data are scikit-learn's digits, and MNIST with
--data-dir. Returns 1 where anything went otherwise than it should. Linux and macOS.
"""

import tempfile
import time
from pathlib import Path

from inference.cli.options import DATA_DIR, Parser, positive
from inference.errors import run_command, unknown

from . import disks, files, kills, races, sandbox, words

KINDS = {
    "kills": kills.at_random,
    "writes": kills.inside_the_writing,
    "disks": disks.that_fail,
    "races": races.on_one_folder,
    "words": words.that_make_no_sense,
    "files": files.that_are_damaged,
    "hostile": files.that_are_hostile,
}


def main(arguments: list[str]) -> int:
    """Print a line for every kind of fault: how many were tried, and each that went wrong."""
    parser = Parser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--share", type=positive(float), default=1.0, metavar="SHARE", help="(default: 1)")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="where MNIST is")
    given = parser.parse_args(arguments)
    failed = 0
    for kind in given.only:
        if kind not in KINDS:
            raise unknown("kind of fault", kind, KINDS)
    for kind in given.only:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            sandbox.warm(Path(folder))
            found = KINDS[kind](Path(folder).resolve(), given.share, given.data_dir.resolve())
        print(f"{kind}: {found.said}, {found.tried} tried, {len(found.wrong)} went wrong", end="")
        print(f" ({time.perf_counter() - began:.0f} s)", flush=True)
        for complaint in found.wrong:
            print(f"    {complaint}", flush=True)
        failed += len(found.wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
