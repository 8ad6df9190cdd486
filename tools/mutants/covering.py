"""Which tests execute a line: one run of each file of tests under coverage, kept until the code changes."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tools.mutants.mutations import Mutation

FIXTURE = "fixture "  # begins the context of a fixture that several tests share


class Map:
    """The tests that execute each line of the project.

    Attributes:
        seconds: CPU seconds of each test.
        lines: for each file of code and each line, the tests.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.lines = defaultdict[str, dict[int, list[str]]](lambda: defaultdict(list))

    def add(self, content: dict[str, Any]) -> None:
        """Adds the tests of a file that `record` has written."""
        self.seconds.update(content["seconds"])
        for path, lines in content["lines"].items():
            for line, tests in lines.items():
                self.lines[path][int(line)] += tests

    def tests(self, mutation: Mutation, most: float, killers: Counter[str]) -> list[str]:
        """Returns the tests that can notice a mutation: those of its own package first, then the quickest.

        They are the tests that execute the changed statement. If none does, as for a default that is set
        once at import or for code that runs in another process, they are all tests that execute the file.

        Args:
            mutation: the change.
            most: CPU seconds that the tests may take; the others are left out.
            killers: how many mutations of the same file each test has noticed. The most come first.
        """
        lines = self.lines.get(mutation.path, {})
        changed = range(mutation.first, mutation.line + 1)
        found = {test for line in changed for test in lines.get(line, ())}
        found = found or {test for tests in lines.values() for test in tests}
        folder = "tests/" + str(Path(mutation.path).parent).removeprefix("inference/") + "/"
        rank = lambda test: (-killers[test], not test.startswith(folder), self.seconds[test], test)  # noqa: E731
        ranked = sorted(found, key=rank)
        chosen, total = list[str](), 0.0
        for test in ranked:
            total += self.seconds[test]
            if chosen and total > most:
                break
            chosen.append(test)
        return chosen


class Recorder:
    """A plugin of pytest that notes the lines and the CPU seconds of each test.

    Args:
        packages: the folders whose lines are noted.
    """

    def __init__(self, packages: Sequence[Path]) -> None:
        from coverage import Coverage

        include = [f"{folder}/*" for folder in packages]
        self.coverage = Coverage(data_file=None, include=include, config_file=False, messages=False)
        self.contexts = [""]
        self.seconds: dict[str, float] = {}
        self.users: dict[str, set[str]] = defaultdict(set)  # the tests that use a shared fixture
        self.failed: set[str] = set()

    def enter(self, context: str) -> None:
        """Counts the lines that follow for a test or a fixture."""
        self.contexts.append(context)
        self.coverage.switch_context(context)

    def leave(self) -> None:
        """Counts them for the context before."""
        self.contexts.pop()
        self.coverage.switch_context(self.contexts[-1])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Notes the lines and the seconds of a test."""
        for name in getattr(item, "fixturenames", ()):
            self.users[name].add(item.nodeid)
        before = sum(os.times()[:4])
        self.enter(item.nodeid)
        try:
            return (yield)
        finally:
            self.leave()
            self.seconds[item.nodeid] = round(sum(os.times()[:4]) - before, 2)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Notes the lines of a shared fixture for all tests that use it, not for the first one alone."""
        if fixturedef.scope == "function":
            return (yield)
        self.enter(f"{FIXTURE}{fixturedef.argname}")
        try:
            return (yield)
        finally:
            self.leave()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes tests that fail or are skipped: they can notice nothing."""
        if not report.passed:
            self.failed.add(report.nodeid)

    def content(self, root: Path) -> dict[str, Any]:
        """Returns what `Map` reads."""
        data, lines = self.coverage.get_data(), dict[str, dict[str, list[str]]]()
        for file in data.measured_files():
            found = dict[str, list[str]]()
            for line, contexts in data.contexts_by_lineno(file).items():
                tests = set[str]()
                for context in contexts:
                    shared = context.startswith(FIXTURE)
                    tests |= self.users[context.removeprefix(FIXTURE)] if shared else {context}
                if tests := (tests & self.seconds.keys()) - self.failed:
                    found[str(line)] = sorted(tests)
            lines[str(Path(file).relative_to(root))] = found
        seconds = {test: value for test, value in self.seconds.items() if test not in self.failed}
        return {"seconds": seconds, "lines": lines, "failed": sorted(self.failed)}


def record(root: Path, packages: Sequence[str], arguments: Sequence[str], file: Path) -> int:
    """Runs the tests and writes the map. Call it in a process that has not imported the packages.

    Args:
        root: the folder of the project, in which this process is.
        packages: the folders whose lines are noted.
        arguments: of pytest.
        file: for the map.

    Returns:
        The exit status of pytest.
    """
    recorder = Recorder([root / package for package in packages])
    recorder.coverage.start()
    status = pytest.main(list(arguments), plugins=[recorder])
    recorder.coverage.stop()
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(recorder.content(root)), encoding="utf-8")
        os.replace(temporary, file)
    return int(status)


def digest(root: Path, folders: Sequence[str], test: str) -> str:
    """A digest of the code of some folders, of what tests share, and of a file of tests."""
    found = hashlib.sha256(test.encode() + (root / test).read_bytes())
    for folder in (*folders, "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            if not path.name.startswith("test_"):
                found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def test_files(root: Path, named: Sequence[str]) -> list[str]:
    """Returns the files of tests in folders, relative to the project, and files that are named themselves."""
    found = [path for name in named for path in [root / name, *sorted((root / name).rglob("test_*.py"))]]
    return list(dict.fromkeys(str(path.relative_to(root)) for path in found if path.is_file()))
