"""A step captured and replayed, or compiled, is the eager step: the same numbers from the same noise."""

import copy
import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import relu

from inference import svi
from inference.compiled.capture import capture
from inference.data.examples import example_inputs
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.errors import UserError
from inference.rundir.config import default_mode
from inference.training.gradients import Gradients
from ppl_models import VAE
from ppl_models.base import LatentVariableModel
from tests.ppl_models.test_contract import SHALLOW, build, numbers
from tests.training.test_svi import TINY, checkpoint, same


def beside(
    model: LatentVariableModel, estimator: str, mode: str, batches: list[dict[str, Tensor]], beta: Any = None
) -> tuple[Gradients, Gradients]:
    """The plain mode and another one, compared on some batches, each with noise of its own."""
    particles = min(ESTIMATORS[estimator].particles, 2)
    losses = Loss(model, estimator, particles), Loss(copy.deepcopy(model), estimator, particles)
    plain, other = Gradients(losses[0]), Gradients(losses[1], mode, say=pytest.fail)
    seen = []
    for number, batch in enumerate(batches):
        if beta is not None:
            for loss in losses:
                loss.model.beta = torch.tensor(beta[number])  # type: ignore[assignment]
        found = []
        for gradients in (plain, other):
            torch.manual_seed(number)
            objective, good = gradients(batch)
            assert good
            found.append([value.clone() for value in numbers(gradients, objective)])
            gradients.loss.zero_grad()
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        seen.append(found[0][0].item())
    assert len(set(seen)) == len(batches)
    return plain, other


def test_a_captured_step_is_the_plain_step(float64: None) -> None:
    """With other images, and with other noise. The contract tests do the same with every model."""
    model = build("vae")
    batches = [example_inputs(model, 7) for _ in range(2)]
    _, other = beside(model, "mean_field", "graph", [*batches, batches[0]])
    assert other.mode == "graph" and other.replay is not None


def test_points_beyond_a_spline_s_ends_are_left_where_they_are(float64: None) -> None:
    model = build("flow", **SHALLOW["flow"])
    batches = [{"x": scale * torch.randn(20, 2)} for scale in (1.0, 5.0, 0.1)]
    assert batches[0]["x"].abs().max() < 4 < batches[1]["x"].abs().max()
    _, other = beside(model, "trace", "graph", batches)
    targets = [str(node.target) for node in other.replay.graph.nodes]  # type: ignore[union-attr]
    assert not any("index_put" in target or "index.Tensor" in target for target in targets)


def test_a_beta_that_grows_is_followed(float64: None) -> None:
    model = build("vae")
    batch = example_inputs(model, 7)
    _, other = beside(model, "mean_field", "graph", [batch] * 3, beta=[0.1, 0.5, 1.0])
    assert torch.equal(other.loss.model.beta, torch.tensor(1.0))  # and the model has its own back


def test_a_batch_of_another_size_goes_the_plain_way(float64: None) -> None:
    model = build("vae")
    batches = [example_inputs(model, images) for images in (7, 5, 7)]
    _, other = beside(model, "mean_field", "graph", batches)
    assert other.images == 7
    losses = Loss(model, "mean_field")
    first = Gradients(losses, "graph", images=7)
    first(example_inputs(model, 5))  # a resumed run may begin with the last batch of an epoch
    assert first.replay is None
    first(example_inputs(model, 7))
    assert first.replay is not None


class Twice(LatentVariableModel):
    """Two parameters of which only the sum matters: they have one gradient."""

    def __init__(self) -> None:
        super().__init__((1, 2, 2))
        self.a, self.b = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.a + self.b, 1.0).to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        pass


def test_each_gradient_may_be_changed_in_place() -> None:
    gradients = Gradients(Loss(Twice(), "trace"), "graph")
    gradients({"x": torch.ones(3, 1, 2, 2)})
    a, b = gradients.found()
    assert gradients.replay is not None and torch.equal(a, b)
    a.mul_(2)
    assert torch.equal(a, 2 * b)


class Undecided(VAE):
    """Looks at its numbers, and does one thing or another."""

    def model(self, x: Tensor) -> None:
        if relu(x).sum() > 3:
            self.seen = True
        super().model(x)


def test_what_cannot_be_captured_is_taken_plainly_and_said(float64: None) -> None:
    said: list[str] = []
    model = Undecided((1, 6, 6), hidden=8)
    gradients = Gradients(Loss(model, "mean_field"), "graph", say=said.append)
    batch = example_inputs(model, 7)
    torch.manual_seed(0)
    objective, _ = gradients(batch)
    assert len(said) == 1 and said[0].startswith("--compile graph cannot be used, steps are eager: ")
    gradients(batch)
    assert len(said) == 1 and gradients.mode == "eager"
    torch.manual_seed(0)
    torch.testing.assert_close(objective, Loss(model, "mean_field")(**batch).detach())


def falls_back(
    model: LatentVariableModel, mode: str, batch: dict[str, Tensor], estimator: str | None = None
) -> str:
    """Asserts that two steps are the plain ones, noise and buffers included. Returns what is said."""
    said: list[str] = []
    estimator = estimator or model.estimators[0]
    plain = Gradients(Loss(copy.deepcopy(model), estimator))
    other = Gradients(Loss(model, estimator), mode, say=said.append)
    for gradients in (plain, other):
        torch.manual_seed(0)
        for _ in range(2):
            gradients.loss.zero_grad()
            gradients.objective, _ = gradients(batch)  # type: ignore[attr-defined]
        gradients.drawn = torch.rand(1)  # type: ignore[attr-defined]
    assert torch.equal(plain.objective, other.objective) and torch.equal(plain.drawn, other.drawn)  # type: ignore[attr-defined]
    assert all(map(torch.equal, plain.found(), other.found()))
    assert all(map(torch.equal, plain.loss.buffers(), other.loss.buffers()))
    assert other.mode == "eager" and other.replay is None
    (line,) = said
    return line


