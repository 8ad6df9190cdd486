"""`tools.mutants`: which mistakes it makes, which tests it chooses, and whether they notice."""

import json
import sys
from pathlib import Path

import pytest

from tests import forks
from tools.mutants import __main__ as command
from tools.mutants.covering import Map
from tools.mutants.mutations import Mutation, files, mutations

CODE = '''"""A docstring."""

NAME = "key"
SAID = "text for people"


def least(values: list[int], most: int = 3, *, strict: bool = True) -> int | None:
    """Another docstring."""
    assert most > 0
    if not values and strict:
        raise ValueError(f"{most + 1} values")
    self.total += sum(value for value in values if value < most)
    print(end="")
    return max(values, default=-1) if strict else None
'''
# Each of the changes of CODE, by line.
CHANGES = {
    3: ["('XXkey')"],
    7: ["(4)", "(False)"],
    10: ["(values)", "(not (not values and strict))", "(not values or strict)"],
    11: ["pass"],
    12: [
        "self.total -= sum((value for value in values if value < most))",
        "(value <= most)",
        "(value >= most)",
    ],
    13: ["(print())", "pass", "('XX')"],
    14: ["return None", "(max(values))", "(1)", "(2)", "(not strict)"],
}


def test_each_mistake_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    found: dict[int, list[str]] = {}
    for mutation in mutations(tmp_path, "code.py"):
        found.setdefault(mutation.first, []).append(mutation.after)
        changed = mutation.apply(CODE.encode()).decode()
        compile(changed, "code.py", "exec")
        different = [a for a, b in zip(CODE.split("\n"), changed.split("\n"), strict=True) if a != b]
        assert len(different) == 1
    assert found == CHANGES


def test_every_file_of_the_packages_has_valid_mutations() -> None:
    """One in ten is compiled."""
    for path in ("inference/data/observations.py", "inference/training/loop.py", "ppl_models/ssvae.py"):
        content = (command.ROOT / path).read_bytes()
        found = mutations(command.ROOT, path)
        assert len(found) > 50
        for mutation in found[::10]:
            changed = mutation.apply(content)
            assert changed != content
            compile(changed, path, "exec")
    assert "inference/data/npz.py" in files(command.ROOT, "inference/data")


def test_a_sample_follows_the_seed_alone() -> None:
    possible, first = command.sample(command.ROOT, "inference/elbo", 20, seed=0)
    assert possible > 300 and len(set(first)) == 20
    assert command.sample(command.ROOT, "inference/elbo", 20, seed=0) == (possible, first)
    assert command.sample(command.ROOT, "inference/elbo", 20, seed=1)[1] != first
    assert len(command.sample(command.ROOT, "ppl_models/registry.py", 10**6, seed=0)[1]) > 5


@pytest.mark.parametrize(
    ("noticed", "of", "low", "high"),
    [(45, 50, 0.7864, 0.9565), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (270, 300, 0.8608, 0.9291)],
)
def test_the_interval_is_wilson_s(noticed: int, of: int, low: float, high: float) -> None:
    """Of Wilson 1927: the p at which the observed share is 1.96 standard errors away."""
    found = command.wilson(noticed, of)
    assert found == pytest.approx((low, high), abs=1e-4)
    for p in found:
        if 0 < p < 1:
            assert abs(noticed / of - p) == pytest.approx(command.Z * (p * (1 - p) / of) ** 0.5, abs=1e-7)


def test_the_tests_of_a_mistake_execute_its_statement() -> None:
    """Those of the same package come first, then the quickest, until they take too long."""
    seconds = {"tests/elbo/a.py::slow": 5.0, "tests/b.py::quick": 0.1, "tests/c.py::long": 9.0, "d": 0.0}
    lines = {"inference/elbo/x.py": {"3": list(seconds)[:3], "9": ["d"]}}
    known = Map({"seconds": seconds, "lines": lines})

    def chosen(first: int, line: int, most: float) -> list[str]:
        return known.tests(Mutation("inference/elbo/x.py", first, line, 0, 0, "", ""), most)

    assert chosen(3, 3, 100) == ["tests/elbo/a.py::slow", "tests/b.py::quick", "tests/c.py::long"]
    assert chosen(2, 4, 6) == ["tests/elbo/a.py::slow", "tests/b.py::quick"]
    assert chosen(9, 9, 100) == ["d"]
    assert len(chosen(5, 5, 100)) == 4  # executed by no test, such as a default: all tests of the file
    assert known.tests(Mutation("inference/elbo/y.py", 3, 3, 0, 0, "", ""), 100) == []


# A project with one package, its tests, and a fixture that two tests share.
PROJECT = {
    "own/__init__.py": "",
    "own/code.py": """
def smaller(a, b):
    return a < b

def count(n):
    while n > 0:
        n -= 1
    return n

def unused():
    return 5
""",
    "tests/test_own.py": """
import pytest
from own import code

@pytest.fixture(scope="module")
def counted():
    return code.count(3)

def test_first(counted):
    pass

def test_second(counted):
    assert counted == 0

def test_smaller():
    assert code.smaller(1, 2) and not code.smaller(2, 1)
""",
}
TRIED = """
import json, sys
from pathlib import Path
from tools.mutants import covering, trials
from tools.mutants.mutations import mutations

trials.SPARE = 4.0
folder, (log, kept) = Path.cwd(), map(Path, sys.argv[1:3])
wanted = json.loads(sys.argv[3])
trials.forked(folder, log, 60, lambda: covering.record(folder, ["own"], [*trials.PYTEST, "tests"], kept))
known = covering.Map(json.loads(kept.read_text()))
found = []
for mutation in mutations(folder, "own/code.py"):
    if [mutation.before, mutation.after] not in wanted:
        continue
    tests = known.tests(mutation, 60)
    found.append([mutation.before, mutation.after, len(tests)])
    found[-1].append(trials.outcome(folder, mutation, tests, 0.0))
print(json.dumps(found))
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_mistakes_are_noticed_or_not(tmp_path: Path) -> None:
    pytest.importorskip("coverage", reason="coverage, of the extra [mutation], is not installed")
    for name, content in PROJECT.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    expected = [
        ["a < b", "(a <= b)", 1, "survived"],  # no test compares equal numbers
        ["a < b", "(a >= b)", 1, "killed"],
        ["n > 0", "(n >= 0)", 2, "killed"],  # by the second test that uses the shared fixture
        ["n -= 1", "n += 1", 2, "timeout"],
        ["5", "(6)", 3, "survived"],  # executed by no test: all tests of the file are tried
    ]
    wanted = json.dumps([change[:2] for change in expected])
    paths = [str(tmp_path / name) for name in ("log", "map.json")]
    done = forks.run("-c", TRIED, *paths, wanted, cwd=tmp_path / "project")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
    assert (tmp_path / "project" / "own" / "code.py").read_text() == PROJECT["own/code.py"]
