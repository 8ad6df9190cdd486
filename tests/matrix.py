"""Run the tests with several versions of the dependencies, and print a table.

    python tests/matrix.py                                  lowest, torch-2.14.1 and newest; all tests
    python tests/matrix.py lowest newest --cache ~/envs     two of them; keep their environments in ~/envs
    python tests/matrix.py torch-2.12.1 -- tests/ppl_models/test_contract.py -k vae
    python tests/matrix.py --resolve                        run no tests; check the wheels for other Pythons

An environment is `lowest` or `newest`, with `.[test]` under constraints/NAME.txt, or `torch-VERSION`, with
that torch, a torchvision that fits it, and the other packages of newest.txt. The Python that runs this file
makes all of them. What follows `--` are pytest's arguments; the default is `-n auto`. The exit status is 1 if
a row of the table failed.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ["lowest", "torch-2.14.1", "newest"]
PACKAGES = ["torch", "torchvision", "pyro-ppl"]
RESOLVED = [("lowest", "3.10"), ("any", "3.10"), ("any", "3.12"), ("any", "3.13")]
SUMMARY = re.compile(r"=* ?((?:\d+ [a-z]+, )*\d+ [a-z]+|no tests ran) in [\d.]+s(?: \([\d:]+\))? ?=*")


class Row(NamedTuple):
    """A row of the table, and whether it is as it should be. A cell without a value is "-"."""

    ok: bool
    cells: list[str]


def counts(line: str) -> tuple[int, int, int] | None:
    """Read pytest's last line, such as "2 failed, 31 passed, 1 skipped, 1 error in 12.34s".

    Returns:
        The numbers of tests that passed, failed (errors included) and were skipped; None for any other line.
    """
    found = SUMMARY.fullmatch(line.strip())
    if not found:
        return None
    number = {word.rstrip("s"): int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", found[1])}
    failed = number.get("failed", 0) + number.get("error", 0)
    return number.get("passed", 0), failed, number.get("skipped", 0)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def pins(text: str) -> dict[str, str]:
    """The version that a constraint file's text pins, for each package."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return {package: version for package, _, version in (line.partition("==") for line in lines if line)}


def constraints(environment: str) -> dict[str, str]:
    """The versions that an environment pins. Raises FileNotFoundError if there is no such environment."""
    if environment.startswith("torch-"):
        pinned = constraints("newest")
        del pinned["torchvision"]
        return {**pinned, "torch": environment.removeprefix("torch-")}
    return pins((ROOT / "constraints" / f"{environment}.txt").read_text())


def run_tests(environment: str, folder: Path, arguments: Sequence[str]) -> Row:
    """Make the environment in `folder`, or update the one that is there, and run pytest in it."""
    print(f"\n{environment}, in {folder}", flush=True)
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    python, limits = folder / "bin" / "python", folder / "constraints.txt"
    limits.write_text("".join(f"{name}=={version}\n" for name, version in constraints(environment).items()))
    ask = "import platform, importlib.metadata as m; print(platform.python_version(), *map(m.version, %s))"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-e", ".[test]", "-c", limits], cwd=ROOT, check=True
        )
        versions = subprocess.run(
            [python, "-c", ask % PACKAGES], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.split()
    except subprocess.CalledProcessError as error:
        print(f"{environment} cannot be installed: {error}", flush=True)
        return Row(False, [environment, *["-"] * (4 + len(PACKAGES)), minutes_since(begin)])
    found = None
    command: list[str | Path] = [python, "-m", "pytest", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        for line in tests.stdout or ():
            print(line, end="", flush=True)
            found = counts(line) or found
    results = [str(count) for count in found] if found else ["-"] * 3
    return Row(tests.returncode == 0, [environment, *versions, *results, minutes_since(begin)])


def minutes_since(begin: float) -> str:
    """The minutes since a value of time.monotonic()."""
    return f"{(time.monotonic() - begin) / 60:.1f}"


def resolve(environment: str, version: str) -> Row:
    """Ask pip which wheels it would install for another Python, such as "3.13", on this platform.

    pip runs on that Python if it is on PATH. If not, pip evaluates the conditions of requirements, such as
    `python_version < "3.11"`, for the Python that runs this file.
    """
    python = shutil.which(f"python{version}")
    works = python is not None and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    pip = [sys.executable, "-m", "pip", *(["--python", str(python)] if works else []), "install", "-q"]
    options = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", "-"]
    if environment != "any":
        options += ["-c", f"constraints/{environment}.txt"]
    with tempfile.TemporaryDirectory() as folder:
        if not works:
            options += ["--python-version", version, "--target", folder]
        done = subprocess.run([*pip, *options, ".[test]"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return Row(False, [environment, version, *["-"] * len(PACKAGES), "no"])
    found = [each["metadata"] for each in json.loads(done.stdout)["install"]]
    versions = {each["name"].lower(): each["version"] for each in found}
    return Row(True, [environment, version, *(versions[name] for name in PACKAGES), "yes"])


def main(argv: Sequence[str]) -> int:
    """Run what the arguments ask for. Returns the exit status."""
    split = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="tests/matrix.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", nargs="*", help=f"default: {' '.join(ENVIRONMENTS)}")
    parser.add_argument(
        "--cache", type=Path, help="keep the environments in this folder; default: a temporary one"
    )
    parser.add_argument(
        "--resolve", action="store_true", help="run no tests; check the wheels for other Pythons"
    )
    options = parser.parse_args(argv[:split])
    environments = options.environments or ENVIRONMENTS
    for environment in environments:
        try:
            constraints(environment)
        except FileNotFoundError:
            parser.error(f"there is no environment {environment}. Take lowest, newest or torch-VERSION.")
    if options.resolve:
        head = ["constraints", "Python", "torch", "torchvision", "pyro", "wheels for all"]
        rows = [resolve(environment, version) for environment, version in RESOLVED]
    else:
        head = [
            "environment",
            "Python",
            "torch",
            "torchvision",
            "pyro",
            "passed",
            "failed",
            "skipped",
            "minutes",
        ]
        arguments = argv[split + 1 :] or ["-n", "auto"]
        with nullcontext(options.cache) if options.cache else tempfile.TemporaryDirectory() as cache:
            rows = [run_tests(name, Path(cache).resolve() / name, arguments) for name in environments]
    print(f"\n{table(head, [row.cells for row in rows])}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
