"""A sweep: its runs, what goes on where it stopped, and the table and picture that it leaves.

The runs train in the process of the tests. `tests/tuning` has what Ray does.
"""

import json
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import matplotlib.axes
import numpy as np
import pytest
import torch

from inference import svi, sweep
from inference.data.batches import Batches
from inference.errors import TrainingDiverged, UserError
from inference.rundir.restore import restore
from tests.support import LONGER, SSVAE, TINY, checkpoint, same, shortened
from tools import table

SHORT = [*TINY, "--steps", "4"]
GRID = ["--model", "vae", "--over", "beta=0.5,1", "--seeds", "0,3", *SHORT]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of every run that has been started; they train here, without their own pictures."""
    commands: list[list[str]] = []

    def train_here(plan: sweep.Plan) -> tuple[bool, list[str]]:
        failed = []
        for job in plan.jobs.values():
            stage = plan.stage(job)
            if stage in ("new", "started"):
                commands.append(job.start if stage == "new" else job.resume)
                try:
                    assert svi.main(commands[-1]) == 0
                except (UserError, TrainingDiverged):
                    failed.append(job.name)
        return False, failed

    monkeypatch.setattr(sweep, "check_packages", lambda: None)
    monkeypatch.setattr(sweep, "run_trials", train_here)
    monkeypatch.setattr("inference.fitting.draw_all", lambda *_: None)
    return commands


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def refused(complaint: str, arguments: list[str]) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        sweep.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("with_report")
def test_the_whole_grid_is_run_once(
    small_npz: Path, tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [*GRID, "--over", "lr=0.01", "--data", str(small_npz), "--out", str(out)]
    assert sweep.main(arguments) == 0
    configs = {
        (beta, lr, seed): read(out / f"beta={beta},lr={lr}" / f"seed={seed}" / "config.json")
        for beta, lr in ((0.5, 0.01), (1, 0.01))
        for seed in (0, 3)
    }
    assert len(list(out.glob("*/seed=*/results.json"))) == len(started) == 4
    for asked, config in configs.items():
        assert (config["options"]["beta"], config["lr"], config["seed"]) == asked
        assert (config["steps"], config["options"]["hidden"], config["data"]) == (4, 16, str(small_npz))

    printed = capsys.readouterr().out
    assert (out / "index.html").read_text("utf-8").count("/report.html") == 4
    table = (out / "table.md").read_text()
    assert table in printed
    head, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert [title.strip() for title in head] == ["beta", "lr", "seeds", "-ELBO", "reconstruction", "KL"]
    results = read(out / "results.json")
    assert len(lines) == len(results) == 2
    for line, row in zip(lines, results, strict=True):
        beta, lr = row["over"]["beta"], row["over"]["lr"]
        folder = out / f"beta={beta:g},lr={lr:g}"
        assert [cell.strip() for cell in line[:3]] == [f"{beta:g}", f"{lr:g}", "0, 3"] and row["seeds"] == [
            0,
            3,
        ]
        assert list(row["test"]) == ["negative_elbo", "reconstruction", "kl"]  # kl_z is all of kl
        for cell, (name, figure) in zip(line[3:], row["test"].items(), strict=True):
            a, b = (read(folder / f"seed={seed}" / "results.json")["test"][name]["value"] for seed in (0, 3))
            assert (
                figure["mean"]
                == pytest.approx((a + b) / 2)
                == pytest.approx(float(cell.split(" ± ")[0]), rel=1e-3)
            )
            assert figure["sd"] == pytest.approx(abs(a - b) / 2**0.5)
            assert figure["sd"] == pytest.approx(float(cell.split(" ± ")[1]), rel=1e-3)

    spelt = {"beta=0.5,1": "beta=0.50,1e0"}
    assert sweep.main([spelt.get(argument, argument) for argument in arguments]) == 0
    assert len(started) == 4 and (out / "table.md").read_text() == table
    assert capsys.readouterr().out.count("is already done: skipped") == 4


def test_what_was_stopped_goes_on_bit_for_bit(
    small_npz: Path, tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(name: str) -> list[str]:
        longer = ["--steps", "20", "--seeds", "0", "--data", str(small_npz)]
        return [*GRID, *longer, "--out", str(tmp_path / name)]

    assert sweep.main(arguments("whole")) == 0
    plan = sweep.plan(arguments("stopped"))
    first, second = plan.jobs.values()
    draw = Batches.__call__

    def interrupted(self: Batches, step: int) -> dict[str, torch.Tensor]:
        if step == 17:
            signal.raise_signal(signal.SIGTERM)
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__call__", interrupted)
        assert svi.main(first.start) == 130
    second.folder.mkdir(parents=True)  # this one was killed before its first checkpoint
    shutil.copy(tmp_path / "whole" / second.name / "config.json", second.folder)
    assert [plan.stage(job) for job in (first, second)] == ["started", "started"]

    started.clear()
    assert sweep.main(arguments("stopped")) == 0
    assert started[0] == ["--resume", str(first.folder)] and len(started) == 2
    for name in (first.name, second.name):
        whole, stopped = tmp_path / "whole" / name, tmp_path / "stopped" / name
        assert same(checkpoint(whole), checkpoint(stopped))
        assert read(whole / "results.json")["test"] == read(stopped / "results.json")["test"]
    assert read(tmp_path / "whole" / "results.json") == read(tmp_path / "stopped" / "results.json")


BETA = ["--model", "vae", "--over", "beta=0,1"]
REFUSED = {
    "no model": (["--over", "beta=1"], "Name one with --model"),
    "unknown model": (["--model", "bvae", "--over", "beta=1"], "did you mean vae"),
    "nothing to sweep": (["--model", "vae"], "required: --over"),
    "unknown key": (
        ["--model", "vae", "--over", "betta=1"],
        "unknown setting of vae 'betta': did you mean beta",
    ),
    "not a number": (["--model", "vae", "--over", "seed=1"], "unknown setting of vae 'seed'"),
    "another's option": (["--model", "vae", "--over", "labels=1"], "unknown setting of vae 'labels'"),
    "no values": (["--model", "vae", "--over", "beta"], "beta has no values"),
    "bad value": (["--model", "vae", "--over", "beta=0,x"], "x is not a number, zero or more"),
    "empty value": (["--model", "vae", "--over", "beta=0,"], " is not a number, zero or more"),
    "negative value": (
        ["--model", "vae", "--over", "z-dim=2,-1"],
        "-1 is not a whole number from 1 to a million",
    ),
    "value twice": (["--model", "vae", "--over", "beta=0,1,0.0"], "beta=0 is in the grid twice"),
    "key twice": ([*BETA, "--over", "beta=2"], "beta is swept twice"),
    "seed twice": ([*BETA, "--seeds", "1,0,01"], "names a seed twice"),
    "bad seed": ([*BETA, "--seeds", "0,1.5"], "0,1.5 is not a list of seeds"),
    "negative seed": ([*BETA, "--seeds", "-1"], "-1 is not a list of seeds"),
    "no cores": ([*BETA, "--cpus", "0"], "0 is not a whole number above zero"),
    "two GPUs": ([*BETA, "--gpus", "2"], "2 is not a number from 0 to 1"),
    "not a range": (["--model", "vae", "--over", "lr=log(1e-3"], "is not a range: write uniform"),
    "how many": (
        ["--model", "vae", "--over", "lr=log(1e-4,1e-2)"],
        "lr has a range: give the number of settings with --samples",
    ),
    "search how many": ([*BETA, "--search", "random"], "--search samples settings: give their number"),
    "unknown search": ([*BETA, "--search", "grid"], "invalid choice: 'grid'"),
    "no number": (
        ["--model", "vae", "--over", "z-dim=uniform(2,5)", "--samples", "2"],
        "is not a whole number from 1 to a million",
    ),
    "seeds of optuna": (
        [*BETA, "--samples", "2", "--search", "optuna", "--seeds", "0,1"],
        "--search optuna compares single runs: give one seed",
    ),
    "steps and asha": (["--model", "vae", "--over", "steps=10,20", "--asha"], "do not sweep steps"),
    "asha without validation": (
        [*BETA, "--asha"],
        "--asha compares runs by validation data.* Give --validation",
    ),
    "optuna without validation": (
        [*BETA, "--samples", "2", "--search", "optuna"],
        "--search optuna compares runs by validation data",
    ),
    "a bad end": (
        ["--model", "vae", "--over", "z-dim=int(0,5)", "--samples", "2", "--search", "optuna"],
        "0 is not a whole number from 1 to a million",
    ),
    "seed": ([*BETA, "--seed", "1"], "--seed cannot be passed on"),
    "run folder": ([*BETA, "--run-dir=x"], "--run-dir cannot be passed on"),
    "resume": ([*BETA, "--resume", "x"], "--resume cannot be passed on"),
    "swept and given": ([*BETA, "--beta", "1"], "--beta cannot be passed on"),
    "unknown option": ([*BETA, "--gamma", "1"], "unknown option '--gamma': did you mean --ema"),
    "unknown data": ([*BETA, "--data", "minst"], "did you mean mnist"),
    "too large a batch": (["--model", "vae", "--over", "batch-size=10,5000"], "Lower --batch-size"),
    "too large a batch for what is left": (
        ["--model", "vae", "--over", "batch-size=10,1297", "--validation", "0.1", "--steps", "1"],
        "1167 training images, fewer than a batch of 1297",
    ),
    "weights": ([*BETA, "--elbo", "iwae"], "Set beta to 1"),
    "nothing to train": (
        ["--model", "ssvae", "--over", "gen-weight=1,0", "--class-weight", "0"],
        "nothing is left to train",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_line(
    case: str, tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, complaint = REFUSED[case]
    refused(complaint, ["--data", "digits", *arguments])
    assert list(tmp_path.iterdir()) == [] and not started


def test_other_settings_and_other_folders_are_refused(
    small_npz: Path, tmp_path: Path, started: list[list[str]]
) -> None:
    out = tmp_path / "out"
    one = ["--model", "vae", "--over", "beta=1", "--seeds", "0", *SHORT, "--data", str(small_npz)]
    assert sweep.main([*one, "--out", str(out)]) == 0
    run = out / "beta=1" / "seed=0"
    refused(
        "beta=1/seed=0 is a run with steps 4, not 50. Name another", [*one, "--steps=50", "--out", str(out)]
    )
    refused("is a run with hidden 16, not 8", [*one, "--hidden", "8", "--out", str(out)])
    refused("is a run with model vae, not gmvae", [*one, "--model", "gmvae", "--out", str(out)])
    refused(r"is a run with data .*small.npz, not digits", [*one, "--data", "digits", "--out", str(out)])
    refused("seed=0 is the folder of a single run", [*one, "--out", str(run)])
    refused("cannot write to .*config.json", [*one, "--out", str(run / "config.json" / "x")])

    (run / "config.json").unlink()
    (run / "notes.txt").write_text("mine")  # now it is not what a run leaves
    refused("seed=0 is not a run of a sweep. Move it", [*one, "--out", str(out)])
    assert (run / "notes.txt").read_text() == "mine" and len(started) == 1


def test_runs_on_other_labelled_images_are_other_runs(small_npz: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "labelled.txt", ["--out", str(tmp_path / "sweep"), "--data", str(small_npz)]
    file.write_text("0\n1\n2\n")
    grid = ["--model", "ssvae", "--over", "gen-weight=1", "--seeds", "0", *SHORT, *out]
    plan = sweep.plan([*grid, "--labelled", str(file)])
    (job,) = plan.jobs.values()
    assert svi.main([*job.start]) == 0
    assert plan.stage(job) == "done"
    plan = sweep.plan([*grid, "--labels", "3"])
    (other,) = plan.jobs.values()
    with pytest.raises(UserError, match=r"is a run with labelled_file labelled\.txt, not None"):
        plan.stage(other)


def test_a_run_that_fails_has_an_empty_row(
    small_npz: Path, tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "vae", "--over", "lr=1e20,1e-3", "--seeds", "0", *LONGER, "--out", str(tmp_path)]
    assert sweep.main([*arguments, "--data", str(small_npz)]) == 1
    failed, done = tmp_path / "lr=1e+20" / "seed=0", tmp_path / "lr=0.001" / "seed=0"
    assert (failed / "checkpoint.pt").exists() and not (failed / "results.json").exists()
    assert (done / "results.json").exists() and len(started) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("failed: lr=1e+20/seed=0. The same command resumes them.")
    *_, first, second = (tmp_path / "table.md").read_text().splitlines()
    assert set(first.split()[2:]) == {"|", "-"} and second.startswith("| 0.001 | 0 ")


def test_a_random_search_has_the_same_runs_each_time(
    small_npz: Path, tmp_path: Path, started: list[list[str]]
) -> None:
    """More samples are more runs: the first ones stay."""

    def search(samples: int) -> list[str]:
        ranges = ["--over", "lr=log(1e-4,1e-2)", "--over", "z-dim=int(1,3)", "--over", "beta=0.5,1"]
        arguments = ["--model", "vae", *ranges, "--seeds", "7", "--samples", str(samples)]
        arguments += ["--steps", "2", "--batch-size", "20", "--hidden", "4", "--data", str(small_npz)]
        assert sweep.main([*arguments, "--out", str(tmp_path)]) == 0
        return sorted(path.parent.name for path in tmp_path.glob("*/seed=7"))

    two, three = search(2), search(3)
    assert len(two) == 2 and len(three) == len(started) == 3 and set(two) < set(three)
    for row in read(tmp_path / "results.json"):
        lr, z_dim, beta = (row["over"][key] for key in ("lr", "z_dim", "beta"))
        assert 1e-4 <= lr <= 1e-2 and z_dim in (1, 2, 3) and beta in (0.5, 1)
        config = read(tmp_path / f"lr={lr:g},z_dim={z_dim},beta={beta:g}" / "seed=7" / "config.json")
        assert (config["lr"], config["options"]["z_dim"], config["options"]["beta"]) == (lr, z_dim, beta)


@pytest.mark.parametrize(
    ("extra", "metric", "mode"),
    [([], "negative_elbo", "min"), (["--select", "kl"], "kl", "min"), (["--select", "accuracy"], "", "max")],
)
def test_what_a_search_compares(extra: list[str], metric: str, mode: str, small_npz: Path) -> None:
    model = SSVAE if metric == "" else ["--model", "vae", *TINY]
    options = ["--over", "lr=1e-3,1e-2", "--asha", "--validation", "0.1", "--data", str(small_npz)]
    plan = sweep.plan([*model, *options, *extra])
    assert (plan.metric, plan.mode, plan.steps) == (metric or "accuracy", mode, 10)


def test_the_best_setting_is_that_of_the_validation_data(
    small_npz: Path, tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--asha", "--validation", "0.1", "--data", str(small_npz), "--out", str(tmp_path)]
    assert sweep.main([*GRID, *more]) == 0
    values = {
        beta: statistics.mean(
            read(tmp_path / f"beta={beta}" / f"seed={seed}" / "results.json")["validation"]["negative_elbo"][
                "value"
            ]
            for seed in (0, 3)
        )
        for beta in ("0.5", "1")
    }
    best = min(values, key=lambda beta: values[beta])
    line = f"best negative_elbo on the validation data: {values[best]:.4g} with beta={best}"
    assert line in capsys.readouterr().out.splitlines()


def test_a_run_that_asha_stopped_is_not_continued_with_asha(
    small_npz: Path, tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*GRID, "--validation", "0.1", "--data", str(small_npz), "--out", str(tmp_path)]
    plan = sweep.plan([*arguments, "--asha"])
    first, *_ = plan.jobs.values()
    first.folder.mkdir(parents=True)
    (first.folder / "config.json").write_text(json.dumps(first.config.to_json()))
    plan.state.stop(first.name)
    assert sweep.main([*arguments, "--asha"]) == 0
    assert len(started) == 3 and f"{first.name} is already stopped by ASHA" in capsys.readouterr().out
    assert sweep.main(arguments) == 0
    assert len(started) == 4 and (first.folder / "results.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"token": "x", "stopped": []}', '{"token": 1}'])
def test_a_damaged_state_is_refused(content: str, small_npz: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    refused("sweep.json is damaged. Remove it", [*GRID, "--data", str(small_npz), "--out", str(tmp_path)])


def test_without_ray_one_line_says_what_to_install(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    out = tmp_path / "out"
    refused(
        r'Install them: pip install "ppl-models\[sweep\]"$',
        [*GRID, "--data", str(small_npz), "--out", str(out)],
    )
    assert not out.exists()


PICTURES = {
    "vae": (["--model", "vae", "--over", "beta=0,1,1e-5", *SHORT], ["beta = 0", "beta = 1", "beta = 1e-05"]),
    "ae": (
        ["--model", "ae", "--over", "z_dim=2,3", "--steps", "2", "--batch-size", "9"],
        ["z_dim = 2", "z_dim = 3"],
    ),
    "ssvae": (
        [*SSVAE, "--steps=4", "--over", "gen_weight=0,1", "--over", "lr=0.1"],
        ["gen_weight = 1\nlr = 0.1"],
    ),
}


@pytest.mark.parametrize("name", shortened(PICTURES, ["vae", "ssvae"]))
def test_each_row_shows_the_run_that_its_label_names(
    name: str, small_npz: Path, tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: dict[str, tuple[float, float]] = {}
    canvases: list[np.ndarray] = []
    text, imshow = matplotlib.axes.Axes.text, matplotlib.axes.Axes.imshow

    def watched_text(self: Any, x: float, y: float, words: str, **keywords: Any) -> Any:
        texts[words] = (x, y)
        return text(self, x, y, words, **keywords)

    def watched_imshow(self: Any, canvas: np.ndarray, **keywords: Any) -> Any:
        canvases.append(canvas)
        return imshow(self, canvas, **keywords)

    monkeypatch.setattr(
        "inference.html.report.write_after_training", lambda *_: 0
    )  # its diagram has text too
    monkeypatch.setattr(matplotlib.axes.Axes, "text", watched_text)
    monkeypatch.setattr(matplotlib.axes.Axes, "imshow", watched_imshow)
    arguments, labels = PICTURES[name]
    out = tmp_path / "out"
    assert sweep.main([*arguments, "--seeds", "1", "--data", str(small_npz), "--out", str(out)]) == 0
    assert (out / "sweep.png").exists()
    assert ("| KL z " in (out / "table.md").read_text()) == (name == "ssvae")  # elsewhere it is all of KL
    (canvas,) = canvases
    assert [words for words in texts if " = " in words] == labels

    def row(label: str, title: str, side: int) -> torch.Tensor:
        """The eight images at the height of a label, below a title."""
        line = max(side // 14, 1)
        left = round(texts[title][0] - (8 * (side + line) - line) / 2)
        top = round(texts[label][1] - side / 2)
        places = [left + i * (side + line) for i in range(8)]
        return torch.stack([torch.from_numpy(canvas[top : top + side, at : at + side, :1]) for at in places])[
            ..., 0
        ]

    for label in labels:
        over = ",".join(line.replace(" = ", "=") for line in label.splitlines())
        _, _, data, model = restore(out / over / "seed=1")
        x = data.x_test[:8].float() / 255  # zeros and ones as they are
        torch.manual_seed(0)
        y = torch.arange(8) % 3 if name == "ssvae" else None
        samples = model.sample(8, y=y, noise=False)
        for title, images in (("reconstructions", model.reconstruct(x)), ("samples", samples)):
            torch.testing.assert_close(row(label, title, x.shape[-1]), images[:, 0].clamp(0, 1))
        torch.testing.assert_close(row("test images", "reconstructions", x.shape[-1]), x[:, 0])


def test_a_classifier_alone_has_no_picture(small_npz: Path, tmp_path: Path, started: list[list[str]]) -> None:
    arguments = [*SSVAE, "--steps=4", "--gen-weight", "0", "--over", "class_weight=1,2", "--seeds", "0"]
    assert sweep.main([*arguments, "--data", str(small_npz), "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "sweep.png").exists()
    assert [list(row["test"]) for row in read(tmp_path / "results.json")] == [["accuracy"]] * 2


def test_a_cell_is_a_mean_and_a_deviation_of_four_digits() -> None:
    values = [99.0, 100.0, 103.0]
    figure = {"mean": statistics.mean(values), "sd": statistics.stdev(values)}
    lone = {"mean": -2201.3, "sd": None}
    rows = [
        {
            "over": {"beta": 0.0, "z_dim": 2},
            "seeds": [0, 1, 2],
            "test": {"negative_elbo": figure, "kl": lone},
        },
        {"over": {"beta": 1e-4, "z_dim": 2}, "seeds": [], "test": {}},
    ]
    assert sweep.table(rows).splitlines() == [
        "| beta   | z_dim | seeds   | -ELBO         | KL    |",
        "| ------ | ----- | ------- | ------------- | ----- |",
        "| 0      | 2     | 0, 1, 2 | 100.7 ± 2.082 | -2201 |",
        "| 0.0001 | 2     | -       | -             | -     |",
    ]


def test_json_of_a_sweep_and_of_the_tables(
    small_npz: Path, tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    made = ["--model", "vae", *SHORT, "--over", "beta=1", "--seeds", "0", "--data", str(small_npz)]
    assert sweep.main([*made, "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed[printed.index("{") :])  # after what the run, in this process, prints
    assert found == {"results": json.loads((out / "results.json").read_text())}
    assert found["results"][0]["over"] == {"beta": 1.0}
    assert table.main(["--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == len(table.published())
    with pytest.raises(UserError, match="not allowed with"):
        table.main(["--json", "--write"])
