"""A sweep: its grid of runs, what goes on where it stopped, and the table and picture that it leaves."""

import json
import os
import shutil
import signal
import statistics
import threading
from pathlib import Path
from subprocess import Popen
from typing import IO, Any

import matplotlib.axes
import numpy as np
import pytest
import torch

from inference import svi, sweep
from inference.data.batches import Batches
from inference.errors import TrainingDiverged, UserError
from inference.rundir.restore import restore
from tests.support import SSVAE, TINY, checkpoint, same
from tools import table

GRID = ["--model", "vae", "--over", "beta=0.5,1", "--seeds", "0,3", *TINY]


class Here:
    """What a sweep takes for a process: inference.svi in this one, over as soon as it has begun."""

    def __init__(self, command: list[str], stdout: IO[str], **_: Any):
        self.returncode = 1
        try:
            self.returncode = svi.main(command[3:])
        except (UserError, TrainingDiverged) as error:
            print(f"error: {error}", file=stdout, flush=True)

    def poll(self) -> int:
        return self.returncode

    wait = poll

    def terminate(self) -> None:
        pass


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of every run that has been started; they run here, without their own pictures."""
    commands: list[list[str]] = []

    def start(command: list[str], **keywords: Any) -> Here:
        commands.append(command[3:])
        return Here(command, **keywords)

    monkeypatch.setattr(sweep, "Popen", start)
    monkeypatch.setattr(sweep, "CORES", 1)  # one at a time: they share Pyro's stack
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
    arguments = [*GRID, "--over", "lr=1e-3,0.01", "--steps", "4", "--data", str(small_npz), "--out", str(out)]
    assert sweep.main(arguments) == 0
    configs = {
        (beta, lr, seed): read(out / f"beta={beta},lr={lr}" / f"seed={seed}" / "config.json")
        for beta in (0.5, 1)
        for lr in (0.001, 0.01)
        for seed in (0, 3)
    }
    assert len(list(out.glob("*/seed=*/results.json"))) == len(started) == 8
    for asked, config in configs.items():
        assert (config["options"]["beta"], config["lr"], config["seed"]) == asked
        assert (config["steps"], config["options"]["hidden"], config["data"]) == (4, 16, str(small_npz))

    printed = capsys.readouterr().out
    assert (out / "index.html").read_text("utf-8").count("/report.html") == 8
    table = (out / "table.md").read_text()
    assert "8/8 beta=1,lr=0.01/seed=3: -ELBO" in printed and table in printed
    head, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert [title.strip() for title in head] == ["beta", "lr", "seeds", "-ELBO", "reconstruction", "KL"]
    results = read(out / "results.json")
    assert len(lines) == len(results) == 4
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
    assert len(started) == 8 and (out / "table.md").read_text() == table
    assert capsys.readouterr().out.count("is already done: skipped") == 8


def test_what_was_stopped_goes_on_bit_for_bit(
    small_npz: Path, tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(name: str) -> list[str]:
        return [*GRID, "--data", str(small_npz), "--out", str(tmp_path / name)]

    assert sweep.main(arguments("whole")) == 0
    first, second, *_ = sweep.plan(arguments("stopped"))[1]
    draw = Batches.__call__

    def interrupted(self: Batches, step: int) -> dict[str, torch.Tensor]:
        if step == 17:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__call__", interrupted)
        assert svi.main(first.start) == 130
    second.folder.mkdir()  # this one was killed before its first checkpoint
    shutil.copy(tmp_path / "whole" / second.name / "config.json", second.folder)
    assert [sweep.stage(job) for job in (first, second)] == ["started", "started"]

    started.clear()
    assert sweep.main(arguments("stopped")) == 0
    assert started[0] == ["--resume", str(first.folder)] and len(started) == 4
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
    "no jobs": ([*BETA, "--jobs", "0"], "0 is not a whole number above zero"),
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
    one = ["--model", "vae", "--over", "beta=1", "--seeds", "0", *TINY, "--data", str(small_npz)]
    assert sweep.main([*one, "--out", str(out)]) == 0
    run = out / "beta=1" / "seed=0"
    refused(
        "beta=1/seed=0 is a run with steps 40, not 50. Name another", [*one, "--steps=50", "--out", str(out)]
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
    grid = ["--model", "ssvae", "--over", "gen-weight=1", "--seeds", "0", *TINY, *out]
    (job,) = sweep.plan([*grid, "--labelled", str(file)])[1]
    assert svi.main([*job.start]) == 0
    assert sweep.stage(job) == "done"
    (other,) = sweep.plan([*grid, "--labels", "3"])[1]
    with pytest.raises(UserError, match=r"is a run with labelled_file labelled\.txt, not None"):
        sweep.stage(other)


def test_a_run_that_fails_does_not_stop_the_others(
    small_npz: Path,
    tmp_path: Path,
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The one that fails is a process, as all are outside of these tests."""
    here, threads = sweep.Popen, []

    def start(command: list[str], **keywords: Any) -> Any:
        threads.append(keywords["env"]["OMP_NUM_THREADS"])
        return (Popen if "--lr=1e20" in command else here)(command, **keywords)

    monkeypatch.setattr(sweep, "Popen", start)
    monkeypatch.setattr(sweep, "CORES", 3)
    arguments = ["--model", "vae", "--over", "lr=1e20,1e-3", "--seeds", "0", *TINY, "--out", str(tmp_path)]
    assert sweep.main([*arguments, "--jobs", "1", "--data", str(small_npz)]) == 1
    failed, done = tmp_path / "lr=1e+20" / "seed=0", tmp_path / "lr=0.001" / "seed=0"
    assert (failed / "checkpoint.pt").exists() and not (failed / "results.json").exists()
    assert (done / "results.json").exists()
    printed = capsys.readouterr().out.splitlines()
    (complaint,) = (line for line in printed if line.startswith("1/2 "))
    assert complaint.startswith(f"1/2 {failed} failed: ") and "Lower the learning rate" in complaint
    assert complaint.endswith(f"(exit status 1; {failed}.log)")
    assert printed[-1].startswith("failed: lr=1e+20/seed=0. The same command resumes them.")
    *_, first, second = (tmp_path / "table.md").read_text().splitlines()
    assert set(first.split()[2:]) == {"|", "-"} and second.startswith("| 0.001 | 0 ")
    log = Path(f"{failed}.log").read_text().splitlines()
    assert log[0].startswith("$ ") and log[-1].startswith("error: ")
    assert threads == ["3", "3"]


