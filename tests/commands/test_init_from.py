"""`inference.svi --init-from` and `--json` of the commands that train."""

import json
from pathlib import Path

import pytest
import torch

from inference import load, svi
from inference.cli.initial import weights_checksum
from inference.errors import UserError
from inference.rundir.run import Run
from tests.support import TINY, checkpoint, lines


def arguments(data: Path, folder: Path, *more: str) -> list[str]:
    return ["--model", "vae", *TINY, "--data", str(data), "--run-dir", str(folder), *more]


def test_training_starts_where_the_source_ended(finished_run: Path, small_npz: Path, tmp_path: Path) -> None:
    """At step 0 with a fresh optimiser; from a run folder or a saved model, with the same checksum."""
    load(finished_run).save(tmp_path / "vae.pt")
    runs = []
    for name, init in (("run", finished_run), ("file", tmp_path / "vae.pt")):
        runs.append(tmp_path / name)
        assert svi.main(arguments(small_npz, runs[-1], "--init-from", str(init), "--seed", "1")) == 0
        config = json.loads((runs[-1] / "config.json").read_text())
        assert config["init_from"] == str(init.resolve())
        assert config["init_checksum"] == weights_checksum(load(finished_run))
    first, *_ = lines(runs[0])
    *_, last = lines(finished_run)
    assert first["step"] == 0 and first["negative_elbo"] == pytest.approx(last["negative_elbo"], rel=1e-6)
    state = checkpoint(runs[0])
    assert state["step"] == 10 and {int(s["step"]) for s in state["optimizer"]["state"].values()} == {10}
    trained = [checkpoint(run)["parameters"] for run in runs]
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    assert "init_from" not in json.loads((runs[0] / "results.json").read_text())["config"]


def test_a_run_resumes_without_its_source(finished_run: Path, small_npz: Path, tmp_path: Path) -> None:
    load(finished_run).save(tmp_path / "vae.pt")
    run = tmp_path / "run"
    assert svi.main(arguments(small_npz, run, "--init-from", str(tmp_path / "vae.pt"))) == 0
    (tmp_path / "vae.pt").unlink()
    assert svi.main(["--resume", str(run), "--steps", "14"]) == 0
    assert Run.open(run).config.init_from == str(tmp_path / "vae.pt")
    with pytest.raises(UserError, match=r"^--init-from cannot change on --resume"):
        svi.main(["--resume", str(run), "--init-from", str(finished_run)])


def test_the_first_parameter_that_differs_is_named(
    finished_run: Path, small_npz: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    wider = arguments(small_npz, run, "--init-from", str(finished_run), "--z-dim", "3")
    with pytest.raises(
        UserError, match=r"^encoder\.\S*weight is \(4, 16\) in .*run and \(6, 16\) in this run\. Give"
    ):
        svi.main(wider)
    other = ["--model", "gmvae", *TINY, "--data", str(small_npz), "--run-dir", str(run)]
    with pytest.raises(UserError, match=r"is of vae, not of gmvae\. Name another with --init-from\.$"):
        svi.main([*other, "--init-from", str(finished_run)])
    with pytest.raises(UserError, match="cannot read"):
        svi.main(arguments(small_npz, run, "--init-from", str(tmp_path / "none")))
    assert not run.exists()


def test_options_that_change_no_shape_are_those_of_the_new_run(
    finished_run: Path, small_npz: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert svi.main(arguments(small_npz, run, "--init-from", str(finished_run), "--beta", "0.5")) == 0
    assert load(run).beta == 0.5 and load(finished_run).beta == 1


def test_json_of_a_training_is_all_of_stdout(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert svi.main(arguments(small_npz, run, "--json")) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"run": str(run), "test": Run.open(run).results()["test"]}
    assert "results, curves and pictures" in printed.err
