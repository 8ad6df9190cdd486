"""Makes small mistakes in the code, one at a time, and counts those that no test notices.

python -m tools.mutants                                    300 mistakes in each package, from seed 0
python -m tools.mutants inference/elbo --sample 25         fewer, in one package
python -m tools.mutants ppl_models/vae.py --sample 10000   all mistakes of a file
python -m tools.mutants --tests tests/elbo tests/training  with these tests only

A mistake is, for example, `<` for `<=`, a condition that is negated, a number plus one, a call or an argument
that is left out. Each one is tried with the tests that execute the changed statement, in a copy of the
project, and the first failing test ends the trial. A first run of all tests under coverage finds out which
tests these are. Its result is kept in build/mutants/ until a file changes. Linux and macOS only.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before the libraries are imported
    os.environ[variable] = "1"
os.environ["COVERAGE_CORE"] = "ctrace"  # the one that can tell tests apart

from tools.mutants import covering, trials  # noqa: E402
from tools.mutants.mutations import Mutation, files, mutations  # noqa: E402

PACKAGES = ["ppl_models", "inference/training", "inference/elbo", "inference/data", "inference/metrics"]
PACKAGES += ["inference/rundir"]
CODE = ["ppl_models", "inference"]  # the folders whose lines the map has
Z = 1.959964  # of a 95 % interval
HEAD = (
    "| package | possible mistakes | tried | noticed | by a timeout | share | 95 % interval |\n"
    "|---|---|---|---|---|---|---|"
)


def main(arguments: Sequence[str]) -> int:
    """Tries the mistakes, and prints those that no test notices and a table. Returns the exit status."""
    given = parse(arguments)
    trials.load_libraries()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PPL_MODELS_CACHE"] = f"{folder}/cache"
        copy = trials.copy_project(ROOT, Path(folder))
        known = covered(copy, given.tests)
        rows = [HEAD]
        for package in given.packages:
            possible, chosen = sample(ROOT, package, given.sample, given.seed)
            found = Counter[str]()
            for number, mutation in enumerate(chosen, 1):
                tests = known.tests(mutation, given.seconds)
                seconds = sum(known.seconds[test] for test in tests)
                result = trials.outcome(copy, mutation, tests, seconds)
                found[result] += 1
                print(f"{number}/{len(chosen)} {result}, {len(tests)} tests: {mutation}", flush=True)
            rows.append(row(package, possible, found))
            print(f"\n{HEAD}\n{rows[-1]}\n", flush=True)
    print("\n".join(rows))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("packages", nargs="*", default=PACKAGES, metavar="PATH", help=f"default: {' '.join(PACKAGES)}")
    add("--sample", type=int, default=300, metavar="N", help="mistakes in each (default: 300)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the sample (default: 0)")
    add("--tests", nargs="+", default=["tests"], metavar="PATH", help="tests to choose from (default: all)")
    about = "CPU seconds of the tests of one mistake at most (default: 120)"
    add("--seconds", type=float, default=120, metavar="S", help=about)
    given = parser.parse_args(arguments)
    if given.sample < 1 or given.seconds <= 0:
        parser.error("--sample and --seconds are above zero.")
    for path in (*given.packages, *given.tests):
        if not (ROOT / path).exists():
            parser.error(f"there is no {path} in {ROOT}. Name a folder or a file of the project.")
    return given


def covered(copy: Path, tests: Sequence[str]) -> covering.Map:
    """Returns which tests execute each line, from the file of an earlier call if nothing has changed.

    Args:
        copy: of the project.
        tests: files and folders of tests.
    """
    kept = ROOT / "build" / "mutants" / f"{covering.digest(ROOT, [*CODE, 'tests'], tests)}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        print(f"running {' '.join(tests)} once, to find out which test executes which line", flush=True)
        log = kept.with_suffix(".log")
        work = lambda: covering.record(copy, CODE, [*trials.PYTEST, *tests], kept)  # noqa: E731
        trials.forked(copy, log, 24 * 3600, work)
        if not kept.exists():
            sys.exit(f"error: the tests did not run to their end. See {log}.")
    content = json.loads(kept.read_bytes())
    for test in content["failed"]:
        print(f"left out, since it fails or is skipped without a mistake: {test}")
    print(f"{len(content['seconds'])} tests, recorded {covering.age(kept)}", flush=True)
    return covering.Map(content)


def sample(root: Path, package: str, size: int, seed: int) -> tuple[int, list[Mutation]]:
    """Returns the number of possible mistakes in a package, and a sample of them without repetition.

    Args:
        root: the folder of the project.
        package: a folder or a file.
        size: of the sample; all mistakes if there are fewer.
        seed: of the sample, which other packages do not change.
    """
    possible = [mutation for path in files(root, package) for mutation in mutations(root, path)]
    chosen = random.Random(f"{seed} {package}").sample(possible, min(size, len(possible)))
    return len(possible), chosen


def row(package: str, possible: int, found: Counter[str]) -> str:
    """A row of the table: how many mistakes of a package were noticed, with a 95 % interval."""
    tried = found.total()
    noticed = sum(count for result, count in found.items() if trials.OUTCOMES[result])
    low, high = wilson(noticed, tried)
    share = f"{noticed / tried:.0%} | {low:.0%} to {high:.0%}".replace("%", " %")
    return f"| `{package}` | {possible:,} | {tried} | {noticed} | {found['timeout']} | {share} |"


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a probability by Wilson's score (1927), from n independent trials.

    Example:
        >>> [round(end, 3) for end in wilson(45, 50)]
        [0.786, 0.957]
    """
    p, spread = successes / n, Z**2 / n
    centre = (p + spread / 2) / (1 + spread)
    half = Z * math.sqrt(p * (1 - p) / n + spread / (4 * n)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
