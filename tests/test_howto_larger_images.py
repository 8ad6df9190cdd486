"""The commands of docs/howto/larger-images.md."""

import json
import re
import shlex
from pathlib import Path

import pytest

from inference import svi

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "larger-images.md"


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the two commands of the page in a folder."""
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    python, option, program, *command = shlex.split(block)
    assert [python, option, *command[:3]] == ["python", "-c", "python", "-m", "inference.svi"]
    monkeypatch.chdir(folder)
    exec(program, {})
    assert svi.main(command[3:]) == 0


@pytest.mark.full
def test_the_commands_train_on_images_of_48_x_64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, monkeypatch)
    results = json.loads((tmp_path / "wide/results.json").read_text())
    assert results["config"]["shape"] == [1, 48, 64]


@pytest.mark.full
def test_the_report_has_the_explorer(
    tmp_path: Path, with_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, monkeypatch)
    assert 'id="explorer"' in (tmp_path / "wide/report.html").read_text()
