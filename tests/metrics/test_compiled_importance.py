"""Compiled importance sampling finds what the eager one does."""

from typing import Any

import pytest
import torch

from inference.backend.device import fast_float32
from inference.metrics import importance
from inference.metrics.importance import importance_sample
from tests.ppl_models.test_contract import build
from tests.training.test_compiled_terms import held_out, needs_compiler
from tests.training.test_program import CPU


@pytest.fixture(autouse=True)
def large(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every estimate counts as large; the cache of compiled programs is empty."""
    monkeypatch.setattr(importance, "MIN_VALUES", 0)
    monkeypatch.setenv("PPL_MODELS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["vae", "gmvae", "ssvae", "vae2d"])
def test_compiled_samples_are_the_eager_ones(
    name: str, float64: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model, calls = build(name).eval(), list[int]()
    test = held_out(model)

    def replay(graph: Any, given: Any, path: Any) -> Any:
        def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            calls.append(len(inputs))
            return graph(*inputs)

        return run

    monkeypatch.setattr("inference.compiled.function.compiled", replay)
    # 40 rows at once: the 150 samples of an image are three parts of 38, and one of 36, which is eager
    monkeypatch.setattr(importance, "bytes_per_sample", lambda *_: importance.MEMORY * 2**20 // 40)
    found = importance_sample(model, test, [1, 10, 150])
    monkeypatch.setattr(importance, "MIN_VALUES", 10**20)
    eager = importance_sample(model, test, [1, 10, 150])
    assert len(calls) == 13 * 3 and "cannot be compiled" not in capsys.readouterr().err
    for metric, values in eager.metrics.items():
        assert found.metrics[metric] == pytest.approx(values, rel=1e-10, abs=1e-10)
    assert found.samples.latents.keys() == eager.samples.latents.keys()
    for latent, z in eager.samples.latents.items():
        assert torch.equal(found.samples.latents[latent], z)


@needs_compiler
@pytest.mark.full
def test_a_compiled_estimate_in_float32(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = build("vae").eval()
    test = held_out(model)
    with fast_float32(CPU):
        found = importance_sample(model, test, [100]).metrics["iwae_100"]
        monkeypatch.setattr("inference.compiled.function.compiled", lambda *_: pytest.fail("compiled"))
        again = importance_sample(model, test, [100]).metrics["iwae_100"]
        monkeypatch.setattr(importance, "MIN_VALUES", 10**20)
        eager = importance_sample(model, test, [100]).metrics["iwae_100"]
    assert "cannot be compiled" not in capsys.readouterr().err
    assert found == again and found == pytest.approx(eager, rel=1e-5)
