"""The compiled evaluation of a chunk is the eager one: the same terms, the same noise."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.backend.device import fast_float32
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.metrics.bounds import evaluate_bounds
from inference.training import loop
from inference.training.compiled_terms import CompiledTerms
from ppl_models import MODELS
from tests.ppl_models.test_contract import build
from tests.support import shortened
from tests.training.test_program import CPU, data_for, train

pytestmark = pytest.mark.usefixtures("narrow")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")


@pytest.fixture(autouse=True)
def small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of five images, and an empty cache of compiled programs."""
    monkeypatch.setattr("inference.metrics.bounds.CHUNK", 5)
    monkeypatch.setenv("PPL_MODELS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replays the recorded graph instead of compiling it. Returns the batch size of each call."""
    calls: list[int] = []

    def replay(graph: Any, given: Any, path: Any) -> Any:
        def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            calls.append(len(inputs[-1]))
            return graph(*inputs)

        return run

    monkeypatch.setattr("inference.compiled.function.compiled", replay)
    return calls


def held_out(model: Any, images: int = 13) -> HeldOut:
    """Thirteen images: two chunks of five and one of three."""
    data = data_for(model, images)
    return HeldOut(
        Dataset("random", data.x_train, data.y_train, data.x_train, data.y_train), type(model), CPU
    )


@pytest.mark.parametrize("name", shortened(MODELS, ["vae", "ssvae", "vae2d", "vqvae"]))
def test_compiled_terms_are_the_eager_ones(name: str, float64: None, replayed: list[int]) -> None:
    torch.manual_seed(0)
    model = build(name)
    test, terms = held_out(model), CompiledTerms(model, pytest.fail)
    eager = evaluate_bounds(model, test)
    before = torch.get_rng_state()
    found = [evaluate_bounds(model, test, terms=terms) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert found[0] == found[1] and found[0].keys() == eager.keys()
    for metric, values in eager.items():
        assert found[0][metric] == pytest.approx(values, rel=1e-12, abs=1e-12)
    # a codebook's counts depend on values; elsewhere the two full chunks are replayed in both evaluations
    assert replayed == ([] if name == "vqvae" else [5, 5, 5, 5])


def test_several_samples_are_eager(float64: None, replayed: list[int]) -> None:
    model = build("vae")
    test = held_out(model)
    assert evaluate_bounds(model, test, 3, CompiledTerms(model, pytest.fail)) == evaluate_bounds(
        model, test, 3
    )
    assert replayed == []


def test_the_program_follows_the_parameters(float64: None, replayed: list[int]) -> None:
    model = build("vae")
    test, terms = held_out(model), CompiledTerms(model, pytest.fail)
    first = evaluate_bounds(model, test, terms=terms)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    second = evaluate_bounds(model, test, terms=terms)
    assert second["kl"]["value"] == pytest.approx(evaluate_bounds(model, test)["kl"]["value"], rel=1e-12)
    assert abs(second["kl"]["value"] / first["kl"]["value"] - 1) > 0.01


@pytest.mark.parametrize("broken", ["value", "logits", "fails"])
def test_a_program_that_differs_is_not_used(
    broken: str, float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, said = build("ssvae", labels=10), list[str]()

    def wrong(graph: Any, given: Any, path: Any) -> Any:
        if broken == "fails":
            raise RuntimeError("no compiler")

        def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            values = list(graph(*inputs))
            values[-1 if broken == "logits" else 0] = values[-1 if broken == "logits" else 0] * 1.001
            return values

        return run

    monkeypatch.setattr("inference.compiled.function.compiled", wrong)
    test = held_out(model)
    found = evaluate_bounds(model, test, terms=CompiledTerms(model, said.append))
    assert found == evaluate_bounds(model, test)
    reason = {"value": "its negative_elbo differs", "logits": "its logits differs", "fails": "no compiler"}
    assert len(said) == 1 and reason[broken] in said[0]


@needs_compiler
@pytest.mark.full
@pytest.mark.parametrize("name", ["vae", "ssvae"])
def test_a_compiled_evaluation_is_kept_in_the_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build(name, **({"labels": 10} if name == "ssvae" else {}))
    test = held_out(model)
    with fast_float32(CPU):
        eager = evaluate_bounds(model, test)
        found = evaluate_bounds(model, test, terms=CompiledTerms(model, pytest.fail))
        monkeypatch.setattr("inference.compiled.function.compiled", lambda *_: pytest.fail("compiled"))
        again = evaluate_bounds(model, test, terms=CompiledTerms(model, pytest.fail))
    assert found == again
    for metric, values in eager.items():
        assert found[metric] == pytest.approx(values, rel=1e-5, abs=1e-5)


def test_large_evaluations_are_compiled(replayed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes seconds, which a small test set does not pay back."""
    made = train(build("vae"), "eager")[0]
    held = {"test": held_out(made.model)}
    values = held["test"].x.numel() * 20  # twenty evaluations
    for least, mode, compiles in (
        (values, "inductor", True),
        (values + 1, "inductor", False),
        (1, "graph", False),
    ):
        monkeypatch.setattr(loop, "MIN_VALUES", least)
        config = made.config.__class__(steps=100, batch_size=5, compile=mode).resolved(
            type(made.model), made.model.shape
        )
        new = loop.Loop(made.model, made.batches, held, config)
        assert isinstance(new.terms, CompiledTerms) == compiles
