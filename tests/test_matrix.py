"""All files state the same supported versions, and tests/matrix.py reports failures."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import matrix

ROOT = Path(__file__).parent.parent
STUB = """#!/bin/sh
case "$*" in
    *pip*) exit {installed} ;;
    *pytest*) echo "FAILED tests/test_a.py"; echo "{summary}"; exit {status} ;;
    *) echo "3.11.7 2.10.0 0.25.0 1.9.2" ;;
esac
"""


def stated() -> tuple[str, dict[str, Requirement]]:
    """The Python versions and the requirements of `.[test]` in setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    requirements = [Requirement(line) for line in lines.splitlines() if line]
    return config["options"]["python_requires"], {each.name: each for each in requirements}


def test_lowest_pins_are_the_floors_of_setup_cfg() -> None:
    floors = {
        name: Version(next(part.version for part in requirement.specifier if part.operator == ">="))
        for name, requirement in stated()[1].items()
    }
    pinned = matrix.constraints("lowest")
    assert {name: Version(version) for name, version in pinned.items()} == floors
    assert "jinja2" in floors and "pytest" in floors


def test_newest_pins_what_setup_cfg_requires_and_allows() -> None:
    newest, (_, requirements) = matrix.constraints("newest"), stated()
    assert newest.keys() == requirements.keys()
    assert [name for name in newest if not requirements[name].specifier.contains(newest[name])] == []


def test_the_readme_states_the_supported_versions() -> None:
    python, _ = stated()
    sentence = re.search(
        r"Python 3\.(\d+) to 3\.(\d+) and torch ([\d.]+) to ([\d.]+)\. ", (ROOT / "README.md").read_text()
    )
    assert sentence
    oldest, newest, *torch = sentence.groups()
    assert python == f">=3.{oldest},<3.{int(newest) + 1}"
    ends = [Version(matrix.constraints(name)["torch"]).release[:2] for name in ("lowest", "newest")]
    assert [Version(version).release for version in torch] == ends


def test_a_torch_environment_changes_torch_alone_and_leaves_torchvision_open() -> None:
    newest = matrix.constraints("newest")
    wanted = {name: version for name, version in newest.items() if name != "torchvision"}
    assert matrix.constraints("torch-2.12.1") == {**wanted, "torch": "2.12.1"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("31 passed in 12.34s", (31, 0, 0)),
        (
            "2 failed, 31 passed, 1 skipped, 3 deselected, 1 warning, 1 error in 61.00s (0:01:01)\n",
            (31, 3, 1),
        ),
        ("2 errors in 0.10s", (0, 2, 0)),
        ("===== 1 failed, 1504 passed, 12 skipped, 2 xfailed in 9.00s =====", (1504, 1, 12)),
        ("no tests ran in 0.01s", (0, 0, 0)),
        ("FAILED tests/test_a.py::test_b - assert 3 passed in 2s", None),
        ("........ [ 14%]", None),
        ("", None),
    ],
)
def test_counts_reads_the_last_line_of_pytest(line: str, expected: tuple[int, int, int] | None) -> None:
    assert matrix.counts(line) == expected


def test_the_table_is_aligned() -> None:
    rows = [["lowest", "3.11.7"], ["torch-2.14.1", "-"]]
    assert matrix.table(["environment", "Python"], rows).splitlines() == [
        "| environment  | Python |",
        "| ------------ | ------ |",
        "| lowest       | 3.11.7 |",
        "| torch-2.14.1 | -      |",
    ]


@pytest.mark.parametrize(
    ("installed", "summary", "status", "expected", "exit_status"),
    [
        (0, "3 passed, 1 skipped in 0.10s", 0, "3.11.7 2.10.0 0.25.0 1.9.2 3 0 1", 0),
        (0, "1 failed, 2 passed in 0.10s", 1, "3.11.7 2.10.0 0.25.0 1.9.2 2 1 0", 1),
        (0, "no tests ran in 0.10s", 5, "3.11.7 2.10.0 0.25.0 1.9.2 0 0 0", 1),
        (0, "INTERNALERROR", 3, "3.11.7 2.10.0 0.25.0 1.9.2 - - -", 1),
        (1, "3 passed in 0.10s", 0, "- - - - - - -", 1),
    ],
)
def test_the_exit_status_is_1_if_an_environment_failed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    installed: int,
    summary: str,
    status: int,
    expected: str,
    exit_status: int,
) -> None:
    """A stub replaces the environment's Python; an existing environment is reused."""
    python = tmp_path / "lowest" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STUB.format(installed=installed, summary=summary, status=status))
    python.chmod(0o755)
    assert matrix.main(["lowest", "--cache", str(tmp_path), "--", "-k", "vae"]) == exit_status
    *_, row = capsys.readouterr().out.splitlines()
    assert row.strip("| ").replace("|", "").split() == ["lowest", *expected.split(), "0.0"]
    assert "torch==2.10.0\n" in (tmp_path / "lowest" / "constraints.txt").read_text()


def test_an_unknown_environment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        matrix.main(["oldest"])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("there is no environment oldest. Take lowest, newest or torch-VERSION.")
