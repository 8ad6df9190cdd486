"""Makes small mistakes in the code, one at a time, and counts those that no test notices.

python -m tools.mutants                                    300 mistakes in each package
python -m tools.mutants inference/elbo --sample 25         fewer, in one package
python -m tools.mutants inference/elbo --survivors         those again that no test has noticed
python -m tools.mutants ppl_models/vae.py --sample 10000   all mistakes of a file
python -m tools.mutants --tests tests/elbo tests/training  with these tests only
python -m tools.mutants --write                            write the tables into docs/mutants.md

A mistake is, for example, `<` for `<=`, a condition that is negated, a number plus one, a call or an argument
that is left out. Each one is tried with the tests that execute the changed statement, in a copy of the
project, and the first failing test ends the trial. A first run of each file of tests under coverage finds
out which tests these are. Its result is kept in build/mutants/ until the code or the file changes. Linux and
macOS only.

The outcomes of the six packages are kept in docs/mutants.json. A mistake is tried again only if its file has
changed, so a call that was interrupted continues where it stopped, and a larger sample begins with a smaller
one. What survives the tests that --tests names is tried again by a call without it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before the libraries are imported
    os.environ[variable] = "1"
os.environ["COVERAGE_CORE"] = "ctrace"  # the one that can tell tests apart

from tools.mutants import covering, trials  # noqa: E402
from tools.mutants.mutations import Mutation, files, mutations  # noqa: E402
from tools.mutants.outcomes import NOT_NOTICED, Outcomes, digest, row  # noqa: E402

PACKAGES = ["ppl_models", "inference/training", "inference/elbo", "inference/data", "inference/metrics"]
PACKAGES += ["inference/rundir"]
ALL = ["tests"]  # the tests
RECORDING = 1800.0  # CPU seconds that a file of tests may take
CODE = ["ppl_models", "inference"]  # the folders whose lines the map has
PAGE, KEPT = ROOT / "docs" / "mutants.md", ROOT / "docs" / "mutants.json"
MARKS = "<!-- shares: made by python -m tools.mutants --write -->", "<!-- end of shares -->"
SURVIVOR_MARKS = "<!-- survivors: made by python -m tools.mutants --write -->", "<!-- end of survivors -->"


def main(arguments: Sequence[str]) -> int:
    """Tries the mistakes, and prints those that no test notices and a table. Returns the exit status."""
    given = parse(arguments)
    kept = Outcomes(KEPT)
    if given.write:
        write(kept)
        return 0
    work = {package: chosen(kept, package, given) for package in given.packages}
    if any(work.values()):
        trials.load_libraries()
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PPL_MODELS_CACHE"] = f"{folder}/cache"
            copy = trials.copy_project(ROOT, Path(folder))
            known = covered(copy, given.tests)
            for package, todo in work.items():
                attempt(kept, copy, known, package, todo, given)
    print(kept.shares())
    return 0


def chosen(kept: Outcomes, package: str, given: argparse.Namespace) -> list[Mutation]:
    """Returns the mistakes of a package that are to be tried."""
    possible, found = sample(ROOT, package, given.sample)
    if package not in PACKAGES:
        return found
    kept.possible[package] = possible
    before = [kept.get(mutation, digest(ROOT / mutation.path)) for mutation in found]
    wanted = NOT_NOTICED if given.survivors else (None, "partly") if given.tests == ALL else (None,)
    return [mutation for mutation, result in zip(found, before, strict=True) if result in wanted]


def attempt(
    kept: Outcomes,
    copy: Path,
    known: covering.Map,
    package: str,
    todo: Sequence[Mutation],
    given: argparse.Namespace,
) -> None:
    """Tries mistakes of a package and keeps their outcomes.

    Args:
        kept: the outcomes.
        copy: of the project.
        known: which tests execute each line.
        package: one of `PACKAGES`, or another folder or file, whose outcomes are not kept.
        todo: the mistakes.
        given: the command line.
    """
    killers = defaultdict[str, Counter[str]](Counter)
    found = Counter[str]()
    for number, mutation in enumerate(todo, 1):
        tests = known.tests(mutation, given.seconds, killers[mutation.path])
        began = time.monotonic()
        seconds = sum(known.seconds[test] for test in tests)
        result, killer = trials.outcome(copy, mutation, tests, seconds)
        found[result] += 1
        if killer:
            killers[mutation.path][killer] += 1
        if package in PACKAGES:
            partly = result == "survived" and given.tests != ALL
            kept.put(mutation, digest(ROOT / mutation.path), "partly" if partly else result)
        took = f"{time.monotonic() - began:.0f} s, {len(tests)} tests"
        print(f"{number}/{len(todo)} {result}, {took}: {mutation} {killer}", flush=True)
    if todo and package not in PACKAGES:
        print(row(package, len(todo), found))


def write(kept: Outcomes) -> None:
    """Writes the tables into the page."""
    from tools.table import write_between  # it imports the project, which a process that forks must not

    write_between(PAGE, MARKS, kept.shares())
    write_between(PAGE, SURVIVOR_MARKS, kept.survivors())


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
    add("--survivors", action="store_true", help="of the sample, those again that no test has noticed")
    add("--tests", nargs="+", default=ALL, metavar="PATH", help="tests to choose from (default: all)")
    about = "CPU seconds of the tests of one mistake at most (default: 120)"
    add("--seconds", type=float, default=120, metavar="S", help=about)
    add("--write", action="store_true", help="only write the tables into docs/mutants.md")
    given = parser.parse_args(arguments)
    if given.sample < 1 or given.seconds <= 0:
        parser.error("--sample and --seconds are above zero.")
    for path in (*given.packages, *given.tests):
        if not (ROOT / path).exists():
            parser.error(f"there is no {path} in {ROOT}. Name a folder or a file of the project.")
    return given


def covered(copy: Path, tests: Sequence[str]) -> covering.Map:
    """Returns which tests execute each line. Files of tests that no earlier call has recorded run once.

    Args:
        copy: of the project.
        tests: files and folders of tests.
    """
    known = covering.Map()
    for file in covering.test_files(ROOT, tests):
        kept = ROOT / "build" / "mutants" / f"{covering.digest(ROOT, CODE, file)}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            print(f"running {file} once, to find out which test executes which line", flush=True)
            log = kept.with_suffix(".log")
            work = partial(covering.record, copy, CODE, [*trials.PYTEST, file], kept)
            trials.forked(copy, log, RECORDING, work)
            if not kept.exists():
                print(f"left out, since it did not run to its end: {file}. See {log}.", flush=True)
                continue
        content = json.loads(kept.read_bytes())
        known.add(content)
        for test in content["failed"]:
            print(f"left out, since it fails or is skipped without a mistake: {test}", flush=True)
    return known


def sample(root: Path, package: str, size: int) -> tuple[int, list[Mutation]]:
    """Returns the number of possible mistakes in a package, and a sample of them without repetition.

    A larger sample begins with a smaller one.

    Args:
        root: the folder of the project.
        package: a folder or a file.
        size: of the sample; all mistakes if there are fewer.
    """
    possible = [mutation for path in files(root, package) for mutation in mutations(root, path)]
    return len(possible), sorted(possible, key=lambda mutation: mutation.order)[:size]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
