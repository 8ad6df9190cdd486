"""What a command refuses, in one clear line, and what a run that goes wrong leaves whole."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import Adam

import inference.evaluate as evaluate_command
from inference import svi
from inference.backend.files import pack
from inference.cli.train import configuration, parse
from inference.data.dataset import Dataset
from inference.data.load import find_dataset
from inference.elbo.estimators import Loss
from inference.errors import TrainingDiverged, UserError
from inference.rundir.checkpoint import config_digest
from inference.rundir.run import Run
from inference.training.schedules import learning_rate
from inference.training.setup import check_data
from ppl_models import MODELS
from tests import forks
from tests.support import LONGER, SSVAE, TINY, checkpoint, lines

REFUSED = {
    "no model": ([], "Name one with --model"),
    "unknown model": (["--model", "svae"], "did you mean ssvae"),
    "unknown data": (["--model", "vae", "--data", "minst"], "did you mean mnist"),
    "missing file": (["--model", "vae", "--data", "none.npz"], "no file none.npz"),
    "missing folder": (
        ["--model", "vae", "--data", "none/"],
        "no file or folder none/. Give the path",
    ),
    "neither a name nor a file": (["--model", "vae", "--data", "nofolder"], "'nofolder': choose from mnist,"),
    "negative steps": (["--model", "vae", "--steps", "-5"], "-5 is not a whole number above zero"),
    "steps not a number": (["--model", "vae", "--steps", "many"], "many is not a whole number above zero"),
    "infinite rate": (["--model", "vae", "--lr", "inf"], "inf is not a number above zero"),
    "negative weight": (["--model", "ssvae", "--gen-weight", "-1"], "-1 is not a number, zero or more"),
    "another model's option": (
        ["--model", "vae", "--labels", "10"],
        "--labels is an option of ssvae, regularized_ssvae, adgm, not of vae: leave it out",
    ),
    "estimator": (["--model", "ssvae", "--elbo", "trace", "--data", "digits"], "unknown --elbo for ssvae"),
    "device": (["--model", "vae", "--device", "gpu", "--data", "digits"], "unknown device"),
    "too many labels": (["--model", "ssvae", "--labels", "90000", "--data", "digits"], "Lower --labels"),
    "labels not shared": (["--model", "ssvae", "--labels", "15", "--data", "digits"], "Try --labels 20"),
    "labels beside a file of them": (
        ["--model", "ssvae", "--labelled", "some.txt", "--labels", "20", "--data", "digits"],
        "--labelled already says how many images are labelled: leave out --labels",
    ),
    "a file of labels beside validation": (
        ["--model", "ssvae", "--labelled", "some.txt", "--validation", "0.1", "--data", "digits"],
        "--validation takes some of them away: leave out --validation",
    ),
    "a model without labels": (
        ["--model", "vae", "--labelled", "some.txt"],
        "--labelled does not apply to vae: leave it out",
    ),
    "batch": (["--model", "vae", "--batch-size", "5000", "--data", "digits"], "Lower --batch-size"),
    "nothing to train": (
        ["--model", "ssvae", "--gen-weight", "0", "--class-weight", "0", "--data", "digits"],
        "nothing is left to train",
    ),
    "weights in iwae": (
        ["--model", "vae", "--elbo", "iwae", "--kl-warmup", "9", "--data", "digits"],
        "iwae does not support weights: leave out --kl-warmup",
    ),
    "a batch of one": (
        ["--model", "beta_vae", "--batch-size", "1", "--data", "digits"],
        "batch norm needs two images: --batch-size 2 or more",
    ),
    "no share": (["--model", "vae", "--validation", "1"], "1 is not a number from 0 to below 1"),
    "nothing left to train on": (
        ["--model", "vae", "--validation", "0.9995", "--data", "digits"],
        "0.9995 of 1297 training images leaves one part empty. Give another --validation",
    ),
    "a batch larger than what is left": (
        ["--model", "vae", "--validation", "0.1", "--batch-size", "1297", "--data", "digits"],
        "1167 training images, fewer than a batch of 1297. Lower --batch-size to 1167 or less.",
    ),
    "no run": (["--resume", "nowhere"], "no readable config.json. Name a folder that a training wrote."),
    "changed on resume": (["--resume", "nowhere", "--lr", "1"], "--lr cannot change on --resume"),
    "another split on resume": (
        ["--resume", "nowhere", "--validation", "0.1"],
        "--validation cannot change on --resume",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, complaint = REFUSED[case]
    with pytest.raises(UserError) as caught:
        svi.main(arguments)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # nothing was made


def test_bad_runs_are_refused(small_npz: Path, tmp_path: Path) -> None:
    vae, ssvae = tmp_path / "vae", tmp_path / "ssvae"
    arguments = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(vae)]
    assert svi.main(arguments) == 0
    assert svi.main([*SSVAE, "--data", str(small_npz), "--run-dir", str(ssvae)]) == 0

    def refused(complaint: str, *arguments: str) -> None:
        with pytest.raises(UserError, match=complaint) as caught:
            svi.main(list(arguments))
        assert "\n" not in str(caught.value)

    before = (vae / "results.json").read_bytes()
    refused("is not empty", *arguments)
    refused("is a run of vae, not of ssvae", "--resume", str(vae), "--model", "ssvae")
    (vae / "checkpoint.pt").write_bytes((ssvae / "checkpoint.pt").read_bytes())
    refused("is a checkpoint of ssvae, not of vae", "--resume", str(vae))
    whole = (ssvae / "checkpoint.pt").read_bytes()
    (ssvae / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    refused("checkpoint.pt is damaged", "--resume", str(ssvae))
    (ssvae / "checkpoint.pt").unlink()
    refused("has lost its checkpoint.pt", "--resume", str(ssvae))
    (vae / "checkpoint.pt").write_bytes(whole.replace(b"generator", b"gene_ator"))
    refused("checkpoint.pt is damaged", "--resume", str(vae))
    (ssvae / "checkpoint.pt").write_bytes(whole)
    config = json.loads((ssvae / "config.json").read_text())
    for changed in ({"hidden": 17}, {"z_dim": 3}):
        (ssvae / "config.json").write_text(json.dumps(config | {"options": config["options"] | changed}))
        refused("do not belong together", "--resume", str(ssvae))
    for damaged in (3, [0.5], ["0"]):
        (ssvae / "config.json").write_text(json.dumps(config | {"labelled": damaged}))
        refused("config.json is damaged.*labelled is .*not a list of whole numbers", "--resume", str(ssvae))
    (ssvae / "config.json").write_text(json.dumps(config | {"options": config["options"] | {"none": 1}}))
    refused("config.json does not fit: options of ssvae are", "--resume", str(ssvae))
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
    with pytest.raises(UserError, match="has no y_train and no y_test"):
        svi.main(["--model", "ssvae", *TINY, *arguments])
    np.savez(path, x_train=x + 1, x_test=x)
    with pytest.raises(UserError, match="not the data that the run used"):
        svi.main(["--resume", run])


LABELLED = {
    name: ["--model", name, "--data"] for name, cls in MODELS.items() if {"y", "x_labelled"} & set(cls.inputs)
}


@pytest.mark.parametrize("name", LABELLED)
def test_a_model_of_labels_says_that_it_needs_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(LABELLED) == ["ssvae", "regularized_ssvae", "adgm", "fsvae"]
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", x_train=np.eye(8)[None].repeat(20, 0), x_test=np.eye(8)[None])
    with pytest.raises(UserError, match=r"own\.npz has no y_train and no y_test\. Add") as caught:
        svi.main([*LABELLED[name], "own.npz", "--run-dir", "run"])
    assert "\n" not in str(caught.value) and not Path("run").exists()
    x = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=f"bare has no labels, and {name} needs them: add y_train and y_test"):
        check_data(MODELS[name], {}, Dataset("bare", x, None, x, None))


@pytest.mark.usefixtures("with_pictures")
def test_a_file_named_figures_is_no_lack_of_room(own_run: Path) -> None:
    (own_run / "figures").rmdir()
    (own_run / "figures").write_text("mine")
    for main, arguments in ((svi.main, ["--resume", str(own_run)]), (evaluate_command.main, [str(own_run)])):
        with pytest.raises(UserError, match=r"figures is not a folder\. Move it away"):
            main(arguments)
    assert (own_run / "figures").read_text() == "mine"
    (own_run / "figures").unlink()
    assert svi.main(["--resume", str(own_run)]) == 0 and (own_run / "figures" / "samples.png").exists()


def test_the_scale_of_images_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run on images 0 to 1, a little above 1 from rounding, is the run on the same as bytes."""
    x = np.random.RandomState(0).randint(256, size=(30, 6, 6)).astype(np.uint8)
    x[:, 0, 0] = 255
    ends = []
    for name, images, scale in (("bytes", x, 255), ("unit", x / 255 * 1.000001, 1)):
        np.savez(tmp_path / f"{name}.npz", x_train=images[:20], x_test=images[20:])
        run, path = tmp_path / name, tmp_path / f"{name}.npz"
        assert svi.main(["--model", "vae", *TINY, "--data", str(path), "--run-dir", str(run)]) == 0
        assert f"{path}: images are read on a scale of 0 to {scale}\n" in capsys.readouterr().out
        assert json.loads((run / "config.json").read_text())["scale"] == scale
        ends.append(lines(run)[-1]["negative_elbo"])
    assert ends[0] == ends[1]


