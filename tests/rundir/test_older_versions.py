"""Runs and saved models that older versions made: they are loaded, evaluated, reported and resumed.

Each folder of fixtures/ is a run of the same command, `python -m inference.svi --model vae --data digits
--hidden 8 --z-dim 2 --steps 40 --batch-size 100 --seed 3`: by commit c2a7637, before the settings had their
present names; by commit 0fa5281, after; and by the release candidate. model.pt is what `model.save` wrote. Do
not make them again.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import inference.evaluate as evaluate_command
from inference import load, report, svi
from tests.support import lines, shortened

FIXTURES = sorted(path for path in (Path(__file__).parent / "fixtures").iterdir() if path.is_dir())
OLDEST_AND_NEWEST = [path for path in FIXTURES if path.name in ("before_redesign", "1.0.0rc1")]


@pytest.mark.parametrize("kept", shortened(FIXTURES, OLDEST_AND_NEWEST), ids=lambda path: path.name)
def test_a_run_is_loaded_evaluated_reported_and_resumed(kept: Path, tmp_path: Path) -> None:
    run = shutil.copytree(kept, tmp_path / "run")
    written = json.loads((run / "results.json").read_text())["test"]
    assert evaluate_command.main([str(run), "--particles", "1"]) == 0
    test = json.loads((run / "results.json").read_text())["test"]
    error = max(written["negative_elbo"]["mc_se"], test["iwae_1"]["mc_se"])
    assert abs(test["iwae_1"]["value"] - written["negative_elbo"]["value"]) < 5 * error
    assert report.main([str(run)]) == 0 and (run / "report.html").stat().st_size > 100_000
    model = load(run)
    assert svi.main(["--resume", str(run), "--steps", "60"]) == 0
    assert lines(run)[-1]["step"] == 60
    resumed = json.loads((run / "results.json").read_text())["test"]["negative_elbo"]["value"]
    assert (
        resumed < written["negative_elbo"]["value"]
    )  # it goes on from where it was: digits are not learned yet
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), load(run).parameters(), strict=True))


@pytest.mark.parametrize(
    "kept", [path for path in FIXTURES if (path / "model.pt").is_file()], ids=lambda path: path.name
)
def test_a_saved_model_is_the_run_s(kept: Path) -> None:
    saved, trained = load(kept / "model.pt"), load(kept)
    assert saved.state_dict().keys() == trained.state_dict().keys()
    for ours, theirs in zip(saved.state_dict().values(), trained.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
