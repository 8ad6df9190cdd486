"""The commands of docs/howto/tables.md run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import inference.sample as sample_command
from inference import svi

PAGE = (Path(__file__).parent.parent / "docs" / "howto" / "tables.md").read_text()


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    rows = [
        f"{random.normal(20, 3):.2f},{random.normal(3):.3f},{'fish' if i % 2 else 'bird'}" for i in range(150)
    ]
    Path("own.csv").write_text("\n".join(["length,mass,species", *rows]))
    (command,) = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    arguments = shlex.split(command)[3:]
    arguments[arguments.index("--steps") + 1] = "5"
    assert svi.main([*arguments, "--run-dir", "run"]) == 0
    (to_sample,) = re.findall(r"`python -m inference\.sample\s+RUN_DIR (.*?)`", PAGE)
    assert sample_command.main(["run", *to_sample.split()]) == 0
    samples = np.load("samples.npz")["x"]
    assert samples.shape == (1000, 2) and abs(samples[:, 0].mean() - 20) < 3
