"""The float32 settings of a run depend on its device, and torch's own are restored afterwards."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import inference.evaluate as evaluate_command
from inference import svi
from inference.backend import device
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from ppl_models import VAE
from tests.support import TINY

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def settings() -> dict[str, Any]:
    """Returns every global setting that the context may change."""
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "denormals_are_zero": (torch.full((), 1e-38, dtype=torch.float32) * 0.1).item() == 0,
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


@pytest.fixture(params=["torch's own", "set by a user"])
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets and returns the settings to restore: torch's own, or the opposite of each."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if request.param == "set by a user":
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        torch.set_float32_matmul_precision("high")
        torch.use_deterministic_algorithms(True)
        torch.set_flush_denormal(True)
    yield settings()
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_every_setting_is_restored(before: dict[str, Any], device: torch.device) -> None:
    with fast_float32(device):
        assert settings() != before
    assert settings() == before
    with pytest.raises(KeyError), fast_float32(device):
        raise KeyError
    assert settings() == before


def test_no_tf32_and_deterministic_algorithms_on_cuda(before: dict[str, Any]) -> None:
    with fast_float32(CUDA):
        inside = settings()
    assert inside["matmul"] == "highest" and not inside["matmul_tf32"] and not inside["cudnn_tf32"]
    assert inside["deterministic"] and inside["warn_only"] and inside["cudnn_deterministic"]
    assert not inside["cudnn_benchmark"] and not inside["fill"]
    assert inside["workspace"] == (before["workspace"] or ":4096:8")  # a user's own is kept
    assert inside["denormals_are_zero"] == before["denormals_are_zero"]  # this setting is the CPU's


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(("tolerance", "precision"), [(1.0, "medium"), (0.0, "highest")])
def test_the_cpu_s_settings_do_not_depend_on_the_machine_s_gpu(
    gpu: bool, tolerance: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the error of "medium" matters, which is never 0 or 1."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(device, "TOLERANCE", tolerance)
    before = settings()
    with fast_float32(CPU):
        inside = settings()
    assert inside["denormals_are_zero"] and inside["matmul"] == precision
    untouched = ("cudnn_tf32", "cudnn_deterministic", "deterministic", "workspace")
    assert all(inside[name] == before[name] for name in untouched)


def test_training_in_python_leaves_torch_s_settings_and_the_allocator(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `run_command` changes the allocator."""
    called = []
    monkeypatch.setattr("ctypes.CDLL", lambda *_: called.append("allocator"))
    before = settings()
    run = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(tmp_path / "run")]
    assert svi.main(run) == 0
    assert evaluate_command.main([str(tmp_path / "run"), "--images", "5", "--particles", "1"]) == 0
    assert settings() == before and not called
    with pytest.raises(SystemExit):
        run_command(lambda _: 0)
    assert called == ["allocator"]


def test_training_uses_the_settings(small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are active during training and evaluation."""
    seen = []
    bound = VAE.bound

    def watched(self: VAE, *arguments: Any, **keywords: Any) -> Any:
        seen.append(settings()["denormals_are_zero"])
        return bound(self, *arguments, **keywords)

    monkeypatch.setattr(VAE, "bound", watched)
    run = ["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(tmp_path / "run")]
    assert svi.main(run) == 0
    assert seen and all(seen)
