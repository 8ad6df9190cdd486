"""The main job as a user runs it: the run folder, stopping and going on."""

import json
import signal
from pathlib import Path

import pytest
import torch

from inference import svi
from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.observations import IMAGES
from inference.errors import UserError
from inference.metrics.bounds import evaluate_bounds
from inference.rundir.restore import restore
from inference.training import loop
from ppl_models import MODELS
from tests.support import SSVAE, TINY, checkpoint, lines, same, shortened, timeless


@pytest.mark.usefixtures("with_pictures")
def test_a_run_leaves_a_folder_that_explains_itself(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--steps", "40", "--seed", "3", "--data", str(small_npz), "--run-dir", str(run)]
    assert svi.main([*SSVAE, *options]) == 0
    printed = capsys.readouterr().out
    assert "step 40/40" in printed and "accuracy" in printed and str(run) in printed

    config = json.loads((run / "config.json").read_text())
    assert config["options"] == {
        "z_dim": 2,
        "hidden": 16,
        "labels": 6,
        "gen_weight": 1.0,
        "class_weight": 10.0,
        "likelihood": "auto",
    }
    assert {"versions", "commit", "labelled", "checksum", "command"} <= config.keys()
    assert len(config["labelled"]) == 6

    results = json.loads((run / "results.json").read_text())
    assert {key: results[key] for key in ("model", "data", "steps", "seed")} == {
        "model": "ssvae",
        "data": small_npz.name,
        "steps": 40,
        "seed": 3,
    }
    test = results["test"]
    assert list(test) == ["negative_elbo", "reconstruction", "kl", "kl_z", "kl_y", "accuracy"]
    total = sum(test[name]["value"] for name in ("reconstruction", "kl_z", "kl_y"))
    assert test["negative_elbo"]["value"] == pytest.approx(total, abs=1e-4)
    assert test["accuracy"]["value"] * 30 == pytest.approx(round(test["accuracy"]["value"] * 30))
    assert all(figure["se"] > 0 for figure in test.values())

    steps = [line["step"] for line in lines(run) if line["split"] == "test"]
    assert steps == [0, *range(2, 41, 2)]
    assert {path.name for path in (run / "figures").iterdir()} == {
        "curves.png",
        "samples.png",
        "sample_means.png",
        "samples_16.png",
        "reconstructions.png",
        "reconstructions_5.png",
        "training.png",
        "latents.png",
    }


def test_training_learns(small_npz: Path, tmp_path: Path) -> None:
    """Three noisy prototypes: the bound falls near its floor, and two labels a class tell them apart."""
    run = tmp_path / "run"
    arguments = [*SSVAE, "--steps", "200", "--lr", "0.01", "--data", str(small_npz), "--run-dir", str(run)]
    assert svi.main(arguments) == 0
    test = [line for line in lines(run) if line["split"] == "test"]
    # each pixel is its prototype's with probability 0.9: 36 pixels cost 36 h(0.1) + log 3 = 12.8 nats at best
    assert test[0]["negative_elbo"] > 24 and 12 < test[-1]["negative_elbo"] < 17
    assert test[-1]["accuracy"] > 0.95


@pytest.mark.usefixtures("with_pictures")
def test_classifier_alone(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert svi.main([*SSVAE, "--gen-weight", "0", "--data", str(small_npz), "--run-dir", str(run)]) == 0
    assert list(json.loads((run / "results.json").read_text())["test"]) == ["accuracy"]
    assert sorted(path.name for path in (run / "figures").iterdir()) == ["curves.png", "training.png"]


@pytest.fixture(scope="module")
def whole(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stops, with a log line for every step."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        options = ["--steps", "40", "--data", str(small_npz), "--run-dir", str(run)]
        assert svi.main([*SSVAE, *options]) == 0
    return run


@pytest.mark.parametrize("how", shortened(["Ctrl-C", "SIGTERM", "crash"], ["SIGTERM", "crash"]))
def test_a_stopped_run_goes_on_bit_for_bit(
    how: str,
    whole: Path,
    small_npz: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)  # a crash leaves measurements that its checkpoint does not know
    arguments = [*SSVAE, "--steps", "40", "--data", str(small_npz), "--run-dir"]
    draw, sent = Batches.__call__, []

    def interrupted(self: Batches, step: int) -> dict[str, torch.Tensor]:
        if step == 17 and not sent:
            sent.append(step)
            if how == "crash":
                raise MemoryError
            signal.raise_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__call__", interrupted)
        stopped = tmp_path / "stopped"
        if how == "crash":
            with pytest.raises(MemoryError):
                svi.main([*arguments, str(stopped)])
        else:
            assert svi.main([*arguments, str(stopped)]) == 130
            assert f"--resume {stopped}" in capsys.readouterr().out
    assert checkpoint(stopped)["step"] == (16 if how == "crash" else 18)
    assert not (stopped / "results.json").exists()

    assert svi.main(["--resume", str(stopped)]) == 0
    assert same(checkpoint(stopped), checkpoint(whole))
    assert timeless(stopped) == timeless(whole)
    results = [json.loads((run / "results.json").read_text())["test"] for run in (whole, stopped)]
    assert results[0] == results[1]


def test_a_finished_run_can_be_trained_longer(small_npz: Path, tmp_path: Path) -> None:
    arguments = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir"]
    assert svi.main([*arguments, str(tmp_path / "a")]) == 0
    assert svi.main(["--resume", str(tmp_path / "a"), "--steps", "15"]) == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text())["steps"] == 15
    with pytest.raises(UserError, match=r"is at step 15 already\. Give --steps 15 or more\."):
        svi.main(["--resume", str(tmp_path / "a"), "--steps", "10"])
    assert svi.main([*arguments, str(tmp_path / "b"), "--steps", "15"]) == 0
    assert same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))


