"""Selecting by a metric of the validation data: the best parameters, early stopping, the plateau schedule."""

import json
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import inference.evaluate as evaluate_command
from inference import fit, load, report, svi
from inference.backend.files import pack, unpack
from inference.data.batches import Batches
from inference.data.held_out import HeldOut
from inference.data.load import find_dataset
from inference.data.observations import IMAGES
from inference.errors import UserError
from inference.metrics.bounds import evaluate_bounds
from inference.rundir.checkpoint import config_digest
from inference.rundir.config import TrainConfig
from inference.rundir.restore import restore
from inference.rundir.run import Run
from inference.training.selection import PLATEAU, Selection
from ppl_models import VAE
from ppl_models.base import LatentVariableModel
from tests.support import LONGER, TINY, checkpoint, same, shortened, timeless

VALIDATED = ["--model", "vae", *LONGER, "--compile", "eager", "--validation", "0.2"]
Seen = dict[int, dict[str, Tensor]]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], float]], Seen]:
    """Replaces the value of the metric by a function of the step. Returns what was evaluated, by step."""
    update = Selection.update

    def script(value: Callable[[int], float]) -> Seen:
        seen: Seen = {}

        def scripted_update(
            self: Selection, step: int, metrics: Mapping[str, Any], model: LatentVariableModel
        ) -> None:
            seen[step] = {name: part.clone() for name, part in model.state_dict().items()}
            update(self, step, {"validation": {self.config.metric: value(step)}}, model)

        monkeypatch.setattr(Selection, "update", scripted_update)
        return seen

    return script


def followed(values: list[float], every: int = 1, **settings: Any) -> Selection:
    """A selection after evaluations every some steps."""
    selection, model = (
        Selection(TrainConfig(**{"lr_warmup": 0, "kl_warmup": 0, **settings})),
        torch.nn.Module(),
    )
    for number, value in enumerate(values):
        metrics = {"validation": {selection.config.metric: value}}
        selection.update(number * every, metrics, model)  # type: ignore[arg-type]
    return selection


def test_smaller_is_better_except_for_accuracy() -> None:
    values = [3.0, 2.0, 2.0, 4.0, 2.5]
    lowest, highest = followed(values, select="negative_elbo"), followed(values, select="accuracy")
    assert (lowest.step, lowest.value, lowest.waited) == (1, 2.0, 3)  # an equal value is not better
    assert (highest.step, highest.value, highest.waited) == (3, 4.0, 1)


def test_training_stops_when_the_patience_is_exhausted() -> None:
    values = [3.0, 2.0, 2.1, 1.9, 2.0, 2.0]
    assert not followed(values, early_stopping="kl:3").exhausted
    assert followed([*values, 2.0], early_stopping="kl:3").exhausted
    assert not followed([*values, 1.0], early_stopping="kl:3").exhausted
    assert [followed([1.0] * n, early_stopping="kl").exhausted for n in (5, 6)] == [False, True]
    assert not followed([1.0] * 100, select="kl").exhausted


def test_a_plateau_halves_the_rate_each_time() -> None:
    assert PLATEAU == 2
    factors = [followed([1.0] * n, schedule="plateau").lr_factor for n in range(1, 7)]
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert followed([1.0, 1.0, 0.9, 0.9, 0.8, 0.8], schedule="plateau").lr_factor == 1
    assert followed([1.0] * 9, select="kl").lr_factor == 1


@pytest.mark.parametrize("warmup", ["lr_warmup", "kl_warmup"])
def test_evaluations_in_a_warm_up_do_not_count_but_can_be_the_best(warmup: str) -> None:
    """The negative ELBO often rises while the KL weight does. That is not a reason to stop."""
    selection = followed([2.0, 1.0, 1.5, 1.6, 1.7], 10, early_stopping="kl:2", **{warmup: 40})
    assert (selection.step, selection.waited, selection.exhausted) == (10, 1, False)