@pytest.mark.parametrize(("visible", "names"), [(None, ["0", "1"]), ("3,GPU-5a", ["3", "GPU-5a"])])
def test_the_runs_take_the_gpus_in_turn(
    visible: str | None, names: list[str], small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that starts them uses none itself. Here two GPUs are pretended."""
    seen: list[str | None] = []
    both = threading.Barrier(2)  # two runs at a time

    class Done:
        def __init__(self, command: list[str], env: dict[str, str], **_: Any):
            seen.append(env.get("CUDA_VISIBLE_DEVICES"))
            both.wait(timeout=60)

        def poll(self) -> int:
            return 0

        wait = poll

        def terminate(self) -> None:
            pass

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sweep, "Popen", Done)
    monkeypatch.setattr(sweep, "summarise", lambda *_: None)
    arguments = [*GRID, "--jobs", "2", "--data", str(small_npz), "--out", str(tmp_path / "out")]
    assert sweep.main(arguments) == 0  # would raise where it asks CUDA for anything else: there is none
    assert not torch.cuda.is_initialized()
    assert sorted(seen[:2]) == sorted(seen[2:]) == names
    seen.clear()
    assert sweep.main([*arguments, "--device", "cpu"]) == 0
    assert seen == [visible] * 4


def test_ctrl_c_stops_every_process_once(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    class Endless:
        """A run that goes on until it is told to stop."""

        def __init__(self, *_: Any, **__: Any):
            self.told = 0
            made.append(self)
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        def poll(self) -> None:
            return None

        def terminate(self) -> None:
            self.told += 1

        def wait(self) -> int:
            assert self.told
            return 130

    monkeypatch.setattr(sweep, "Popen", Endless)
    arguments = [*GRID, "--jobs", "2", "--data", str(small_npz), "--out", str(tmp_path)]
    assert sweep.main(arguments) == 130
    assert [process.told for process in made] == [1, 1]  # and the other two were never begun
    assert "stopped with 0 of 4 runs done. The same command continues." in capsys.readouterr().out
    assert not (tmp_path / "table.md").exists()


PICTURES = {
    "vae": (["--model", "vae", "--over", "beta=0,1,1e-5", *TINY], ["beta = 0", "beta = 1", "beta = 1e-05"]),
    "ae": (
        ["--model", "ae", "--over", "z_dim=2,3", "--steps", "2", "--batch-size", "9"],
        ["z_dim = 2", "z_dim = 3"],
    ),
    "ssvae": ([*SSVAE, "--over", "gen_weight=0,1", "--over", "lr=0.1"], ["gen_weight = 1\nlr = 0.1"]),
}


@pytest.mark.parametrize("name", PICTURES)
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
    arguments = [*SSVAE, "--gen-weight", "0", "--over", "class_weight=1,2", "--seeds", "0"]
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
    made = ["--model", "vae", *TINY, "--over", "beta=1", "--seeds", "0", "--data", str(small_npz)]
    assert sweep.main([*made, "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed[printed.index("{") :])  # after what the run, in this process, prints
    assert found == {"results": json.loads((out / "results.json").read_text())}
    assert found["results"][0]["over"] == {"beta": 1.0}
    assert table.main(["--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == len(table.published())
    with pytest.raises(UserError, match="not allowed with"):
        table.main(["--json", "--write"])
