"""The table of docs/reproductions.md: made from the runs, whose settings are those of the stated commands."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from inference.cli.train import parse
from inference.errors import UserError
from tools import reproductions
from tools.reproductions import MARKS, PAGE, Reproduction, table

SYSTEMS = reproductions.reproductions()


def test_the_page_has_the_table() -> None:
    """After a change: python -m tools.reproductions --write."""
    assert PAGE.read_text().partition(f"{MARKS[0]}\n")[2].partition(f"\n{MARKS[1]}")[0] == table()


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.system)
def test_the_runs_have_the_settings_of_the_command(system: Reproduction) -> None:
    python, flag, module, *arguments = shlex.split(system.command)
    assert [python, flag, module] == ["python", "-m", "inference.svi"]
    given = vars(parse(arguments))
    for run in system.results():
        found = run["config"] | run["config"]["options"] | {"seed": None}
        differ = {key: value for key, value in given.items() if found.get(key, value) not in (value, None)}
        assert not differ and run["steps"] == run["config"]["steps"] and run["model"] == given["model"]


def test_a_row_has_the_value_and_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproductions, "ROOT", tmp_path)
    folder = tmp_path / "runs" / "published"
    folder.mkdir(parents=True)
    system = Reproduction("system", "paper", "protocol", "3", "accuracy", "a-*.json", "command", percent=True)
    with pytest.raises(UserError, match=r"^runs/published has no accuracy in a-\*\.json\. Train"):
        system.row()
    for seed, value in ((1, 0.5), (0, 0.25)):
        run = {"seed": seed, "seconds": 1800 * (seed + 1), "config": {"gpu": None, "threads": 2}}
        run["test"] = {"accuracy": {"value": value, "se": 0.125}}
        (folder / f"a-{seed}.json").write_text(json.dumps(run))
    assert system.row() == ("| system | 3 | 37.50 ± 17.68 % over seeds | 0, 1 | 0.75 each, CPU, 2 threads |")
    one = replace(system, runs="a-1.json", percent=False)
    assert one.row() == "| system | 3 | 0.50 ± 0.12 over images | 1 | 1.00, CPU, 2 threads |"