def test_the_command_exits_with_two_and_no_traceback(tmp_path: Path) -> None:
    done = forks.run("-m", "inference.svi", "--model", "svae")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown model 'svae': did you mean ssvae?\n"


def test_losses_that_are_not_finite_stop_the_run(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        Loss, "forward", lambda self, **batch: sum(p.sum() for p in self.parameters()) * torch.nan
    )
    run = tmp_path / "run"
    arguments = ["--model", "vae", *LONGER, "--data", str(small_npz), "--run-dir", str(run)]
    with pytest.raises(
        TrainingDiverged, match=r"skipped 10 consecutive steps, up to step 10\. Lower the learning rate"
    ):
        svi.main(arguments)
    said = capsys.readouterr().err
    assert "step 1 is skipped: the loss is nan" in said and "step 10 is skipped" in said
    first, last = lines(run)[0], checkpoint(run)  # of step 8: what was learned up to there is as it began
    assert last["step"] == last["skipped"] == last["consecutive_skips"] == 8
    assert lines(run)[-1]["negative_elbo"] == first["negative_elbo"]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    what: str,
    small_npz: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Steps 6 and 21 leave no trace: the same weights as where their gradients are exactly nought."""
    forward, calls = Loss.forward, []

    def spoilt(self: Loss, **batch: torch.Tensor) -> torch.Tensor:
        objective = forward(self, **batch)
        calls.append(objective)
        if len(calls) not in (6, 21):
            return objective
        if what == "loss":
            return objective * torch.inf
        first = next(self.parameters()).flatten()[0]
        return objective + (first - first.detach()).sqrt()  # 0, with an infinite slope

    monkeypatch.setattr(Loss, "forward", spoilt)
    run = tmp_path / "run"
    steps: list[int] = []
    step = Adam.step
    monkeypatch.setattr(Adam, "step", lambda self: (steps.append(len(calls)), step(self)))
    arguments = ["--model", "vae", *LONGER, "--data", str(small_npz), "--run-dir", str(run)]
    assert svi.main(arguments) == 0
    assert steps == [i for i in range(1, 41) if i not in (6, 21)]
    assert json.loads((run / "results.json").read_text())["skipped"] == 2
    said = capsys.readouterr().err
    names = "the loss is" if what == "loss" else "the gradient of encoder.layers.0.weight is not finite"
    assert f"step 6 is skipped: {names}" in said and "step 21" not in said  # once is enough


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro says so too
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--model", "vae", *TINY, "--lr", "1e20", "--data", str(small_npz), "--run-dir", str(run)]
    with pytest.raises(TrainingDiverged, match="Lower the learning rate"):
        svi.main(arguments)
    state = checkpoint(run)
    assert all(
        parameter.isfinite().all() and parameter.abs().max() < 10
        for parameter in state["parameters"].values()
    )
    assert all(np.isfinite(list(line.values())[3:]).all() for line in lines(run))


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_steps_in_a_row_are_counted_across_a_stop(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine, a good one, and nine again do not end a run; five before a stop and five after it do."""
    forward, good = Loss.forward, [10, 20]
    calls: list[int] = []

    def spoilt(self: Loss, **batch: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return forward(self, **batch) * (1 if len(calls) in good else torch.nan)

    monkeypatch.setattr(Loss, "forward", spoilt)
    arguments = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir"]
    assert svi.main([*arguments, str(tmp_path / "a"), "--steps", "20"]) == 0
    assert json.loads((tmp_path / "a" / "results.json").read_text())["skipped"] == 18
    good.clear()
    assert svi.main([*arguments, str(tmp_path / "b"), "--steps", "5"]) == 0
    with pytest.raises(TrainingDiverged, match="up to step 10\\."):
        svi.main(["--resume", str(tmp_path / "b"), "--steps", "40"])


@pytest.mark.parametrize("model", ["vae", "vae2d"])
@pytest.mark.parametrize(
    ("option", "enough"), [("--lr-warmup", 40), ("--kl-warmup", 41)]
)  # the last step has the whole learning rate, and the whole beta
def test_a_warm_up_that_does_not_end_is_refused(
    model: str, option: str, enough: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data", "gauss-full-1" if model == "vae2d" else "digits", "--schedule", "constant"]
    with pytest.raises(UserError) as caught:
        svi.main(["--model", model, *data, option, "40", "--steps", str(enough - 1)])
    found = f"{option} 40 does not end within {enough - 1} steps"
    assert str(caught.value) == f"{found}. Give --steps {enough} or more, or a shorter {option}."
    assert list(tmp_path.iterdir()) == []
    known = find_dataset(data[1], tmp_path)[0]
    config = configuration(parse(["--model", model, *data, option, "40", "--steps", str(enough)]), known)
    last = enough - 1
    assert learning_rate(last, config) == config.lr and last >= config.kl_warmup


def test_a_resumed_run_ends_after_its_warm_up(small_npz: Path, tmp_path: Path) -> None:
    """Also if its config.json was changed: of a run without a checkpoint nothing else can tell."""
    run, data = tmp_path / "run", ["--data", str(small_npz)]
    arguments = [
        "--model",
        "vae",
        *LONGER,
        *data,
        "--kl-warmup",
        "20",
        "--lr-warmup",
        "30",
        "--run-dir",
        str(run),
    ]
    assert svi.main(arguments) == 0
    state = checkpoint(run)
    (run / "checkpoint.pt").write_bytes(pack(state | {"step": 10}))
    config = (run / "config.json").read_bytes()
    for steps, option in (("15", "--lr-warmup 30"), ("29", "--lr-warmup 30")):
        with pytest.raises(
            UserError, match=f"{option} does not end within {steps} steps. Give --steps 30 or more"
        ):
            svi.main(["--resume", str(run), "--steps", steps])
    assert (run / "config.json").read_bytes() == config
    changed = json.loads(config) | {"kl_warmup": 40}
    (run / "config.json").write_text(json.dumps(changed))
    digest = config_digest(Run.open(run).config)
    (run / "checkpoint.pt").write_bytes(pack(state | {"step": 10, "config_digest": digest}))
    with pytest.raises(
        UserError, match=r"--kl-warmup 40 does not end within 40 steps\. Give --steps 41 or more"
    ):
        svi.main(["--resume", str(run)])


def test_a_default_warm_up_is_a_quarter_of_the_steps_at_most(tmp_path: Path) -> None:
    digits = find_dataset("digits", tmp_path)[0]
    found = {}
    for steps in (3, 60, 500):
        found[steps] = [
            getattr(configuration(parse(["--model", name, "--steps", str(steps)]), digits), key)
            for name, key in (("hvae", "kl_warmup"), ("pixel_vae", "lr_warmup"), ("vae", "kl_warmup"))
        ]
    assert found == {3: [0, 0, 0], 60: [15, 15, 0], 500: [100, 20, 0]}
    config = configuration(parse(["--model", "hvae", "--steps", "60", "--kl-warmup", "50"]), digits)
    assert config.kl_warmup == 50  # what is asked for is not changed


def test_a_norm_of_gradients_that_trains_nothing_is_refused(small_npz: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", ["--data", str(small_npz)]
    arguments = ["--model", "vae", *LONGER, *data, "--run-dir", str(run), "--clip"]
    for norm in ("1e-30", "9.9e-7"):
        with pytest.raises(UserError, match=f"{norm} is not 0, or a norm of at least 1e-06"):
            svi.main([*arguments, norm])
    assert not run.exists()
    assert svi.main([*arguments, "1e-6"]) == 0  # the limit itself trains nearly as without clipping
    free = tmp_path / "free"
    assert svi.main([*arguments[:-3], "--run-dir", str(free)]) == 0
    fell, would = (
        lines(folder)[0]["negative_elbo"] - lines(folder)[-1]["negative_elbo"] for folder in (run, free)
    )
    assert fell > 0.3 * would > 0
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"clip": 1e-30}))
    with pytest.raises(UserError, match="clip is 1e-30, not 0, or a norm of at least 1e-06"):
        svi.main(["--resume", str(run)])