def test_the_best_parameters_are_what_every_command_uses(
    small_npz: Path, tmp_path: Path, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, run = scripted(lambda step: abs(step - 14)), tmp_path / "run"
    options = ["--select", "negative_elbo", "--data", str(small_npz), "--run-dir", str(run)]
    assert svi.main([*VALIDATED, *options]) == 0
    assert "parameters are those of step 14, the best by negative_elbo" in capsys.readouterr().out
    results, state = json.loads((run / "results.json").read_text()), checkpoint(run)
    assert results["best"] == {"metric": "negative_elbo", "step": 14, "value": 0}
    assert same(state["selection"]["parameters"], seen[14]) and same(dict(state["parameters"]), seen[40])
    _, _, data, model = restore(run)
    assert same(dict(model.state_dict()), seen[14]) and same(dict(load(run).state_dict()), seen[14])
    test = HeldOut(data, type(model), torch.device("cpu"))
    assert evaluate_bounds(model, test, IMAGES.samples) == results["test"]
    model.load_state_dict(seen[40])
    assert evaluate_bounds(model, test, IMAGES.samples) != results["test"]
    assert evaluate_command.main([str(run), "--particles", "1"]) == 0
    assert json.loads((run / "results.json").read_text())["best"]["step"] == 14
    assert report.main([str(run)]) == 0
    page = (run / "report.html").read_text("utf-8")
    assert "of step 14, the best by negative_elbo on the validation set (0.0000)" in page


def test_the_best_average_is_the_one_that_was_evaluated(
    small_npz: Path, tmp_path: Path, scripted: Any
) -> None:
    seen, run = scripted(lambda step: abs(step - 20)), tmp_path / "run"
    options = ["--select", "kl", "--ema", "0.9", "--data", str(small_npz), "--run-dir", str(run)]
    assert svi.main([*VALIDATED, *options]) == 0
    state = checkpoint(run)
    average = {name.removeprefix("module."): value for name, value in state["averaged"].items()}
    del average["n_averaged"]
    assert same(average, seen[40]) and not same(average, seen[20])
    assert same(dict(restore(run).model.state_dict()), seen[20])


EVERYTHING = ["--early-stopping", "negative_elbo:6", "--schedule", "plateau", "--ema", "0.5"]
EVERYTHING += ["--optimizer", "adamw", "--weight-decay", "0.1", "--accumulate", "2", "--lr", "0.01"]


INTERRUPTED = shortened([(9, "eager"), (23, "eager"), (9, "graph"), (23, "graph")], [(23, "graph")])


@pytest.mark.parametrize("case", INTERRUPTED, ids=str)
def test_an_interrupted_run_goes_on_bit_for_bit(
    case: tuple[int, str],
    small_npz: Path,
    tmp_path: Path,
    scripted: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before and after the best step, with counters of both patiences that are not zero."""
    interrupted_at, mode = case
    scripted(lambda step: abs(step - 14) if step > 4 else 5.0)
    options = [*VALIDATED, *EVERYTHING, "--compile", mode, "--data", str(small_npz), "--run-dir"]
    assert svi.main([*options, str(tmp_path / "whole")]) == 0
    call, sent = Batches.__call__, []

    def interrupted(self: Batches, number: int) -> dict[str, Tensor]:
        if number == 2 * interrupted_at and not sent:
            sent.append(number)
            signal.raise_signal(signal.SIGINT)
        return call(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__call__", interrupted)
        assert svi.main([*options, str(tmp_path / "parts")]) == 130
    assert checkpoint(tmp_path / "parts")["step"] == interrupted_at + 1
    assert svi.main(["--resume", str(tmp_path / "parts")]) == 0
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert same(whole, parts) and timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    kept = {key: value for key, value in whole["selection"].items() if key != "parameters"}
    assert kept == {
        **{"metric": "negative_elbo", "step": 14, "value": 0, "waited": 6},
        **{"since_halving": 0, "halvings": 5},
    }
    assert whole["step"] == 26
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")]
    for key in ("test", "validation", "best", "stopped_early"):
        assert found[0][key] == found[1][key]


def test_a_run_that_stopped_early_is_finished(
    small_npz: Path, tmp_path: Path, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(lambda step: abs(step - 8))
    run = tmp_path / "run"
    options = ["--early-stopping", "kl:3", "--data", str(small_npz), "--run-dir", str(run)]
    assert svi.main([*VALIDATED, *options]) == 0
    said = capsys.readouterr()
    assert "kl is not better than at step 8 for 3 evaluations: training stops early, at step 14" in said.err
    results, before = json.loads((run / "results.json").read_text()), checkpoint(run)
    assert (results["steps"], results["stopped_early"], results["best"]["step"]) == (40, 14, 8)
    assert results["config"]["select"] == "kl" and Run.open(run).finished(14)
    assert evaluate_command.main([str(run), "--particles", "1"]) == 0
    assert report.main([str(run)]) == 0
    page = (run / "report.html").read_text("utf-8")
    assert "after step 14" in page and "--resume" not in page
    assert svi.main(["--resume", str(run), "--steps", "60"]) == 0  # a longer run would have stopped there too
    assert same(before, checkpoint(run))
    assert json.loads((run / "results.json").read_text())["stopped_early"] == 14


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--select", "kl"], "--select follows a metric of validation data.*Give --validation"),
        (["--early-stopping", "kl:3"], "--early-stopping follows a metric.*Give --validation"),
        (["--schedule", "plateau"], "--schedule plateau follows a metric.*Give --validation"),
        (["--select", "kl_y", "--validation", "0.2"], "VAE has no metric 'kl_y' .*negative_elbo, reconstr"),
        (["--select", "kl", "--early-stopping", "kl_z", "--validation", "0.2"], "Give one metric"),
        (["--early-stopping", "kl:0"], "kl:0 is not METRIC or METRIC:PATIENCE"),
        (["--weight-decay", "0.1"], "Give --optimizer adamw"),
        (["--optimizer", "sgd"], "unknown --optimizer 'sgd'"),
        (["--accumulate", "0"], "0 is not a whole number above zero"),
    ],
)
def test_what_is_refused(options: list[str], complaint: str, small_npz: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        data = ["--data", str(small_npz), "--run-dir", str(tmp_path / "run")]
        svi.main(["--model", "vae", *TINY, *options, *data])
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def arrays(small_npz: Path) -> tuple[Any, Any]:
    with np.load(small_npz) as file:
        return file["x_train"], file["x_test"]


@pytest.mark.parametrize("folder", [True, False])
def test_fit_leaves_the_best_parameters_in_the_model(
    folder: bool, small_npz: Path, tmp_path: Path, scripted: Any, with_pictures: None
) -> None:
    (x, valid), seen = arrays(small_npz), scripted(lambda step: abs(step - 4))
    model = VAE((1, 6, 6), z_dim=2, hidden=16)
    settings = {"steps": 20, "batch_size": 20, "early_stopping": "kl:2", "ema": 0.5, "progress": False}
    run_dir = tmp_path / "run" if folder else None
    history = fit(model, x, validation=valid, run_dir=run_dir, **settings)
    assert history.metrics[-1]["step"] == 6 and same(dict(model.state_dict()), seen[4])
    assert {line["split"] for line in history.metrics} <= {"train", "validation"}
    if folder:
        assert same(dict(load(tmp_path / "run").state_dict()), seen[4])
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["test"] == {} and results["validation"]["kl"]["value"] > 0
        assert (tmp_path / "run" / "figures" / "samples.png").exists()  # drawn without a test set, too


def test_fit_does_not_select_by_a_test_set(small_npz: Path) -> None:
    data, _ = find_dataset(str(small_npz), Path())
    settings: dict[str, Any] = {"select": "kl", "steps": 2, "batch_size": 20, "progress": False}
    with pytest.raises(UserError, match="Selecting by the test set"):
        fit(VAE((1, 6, 6)), data, **settings)
    with pytest.raises(UserError, match="there are none"):
        fit(VAE((1, 6, 6)), data.x_train, **settings)


def test_a_run_of_before_these_settings_goes_on(small_npz: Path, tmp_path: Path) -> None:
    """Its config.json lacks their keys, and its checkpoint has the digest of that file."""
    new = ["select", "early_stopping", "log", "optimizer", "weight_decay", "accumulate"]
    runs = [tmp_path / name for name in ("old", "new")]
    options = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir"]
    for run in runs:
        assert svi.main([*options, str(run)]) == 0
    content = json.loads((runs[0] / "config.json").read_text())
    assert content["optimizer"] == "adam"
    old = {key: value for key, value in content.items() if key not in new}
    (runs[0] / "config.json").write_text(json.dumps(old))
    state = unpack(runs[0] / "checkpoint.pt")
    digest = config_digest(Run.open(runs[0]).config)
    assert digest != state["config_digest"]
    (runs[0] / "checkpoint.pt").write_bytes(pack(state | {"config_digest": digest}))
    for run in runs:
        assert svi.main(["--resume", str(run), "--steps", "15"]) == 0
    states = checkpoint(runs[0]), checkpoint(runs[1])
    assert len({state.pop("config_digest") for state in states}) == 2 and same(*states)
    assert not set(new) & json.loads((runs[0] / "config.json").read_text()).keys()
    assert evaluate_command.main([str(runs[0]), "--particles", "1"]) == 0


@pytest.fixture(scope="module")
def selected(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a selection, which tests do not change."""
    run = tmp_path_factory.mktemp("selected") / "run"
    assert svi.main([*VALIDATED, "--select", "kl", "--data", str(small_npz), "--run-dir", str(run)]) == 0
    return run


@pytest.mark.parametrize(
    "key, value, complaint",
    [
        (None, None, "has no 'selection'"),
        ("step", -1, "selection.step is -1"),
        ("parameters", 3, "selection.parameters is 3"),
        ("waited", "x", "selection.waited is 'x'"),
        ("parameters", {"a": torch.zeros(2)}, "checkpoint.pt does not fit"),
    ],
)
def test_a_checkpoint_with_a_wrong_selection_is_refused(
    key: str | None, value: Any, complaint: str, selected: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(selected, tmp_path / "run")
    state = unpack(run / "checkpoint.pt")
    if key is None:
        del state["selection"]
    else:
        state["selection"][key] = value
    (run / "checkpoint.pt").write_bytes(pack(state))
    for command in (lambda: svi.main(["--resume", str(run), "--steps", "50"]), lambda: restore(run)):
        with pytest.raises(UserError, match=re.escape(complaint)):
            command()
