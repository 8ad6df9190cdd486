"""`tools.mutants`: which mistakes it makes, which tests it chooses, and whether they notice."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import forks
from tools.mutants import __main__ as command
from tools.mutants.covering import Map
from tools.mutants.mutations import Mutation, files, mutations
from tools.mutants.outcomes import SURVIVORS, Outcomes, Z, digest, wilson

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


def test_a_larger_sample_begins_with_a_smaller_one() -> None:
    possible, first = command.sample(command.ROOT, "inference/elbo", 20)
    assert possible > 300 and len(set(first)) == 20
    assert command.sample(command.ROOT, "inference/elbo", 40)[1][:20] == first
    assert len({mutation.path for mutation in first}) > 2  # not in the order of the files
    assert len(command.sample(command.ROOT, "ppl_models/registry.py", 10**6)[1]) > 5


def test_the_key_of_a_mistake_does_not_depend_on_the_code_above(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "longer.py").write_text(CODE.replace("def least", "def most():\n    return 5\n\n\ndef least"))
    keys, longer = ({each.key for each in mutations(tmp_path, name)} for name in ("code.py", "longer.py"))
    assert keys < longer and len(longer - keys) == 2
    assert len(keys) == sum(len(changes) for changes in CHANGES.values())


def test_outcomes_are_kept_until_the_file_changes(tmp_path: Path) -> None:
    first, second, third = command.sample(command.ROOT, "inference/elbo/traces.py", 3)[1]
    kept = Outcomes(tmp_path / "kept.json")
    kept.possible["inference/elbo"] = 338
    for mutation, result in ((first, "killed"), (second, "survived"), (third, "timeout")):
        kept.put(mutation, "digest", result)
    kept.files[first.path]["reasons"][second.key] = "harmless"
    kept.write()
    again = Outcomes(tmp_path / "kept.json")
    assert [again.get(each, "digest") for each in (first, second, third)] == ["killed", "survived", "timeout"]
    assert again.get(first, "another") is None
    assert again.shares().endswith("| `inference/elbo` | 338 | 3 | 2 | 1 | 67 % | 21 % to 94 % |\n")
    assert again.survivors().endswith(" | harmless |\n") and again.survivors().count("\n") == 3

    again.put(second, "another", "survived")  # the other two are to be tried again, and the reason stays
    assert [again.get(each, "another") for each in (first, second, third)] == [None, "survived", None]
    assert again.survivors().endswith(" | harmless |\n")
    again.put(second, "another", "killed")
    assert again.get(second, "another") == "killed" and again.survivors() == SURVIVORS
    assert again.files[first.path]["reasons"] == {}
    kept.put(first, "another", "killed")  # by a process that read the file before
    assert [Outcomes(kept.path).get(each, "another") for each in (first, second)] == ["killed", "killed"]


def test_only_what_is_not_known_is_tried(tmp_path: Path) -> None:
    _, found = command.sample(command.ROOT, "inference/elbo", 5)
    kept = Outcomes(tmp_path / "kept.json")
    for mutation, result in zip(found[:4], ("killed", "survived", "timeout", "killed"), strict=True):
        kept.put(mutation, digest(command.ROOT / mutation.path), result)
    given = command.parse(["inference/elbo", "--sample", "5"])
    assert command.chosen(kept, "inference/elbo", given) == [found[4]]
    given.survivors = True
    assert command.chosen(kept, "inference/elbo", given) == [found[1]]
    given.survivors = False
    kept.put(found[1], digest(command.ROOT / found[1].path), "partly")  # with all tests now
    assert command.chosen(kept, "inference/elbo", given) == [found[1], found[4]]
    given.tests = ["tests/elbo"]
    assert command.chosen(kept, "inference/elbo", given) == [found[4]]
    kept.put(found[0], "the file has changed since", "killed")
    assert found[0] in command.chosen(kept, "inference/elbo", given)


def test_the_page_has_the_tables_of_the_outcomes() -> None:
    kept, page = Outcomes(command.KEPT), command.PAGE.read_text(encoding="utf-8")
    for marks, table in ((command.MARKS, kept.shares()), (command.SURVIVOR_MARKS, kept.survivors())):
        assert page.partition(marks[0])[2].partition(marks[1])[0].strip() == table.strip()
    assert set(kept.possible) <= set(command.PACKAGES)


@pytest.mark.parametrize(
    ("noticed", "of", "low", "high"),
    [(45, 50, 0.7864, 0.9565), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (270, 300, 0.8608, 0.9291)],
)
def test_the_interval_is_wilson_s(noticed: int, of: int, low: float, high: float) -> None:
    """Of Wilson 1927: the p at which the observed share is 1.96 standard errors away."""
    found = wilson(noticed, of)
    assert found == pytest.approx((low, high), abs=1e-4)
    for p in found:
        if 0 < p < 1:
            assert abs(noticed / of - p) == pytest.approx(Z * (p * (1 - p) / of) ** 0.5, abs=1e-7)


def test_the_tests_of_a_mistake_execute_its_statement() -> None:
    """First those that noticed others, then those of the package, then the quickest, up to a limit."""
    seconds = {"tests/elbo/a.py::slow": 5.0, "tests/b.py::quick": 0.1, "tests/c.py::long": 9.0, "d": 0.0}
    lines = {"inference/elbo/x.py": {"3": list(seconds)[:3], "9": ["d"]}}
    known = Map()
    known.add({"seconds": seconds, "lines": lines})

    def chosen(first: int, line: int, most: float, **killers: int) -> list[str]:
        mutation = Mutation("inference/elbo/x.py", first, line, 0, 0, "", "")
        return known.tests(mutation, most, Counter({"tests/c.py::long": killers.get("long", 0)}))

    assert chosen(3, 3, 100) == ["tests/elbo/a.py::slow", "tests/b.py::quick", "tests/c.py::long"]
    assert chosen(3, 3, 100, long=1)[0] == "tests/c.py::long"  # it has noticed another mistake in the file
    assert chosen(2, 4, 6) == ["tests/elbo/a.py::slow", "tests/b.py::quick"]
    assert chosen(9, 9, 100) == ["d"]
    assert len(chosen(5, 5, 100)) == 4  # executed by no test, such as a default: all tests of the file
    assert known.tests(Mutation("inference/elbo/y.py", 3, 3, 0, 0, "", ""), 100, Counter()) == []


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
from collections import Counter
from pathlib import Path
from tools.mutants import covering, trials
from tools.mutants.mutations import mutations

trials.SPARE = 4.0
folder, (log, kept) = Path.cwd(), map(Path, sys.argv[1:3])
wanted = json.loads(sys.argv[3])
trials.forked(folder, log, 60, lambda: covering.record(folder, ["own"], [*trials.PYTEST, "tests"], kept))
known = covering.Map()
known.add(json.loads(kept.read_text()))
found = []
for mutation in mutations(folder, "own/code.py"):
    if [mutation.before, mutation.after] not in wanted:
        continue
    tests = known.tests(mutation, 60, Counter())
    found.append([mutation.before, mutation.after, len(tests)])
    found[-1] += trials.outcome(folder, mutation, tests, 0.0)
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
        ["a < b", "(a <= b)", 1, "survived", ""],  # no test compares equal numbers
        ["a < b", "(a >= b)", 1, "killed", "tests/test_own.py::test_smaller"],
        ["n > 0", "(n >= 0)", 2, "killed", "tests/test_own.py::test_second"],  # it shares the fixture
        ["n -= 1", "n += 1", 2, "timeout", ""],
        ["5", "(6)", 3, "survived", ""],  # executed by no test: all tests of the file are tried
    ]
    wanted = json.dumps([change[:2] for change in expected])
    paths = [str(tmp_path / name) for name in ("log", "map.json")]
    done = forks.run("-c", TRIED, *paths, wanted, cwd=tmp_path / "project")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
    assert (tmp_path / "project" / "own" / "code.py").read_text() == PROJECT["own/code.py"]
