"""The how-to pages about training: their commands run, and their code too."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from inference import fit, svi
from inference.cli.train import configuration, parse, read_data
from inference.data.load import find_dataset
from inference.errors import UserError
from ppl_models import VAE
from tests.support import lines

HOWTO = Path(__file__).parents[2] / "docs" / "howto"


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of a page."""
    text = (HOWTO / f"{page}.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def arguments(page: str) -> list[str]:
    """The arguments of the command of a page."""
    (command,) = [block for block in blocks(page) if block.startswith("python -m inference.svi ")]
    return shlex.split(command.removeprefix("python -m inference.svi "))


def run_command(page: str, folder: Path) -> dict[str, Any]:
    """Runs the command of a page with fewer steps. Returns the configuration of the run."""
    assert svi.main([*arguments(page), "--steps", "40", "--run-dir", str(folder)]) == 0
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("page", ["early-stopping", "few-labels", "optimizer", "tensorboard"])
def test_the_command_of_a_page_is_complete(page: str) -> None:
    given = parse(arguments(page))
    config = configuration(given, read_data(given)[0])
    assert config.data == "digits" and config.steps >= 200


@pytest.mark.full
def test_early_stopping(tmp_path: Path) -> None:
    config = run_command("early-stopping", tmp_path / "run")
    assert (config["early_stopping"], config["select"]) == ("negative_elbo:3", "negative_elbo")
    validation = [line for line in lines(tmp_path / "run") if line["split"] == "validation"]
    best = min(validation, key=lambda line: line["negative_elbo"])
    found = json.loads((tmp_path / "run" / "results.json").read_text())["best"]
    assert (found["step"], found["value"]) == (best["step"], best["negative_elbo"])


@pytest.mark.full
def test_few_labels(tmp_path: Path) -> None:
    """The labelled images are 20, two of each class, and their penalties are in the log."""
    config = run_command("few-labels", tmp_path / "run")
    data, _ = find_dataset("digits", tmp_path)
    assert data.y_train is not None
    assert data.y_train[config["labelled"]].bincount().tolist() == [2] * 10
    assert config["options"]["radius"] == 0.8
    (train,) = [line for line in lines(tmp_path / "run") if line["split"] == "train"]
    assert {"classification", "entropy", "balance", "smoothness", "kl_z_labelled"} < train.keys()


@pytest.mark.full
def test_optimizer(tmp_path: Path) -> None:
    config = run_command("optimizer", tmp_path / "run")
    chosen = [config[key] for key in ("optimizer", "weight_decay", "accumulate", "schedule")]
    assert chosen == ["adamw", 0.05, 2, "plateau"]


def test_loggers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The code of the page, with a logger that keeps what it gets."""
    logged: list[tuple[int, dict[str, float]]] = []
    fake: Any = ModuleType("wandb")
    fake.init = fake.finish = lambda **settings: None
    fake.log = lambda metrics, step: logged.append((step, metrics))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    data, _ = find_dataset("digits", tmp_path)
    scope: dict[str, Any] = {"fit": fit, "data": data, "model": VAE((1, 8, 8), z_dim=2, hidden=16)}
    for block in blocks("loggers", "python"):
        exec(block.replace("steps=200", "steps=100, eval_every=50"), scope)
    assert [step for step, _ in logged] == [0, 50, 100, 100]
    names = [next(iter(metrics)) for _, metrics in logged]
    assert names == ["validation/negative_elbo"] * 2 + ["train/negative_elbo", "validation/negative_elbo"]
    assert logged[-1][1]["validation/negative_elbo"] < logged[0][1]["validation/negative_elbo"]


class FakeWriter:
    """Keeps what `SummaryWriter` gets."""

    def __init__(self, folder: str, purge_step: int):
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: dict[tuple[str, int], float] = {}
        WRITERS.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name, step] = value

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


WRITERS: list[FakeWriter] = []


def expected(run: Path) -> dict[tuple[str, int], float]:
    """The scalars of a run, from metrics.jsonl."""
    return {
        (f"{name}/{line['split']}", line["step"]): value
        for line in lines(run)
        for name, value in line.items()
        if name not in ("step", "split", "seconds")
    }


def test_what_the_callback_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake: Any = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = FakeWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr("inference.training.tensorboard.find_spec", lambda name: name)
    run = tmp_path / "run"
    assert run_command("tensorboard", run)["log"] == "tensorboard"
    assert svi.main(["--resume", str(run), "--steps", "44"]) == 0
    first, second = WRITERS
    assert first.folder == str(run / "tensorboard") and first.closed and second.closed
    assert (first.purge_step, second.purge_step) == (0, 42)
    assert first.scalars | second.scalars == expected(run)


@pytest.mark.full
def test_the_event_files_can_be_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_command("tensorboard", tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found = {(n, event.step): event.value for n in events.Tags()["scalars"] for event in events.Scalars(n)}
    wanted = expected(tmp_path / "run")
    assert found.keys() == wanted.keys()
    assert all(found[key] == pytest.approx(wanted[key], rel=1e-6) for key in wanted)


def test_without_tensorboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("inference.training.tensorboard.find_spec", lambda name: None)
    options = ["--model", "vae", "--data", "digits", "--log", "tensorboard"]
    with pytest.raises(UserError, match=r'Install it: pip install "ppl-models\[tensorboard\]"$'):
        svi.main([*options, "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="Give run_dir"):
        fit(VAE((1, 8, 8)), find_dataset("digits", tmp_path)[0], log="tensorboard", progress=False)