@pytest.mark.parametrize("fault", ["objective", "gradient", "buffers", "replay", "fewer"])
def test_a_captured_step_that_differs_is_not_used(
    fault: str, float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison on the first batch sees a wrong value, gradient or buffer, and a replay that raises."""

    def wrong(loss: Loss, *given: Any) -> Any:
        graph, reached = capture(loss, *given)

        def replay(*inputs: Tensor) -> list[Tensor]:
            objective, good, *gradients = graph(*inputs)
            if fault == "objective":
                objective = objective * (1 + 1e-6)
            if fault == "gradient":
                gradients[0] = -gradients[0]
            if fault == "buffers":
                next(value for value in loss.buffers() if value.is_floating_point()).add_(1.0)
            if fault == "replay":
                raise ValueError("in vain")
            return [objective, good, *gradients]

        return replay, [*reached[:-1], False] if fault == "fewer" else reached

    monkeypatch.setattr("inference.training.gradients.capture", wrong)
    model = build("ae")
    line = falls_back(model, "graph", example_inputs(model, 4))
    expected = {"replay": "in vain", "fewer": "zip"}.get(
        fault, f"its {fault} differs from the eager step's by"
    )
    assert line.startswith("--compile graph cannot be used, steps are eager: ") and expected in line


class Counting(VAE):
    """Updates a buffer under a mask of rows, as many as columns, and reads it."""

    def __init__(self) -> None:
        super().__init__((1, 6, 6), hidden=8, z_dim=2)
        self.register_buffer("seen", torch.zeros(36, 36))

    def model(self, x: Tensor) -> None:
        self.seen[x.flatten(1).sum(0) > 3] = 1.0
        pyro.factor("count", -self.seen.sum() * (self.decoder.layers[0].weight ** 2).sum(), has_rsample=True)
        super().model(x)


def test_a_masked_update_of_a_buffer_is_never_replayed_wrongly(float64: None) -> None:
    model = Counting()
    batch = {"x": torch.rand(7, 1, 6, 6).round()}
    assert 0 < (batch["x"].flatten(1).sum(0) > 3).sum() < 36
    gradients = Gradients(Loss(model, "trace"), "graph", say=lambda line: None)
    plain = Gradients(Loss(copy.deepcopy(model), "trace"))
    for seed in range(3):
        batch = {"x": (torch.rand(7, 1, 6, 6) < 0.3).double()}
        found = []
        for each in (gradients, plain):
            torch.manual_seed(seed)
            each.loss.zero_grad()
            found.append((each(batch)[0], each.found(), list(each.loss.buffers())))
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


class Bare(VAE):
    """Uses `pyro.param`, which no optimiser of `fit` sees."""

    def model(self, x: Tensor) -> None:
        pyro.param("shift", torch.zeros(()))
        super().model(x)


def test_a_bare_pyro_param_is_refused() -> None:
    gradients = Gradients(Loss(Bare((1, 6, 6), hidden=8), "mean_field"))
    with pytest.raises(UserError, match=r"used for shift\. Make each a"):
        gradients(example_inputs(gradients.loss.model, 7), check=True)
    assert not list(pyro.get_param_store())


def test_a_first_batch_that_is_not_finite_does_not_give_up_the_capture(float64: None) -> None:
    model = build("vae")
    gradients = Gradients(Loss(model, "mean_field"), "graph", say=pytest.fail)
    batch = example_inputs(model, 7)
    assert not gradients({"x": batch["x"] * torch.nan})[1]
    assert gradients.replay is None
    gradients.loss.zero_grad()
    assert gradients(batch)[1] and gradients.replay is not None


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_is_not_finite_is_seen(mode: str) -> None:
    model = build("vae")
    gradients = Gradients(Loss(model, "mean_field"), mode)
    batch = example_inputs(model, 7)
    assert gradients(batch)[1]
    gradients.loss.zero_grad()
    with torch.no_grad():
        model.decoder.layers[0].bias[0] = torch.nan
    assert not gradients(batch)[1]


def test_a_captured_run_goes_on_bit_for_bit(small_npz: Path, tmp_path: Path) -> None:
    arguments = ["--model", "vae", *TINY, "--data", str(small_npz), "--compile", "graph", "--run-dir"]
    assert svi.main([*arguments, str(tmp_path / "a"), "--steps", "5"]) == 0
    assert svi.main(["--resume", str(tmp_path / "a"), "--steps", "10"]) == 0
    assert svi.main([*arguments, str(tmp_path / "b")]) == 0
    assert same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))
    assert json.loads((tmp_path / "b" / "config.json").read_text())["compile"] == "graph"


def test_long_runs_are_compiled_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "inference.rundir.config.which", lambda name: "/usr/bin/g++" if name == "g++" else None
    )
    assert [default_mode(steps) for steps in (100, 2_000, 30_000)] == ["eager", "graph", "inductor"]
    monkeypatch.setattr("inference.rundir.config.which", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert default_mode(30_000) == "graph"