def test_a_validation_part_is_kept_apart_and_measured(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In training, at the end, when the run goes on, and when it is read again."""
    arguments = ["--model", "vae", *TINY, "--data", str(small_npz), "--validation", "0.2", "--run-dir"]
    assert svi.main([*arguments, str(tmp_path / "a"), "--steps", "5"]) == 0
    assert "72 training, 30 test, 18 validation images of 6x6" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "config.json").read_text())["validation"] == 0.2
    assert svi.main(["--resume", str(tmp_path / "a"), "--steps", "10"]) == 0
    assert svi.main([*arguments, str(tmp_path / "b")]) == 0
    assert same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))  # the same batches of the 72
    by_split = {
        split: [line for line in lines(tmp_path / "b") if line["split"] == split]
        for split in ("test", "validation")
    }
    test, valid = by_split.values()
    assert [line["step"] for line in valid] == [line["step"] for line in test] == list(range(11))
    assert all(a["negative_elbo"] != b["negative_elbo"] for a, b in zip(test, valid, strict=True))
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    assert results["validation"].keys() == results["test"].keys()
    _, _, data, model = restore(tmp_path / "b")
    own = HeldOut(Dataset("own", data.x_train, None, data.x_valid, None), type(model), torch.device("cpu"))
    assert len(own) == 18 and evaluate_bounds(model, own, IMAGES.samples) == results["validation"]


def test_a_half_written_line_does_not_stop_a_run_from_going_on(own_run: Path) -> None:
    whole = lines(own_run)
    with open(own_run / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "spl')
    assert svi.main(["--resume", str(own_run)]) == 0
    assert lines(own_run) == whole


def test_runs_begun_in_the_same_second_do_not_share_a_folder(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    for _ in range(2):
        assert svi.main(["--model", "vae", *TINY, "--data", str(small_npz)]) == 0
    folders = sorted(path.name for path in (tmp_path / "runs" / "vae").iterdir())
    assert folders == ["20260101-000000-0", "20260101-000000-0.2"]


def test_resume_finds_the_data_again_from_anywhere(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_npz.parent)
    run = tmp_path / "run"
    assert svi.main(["--model", "vae", *TINY, "--data", small_npz.name, "--run-dir", str(run)]) == 0
    monkeypatch.chdir(tmp_path)
    assert svi.main(["--resume", "run"]) == 0


def test_looking_leaves_batch_norm_as_it_was(small_npz: Path, tmp_path: Path, monkeypatch) -> None:
    """Running averages move by the steps alone, however often training is looked at."""
    arguments = [
        "--model",
        "ae",
        "--z-dim",
        "2",
        "--steps",
        "3",
        "--batch-size",
        "9",
        "--data",
        str(small_npz),
    ]
    for name, every in (("often", 1), ("seldom", 1_000)):
        monkeypatch.setattr(loop, "LOG_EVERY", every)
        assert svi.main([*arguments, "--run-dir", str(tmp_path / name)]) == 0
    assert same(checkpoint(tmp_path / "often"), checkpoint(tmp_path / "seldom"))
    assert checkpoint(tmp_path / "often")["parameters"]["encoder.3.num_batches_tracked"] == 3


def test_particles_and_what_beta_stands_for(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(small_npz), "--run-dir"]
    iwae = ["--model", "vae", *TINY, "--elbo", "iwae", "--particles", "3"]
    assert svi.main([*iwae, *data, str(tmp_path / "iwae")]) == 0
    config = json.loads((tmp_path / "iwae" / "config.json").read_text())
    assert (config["elbo"], config["particles"]) == ("iwae", 3)
    beta = ["--model", "beta_vae", "--z-dim", "2", "--steps", "1", "--batch-size", "9", "--beta", "0.01"]
    assert svi.main([*beta, *data, str(tmp_path / "beta")]) == 0
    assert "a Gaussian decoder of scale 1.98" in capsys.readouterr().out
    config = json.loads((tmp_path / "beta" / "config.json").read_text())
    assert config["particles"] == 1 and config["shape"] == [1, 6, 6]


def test_without_class_weight_labels_are_not_learnt(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert svi.main([*SSVAE, "--class-weight", "0", "--data", str(small_npz), "--run-dir", str(run)]) == 0
    assert "classification" not in lines(run)[-1]


def test_help_lists_models_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--help"], MODELS),
        (["--model", "ssvae", "--help"], ["--labels", "--gen-weight"]),
    ):
        with pytest.raises(SystemExit) as caught:
            svi.main(arguments)
        assert caught.value.code == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)
    assert "(default: 100; 20 on images of at most 16x16)" in " ".join(printed.split())
