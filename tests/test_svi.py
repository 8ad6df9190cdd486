"""The main job as a user runs it: the run folder, stopping and going on, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from inference import datasets, svi
from inference.data import Batches, HeldOut
from inference.errors import BadInput, Diverged
from inference.estimators import Loss
from inference.evaluate import evaluate
from ppl_models import MODELS

TINY = ["--steps", "40", "--batch-size", "20", "--hidden", "16", "--z-dim", "2"]
SSVAE = ["--model", "ssvae", *TINY, "--labels", "6"]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(run)]


def same(a: object, b: object) -> bool:
    """Whether two checkpoints hold the same, bit for bit; all but the clock."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


def checkpoint(run: Path) -> dict:
    return torch.load(run / "checkpoint.pt", weights_only=True)


def test_a_run_leaves_a_folder_that_explains_itself(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert svi.main([*SSVAE, "--data", str(small_npz), "--run-dir", str(run), "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "step 40/40" in printed and "accuracy" in printed and str(run) in printed

    config = json.loads((run / "config.json").read_text())
    assert config["options"] == {
        "z_dim": 2,
        "hidden": 16,
        "labels": 6,
        "gen_weight": 1.0,
        "class_weight": 10.0,
    }
    assert {"versions", "commit", "labelled", "checksum", "command"} <= config.keys()
    assert len(config["labelled"]) == 6

    results = json.loads((run / "results.json").read_text())
    assert {key: results[key] for key in ("model", "data", "steps", "seed")} == {
        "model": "ssvae",
        "data": str(small_npz),
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
        "reconstructions.png",
    }


def test_training_learns(small_npz: Path, tmp_path: Path) -> None:
    """Three noisy prototypes: the bound falls near its floor, and two labels a class tell them apart."""
    run = tmp_path / "run"
    arguments = [*SSVAE, "--steps", "400", "--lr", "0.01", "--data", str(small_npz), "--run-dir", str(run)]
    assert svi.main(arguments) == 0
    test = [line for line in lines(run) if line["split"] == "test"]
    # each pixel is its prototype's with probability 0.9: 36 pixels cost 36 h(0.1) + log 3 = 12.8 nats at best
    assert test[0]["negative_elbo"] > 24 and 12 < test[-1]["negative_elbo"] < 17
    assert test[-1]["accuracy"] > 0.95


def test_classifier_alone(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert svi.main([*SSVAE, "--gen-weight", "0", "--data", str(small_npz), "--run-dir", str(run)]) == 0
    assert list(json.loads((run / "results.json").read_text())["test"]) == ["accuracy"]
    assert [path.name for path in (run / "figures").iterdir()] == ["curves.png"]


def test_evaluation_errors_are_what_they_say(small_npz: Path) -> None:
    """Standard errors from many repetitions agree with those that one evaluation reports."""
    data, _ = datasets.load(str(small_npz), Path("nowhere"))
    test, model = (
        HeldOut(data, MODELS["vae"], torch.device("cpu")),
        MODELS["vae"]((1, 6, 6), z_dim=2, hidden=16),
    )
    with torch.no_grad():
        model.decoder.layers[0].weight *= 20  # so that z matters
    before = torch.get_rng_state()
    figure = evaluate(model, test, draws=400)["negative_elbo"]
    assert torch.equal(torch.get_rng_state(), before)  # looking does not change training
    x = next(test.chunks(30))[0]["x"]
    with torch.no_grad():
        draws = torch.stack([_negative_elbo(model, x) for _ in range(2000)])  # (draws, images)
    assert figure["value"] == pytest.approx(draws.mean().item(), abs=5 * figure["mc_se"])
    assert figure["mc_se"] == pytest.approx(draws.mean(1).std().item() / 20, rel=0.1)
    assert figure["se"] == pytest.approx(draws.mean(0).std().item() / 30**0.5, rel=0.1)


def _negative_elbo(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    from inference.evaluate import draw_latents

    return model.bound(x, draw_latents(model, x=x)).negative_elbo


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "crash"])
def test_a_stopped_run_goes_on_bit_for_bit(
    how: str,
    small_npz: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(svi, "LOG_EVERY", 1)  # a crash leaves measurements that its checkpoint does not know
    arguments = [*SSVAE, "--data", str(small_npz), "--run-dir"]
    assert svi.main([*arguments, str(tmp_path / "whole")]) == 0

    draw = Batches.__call__

    def interrupted(self: Batches, step: int) -> dict[str, torch.Tensor]:
        if step == 17:
            if how == "crash":
                raise MemoryError
            os.kill(os.getpid(), signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
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
    assert same(checkpoint(stopped), checkpoint(tmp_path / "whole"))
    assert timeless(stopped) == timeless(tmp_path / "whole")
    results = [
        json.loads((tmp_path / name / "results.json").read_text())["test"] for name in ("whole", "stopped")
    ]
    assert results[0] == results[1]


def test_a_finished_run_can_be_trained_longer(small_npz: Path, tmp_path: Path) -> None:
    arguments = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir"]
    assert svi.main([*arguments, str(tmp_path / "a")]) == 0
    assert svi.main(["--resume", str(tmp_path / "a"), "--steps", "60"]) == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text())["steps"] == 60
    with pytest.raises(BadInput, match="is at step 60 already"):
        svi.main(["--resume", str(tmp_path / "a"), "--steps", "40"])
    assert svi.main([*arguments, str(tmp_path / "b"), "--steps", "60"]) == 0
    assert same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))


def test_a_loss_that_is_not_finite_stops_the_run(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        Loss, "forward", lambda self, **batch: sum(p.sum() for p in self.parameters()) * torch.nan
    )
    run = tmp_path / "run"
    arguments = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(run)]
    with pytest.raises(Diverged, match="loss is nan at step 1"):
        svi.main(arguments)
    assert checkpoint(run)["step"] == 0  # the last good one


REFUSED = {
    "no model": ([], "name one with --model"),
    "unknown model": (["--model", "svae"], "did you mean ssvae"),
    "unknown data": (["--model", "vae", "--data", "minst"], "did you mean mnist"),
    "missing file": (["--model", "vae", "--data", "none.npz"], "no file none.npz"),
    "negative steps": (["--model", "vae", "--steps", "-5"], "-5 is not a number above zero"),
    "steps not a number": (["--model", "vae", "--steps", "many"], "invalid int value: 'many'"),
    "infinite rate": (["--model", "vae", "--lr", "inf"], "inf is not a number above zero"),
    "negative weight": (["--model", "ssvae", "--gen-weight", "-1"], "-1 is not a number, zero or more"),
    "another model's option": (["--model", "vae", "--labels", "10"], "unrecognized arguments: --labels"),
    "estimator": (["--model", "ssvae", "--elbo", "trace", "--data", "digits"], "unknown --elbo for ssvae"),
    "device": (["--model", "vae", "--device", "gpu", "--data", "digits"], "unknown device"),
    "too many labels": (["--model", "ssvae", "--labels", "90000", "--data", "digits"], "lower --labels"),
    "labels not shared": (["--model", "ssvae", "--labels", "15", "--data", "digits"], "try --labels 20"),
    "batch": (["--model", "vae", "--batch-size", "5000", "--data", "digits"], "lower --batch-size"),
    "nothing to train": (
        ["--model", "ssvae", "--gen-weight", "0", "--class-weight", "0", "--data", "digits"],
        "nothing is left to train",
    ),
    "no run": (["--resume", "nowhere"], "nowhere is no run"),
    "changed on resume": (["--resume", "nowhere", "--lr", "1"], "--lr cannot change on --resume"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, complaint = REFUSED[case]
    with pytest.raises(BadInput) as caught:
        svi.main(arguments)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # nothing was made


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro says so too
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--model", "vae", *TINY, "--lr", "1e20", "--data", str(small_npz), "--run-dir", str(run)]
    with pytest.raises(Diverged, match="try a lower --lr"):
        svi.main(arguments)
    state = checkpoint(run)
    assert all(
        parameter.isfinite().all() and parameter.abs().max() < 10
        for parameter in state["parameters"].values()
    )
    assert all(np.isfinite(list(line.values())[3:]).all() for line in lines(run))


def test_a_half_written_line_does_not_stop_a_run_from_going_on(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert svi.main(["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    whole = lines(run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 41, "spl')
    assert svi.main(["--resume", str(run)]) == 0
    assert lines(run) == whole


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


def test_without_class_weight_labels_are_not_learnt(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert svi.main([*SSVAE, "--class-weight", "0", "--data", str(small_npz), "--run-dir", str(run)]) == 0
    assert "classification" not in lines(run)[-1]


def test_accuracy_is_read_on_grey_levels() -> None:
    """A classifier that reads one pixel's level: right on grey images, undecided on binary ones."""
    grey = torch.tensor([100, 150], dtype=torch.uint8).repeat(50)  # below and above the middle
    x = grey[:, None, None, None].expand(100, 1, 2, 2).contiguous()
    data = datasets.Dataset("levels", x, (grey > 127).long(), x, (grey > 127).long())
    model = MODELS["ssvae"]((1, 2, 2), 2, z_dim=2, hidden=4)
    model.classify = lambda x: torch.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5], dim=-1)
    test = HeldOut(data, type(model), torch.device("cpu"))
    assert evaluate(model, test)["accuracy"]["value"] == 1.0
    assert 0.3 < ((test.x[:, 0, 0, 0] > 0.5) == data.y_test).float().mean() < 0.7


def test_labels_reach_a_model_that_takes_them_for_every_image(small_npz: Path) -> None:
    class Conditional(MODELS["vae"]):
        """A VAE that is given y as an input: p(x | z, y) = p(x | z), the label only looked at."""

        inputs, has_label = ("x", "y"), True
        seen: dict[str, torch.Tensor] = {}

        def model(self, x, y):
            self.seen["model"] = y
            super().model(x)

        def guide(self, x, y):
            self.seen["guide"] = y
            super().guide(x)

        def bound(self, x, latents, y, **kl):
            self.seen["bound"] = y
            return super().bound(x, latents, **kl)

    data, _ = datasets.load(str(small_npz), Path("nowhere"))
    model, cpu = Conditional((1, 6, 6), 3, z_dim=2, hidden=8), torch.device("cpu")
    batches = Batches(data, Conditional, 90, 0, torch.empty(0), cpu)
    batch = batches(0)
    Loss(model, "mean_field")(**batch)
    assert data.y_train is not None and torch.equal(model.seen["model"], data.y_train[batches.order])
    evaluate(model, HeldOut(data, Conditional, cpu))
    assert torch.equal(model.seen["bound"], data.y_test)
    y = torch.tensor([2, 0])
    assert model.reconstruct(batch["x"][:2], y).shape == (2, 1, 6, 6)
    assert model.seen["guide"] is y and model.seen["model"] is y
    assert model.sample(2, y=y).shape == (2, 1, 6, 6)


def test_bad_runs_are_refused(small_npz: Path, tmp_path: Path) -> None:
    vae, ssvae = tmp_path / "vae", tmp_path / "ssvae"
    arguments = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(vae)]
    assert svi.main(arguments) == 0
    assert svi.main([*SSVAE, "--data", str(small_npz), "--run-dir", str(ssvae)]) == 0

    def refused(complaint: str, *arguments: str) -> None:
        with pytest.raises(BadInput, match=complaint) as caught:
            svi.main(list(arguments))
        assert "\n" not in str(caught.value)

    before = (vae / "results.json").read_bytes()
    refused("exists and is not empty", *arguments)
    refused("is a run of vae, not of ssvae", "--resume", str(vae), "--model", "ssvae")
    (vae / "checkpoint.pt").write_bytes((ssvae / "checkpoint.pt").read_bytes())
    refused("is a checkpoint of ssvae, not of vae", "--resume", str(vae))
    whole = (ssvae / "checkpoint.pt").read_bytes()
    (ssvae / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    refused("checkpoint.pt is corrupt", "--resume", str(ssvae))
    (ssvae / "checkpoint.pt").unlink()
    refused("has no checkpoint.pt", "--resume", str(ssvae))
    (vae / "checkpoint.pt").write_bytes(whole.replace(b"generator", b"gene_ator"))
    refused("checkpoint.pt is corrupt", "--resume", str(vae))
    (ssvae / "checkpoint.pt").write_bytes(whole)
    config = json.loads((ssvae / "config.json").read_text())
    for changed in ({"hidden": 17}, {"z_dim": 3}):
        (ssvae / "config.json").write_text(json.dumps(config | {"options": config["options"] | changed}))
        refused("do not belong together", "--resume", str(ssvae))
    (ssvae / "config.json").write_text(json.dumps(config | {"options": config["options"] | {"none": 1}}))
    refused("cannot be made", "--resume", str(ssvae))
    for damaged in ("{", "[]", "{}", json.dumps({**config, "checksum": None} | {"seed": 0, "model": "none"})):
        (ssvae / "config.json").write_text(damaged)
        refused("config.json is damaged", "--resume", str(ssvae))
    assert (vae / "results.json").read_bytes() == before


def test_data_that_changed_is_refused(tmp_path: Path) -> None:
    x, path = np.zeros((20, 4, 4), np.uint8), tmp_path / "own.npz"  # without labels
    np.savez(path, x_train=x, x_test=x)
    run = str(tmp_path / "run")
    arguments = ["--data", str(path), "--run-dir", run]
    assert svi.main(["--model", "vae", *TINY, *arguments]) == 0
    with pytest.raises(BadInput, match="has no labels"):
        svi.main(["--model", "ssvae", *TINY, *arguments])
    np.savez(path, x_train=x + 1, x_test=x)
    with pytest.raises(BadInput, match="not the data that the run began with"):
        svi.main(["--resume", run])


def test_the_command_exits_with_two_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "inference.svi", "--model", "svae"],
        capture_output=True,
        text=True,
        cwd=Path.cwd(),
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown model 'svae': did you mean ssvae?\n"


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
