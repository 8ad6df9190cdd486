"""On CUDA: steps, resume, evaluation and samples are the CPU's.

Tests on "cuda" are skipped where there is no CUDA device. The same functions run on "cpu" everywhere, for a
few models, so that the test code itself is tried.
"""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

import inference.evaluate as evaluate_command
from inference import svi
from inference.backend.device import fast_float32
from inference.cli.train import configuration, parse
from inference.compiled.capture import capturable_loss
from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.data.load import find_dataset
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.errors import UserError
from inference.metrics.bounds import evaluate_bounds
from inference.metrics.importance import importance_sample
from inference.metrics.run_evaluation import why_no_importance_weights
from inference.rundir.config import MODES
from inference.training.code_prior import write_codes
from inference.training.gradients import Gradients
from inference.training.setup import check_size
from ppl_models import MODELS, VAE, VQVAE
from ppl_models.base import LatentVariableModel
from ppl_models.programs import sample_latents
from tests import forks
from tests.backend.test_ranks import arguments
from tests.ppl_models.test_contract import SHALLOW, build, slow
from tests.support import checkpoint, lines, same, shortened

pytestmark = pytest.mark.usefixtures("narrow")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
FULL_ON_CPU = [pytest.param("cpu", marks=pytest.mark.full), DEVICES[1]]  # other tests do the same on the CPU
TRIED = ("ssvae",)  # on the CPU
STEPS = [pytest.param(name, way, "cuda", marks=needs_cuda) for name in MODELS for way in MODES[:2]]
STEPS += [pytest.param(name, way, "cpu") for name in TRIED for way in MODES[:2]]
ALL = [pytest.param(name, "cuda", marks=needs_cuda) for name in MODELS] + [(name, "cpu") for name in TRIED]


class NoiseOfTheCPU(TorchDispatchMode):
    """Every random operation draws from the CPU's generator, whatever device its result is on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        random = torch.Tag.nondeterministic_seeded in func.tags and "attention" not in func.name()
        if not random:
            return func(*args, **kwargs)
        like = next((value for value in args if isinstance(value, Tensor)), None)
        device = kwargs.get("device") or (torch.device("cpu") if like is None else like.device)

        def moved(value: Any) -> Any:
            return value.cpu() if isinstance(value, Tensor) else value

        kwargs = tree_map(moved, kwargs) | ({"device": torch.device("cpu")} if "device" in kwargs else {})
        found = func(*tree_map(moved, args), **kwargs)
        if func._schema.is_mutable:
            return args[0].copy_(found)
        return tree_map_only(Tensor, lambda value: value.to(device), found)


def step(model: LatentVariableModel, batch: dict[str, Tensor], way: str, device: str) -> list[Tensor]:
    """The objective, gradients and buffers of one training step on a device, as CPU tensors."""
    model = copy.deepcopy(model).to(device)
    batch = {name: value.to(device) for name, value in batch.items()}
    loss = Loss(model, model.estimators[0])
    gradients, kept = Gradients(loss, way, say=pytest.fail), copy.deepcopy(model.state_dict())
    gradients(batch)  # captured and compiled here, outside of the noise
    loss.zero_grad()
    model.load_state_dict(kept)
    torch.manual_seed(1)
    with NoiseOfTheCPU():
        objective, good = gradients(batch)
    assert good and gradients.mode == way and (way == "eager") == (gradients.replay is None)
    every = [torch.zeros_like(p) if p.grad is None else p.grad for p in loss.parameters()]
    assert all(value.device.type == device for value in (objective, *every))
    return [value.detach().cpu() for value in (objective, *every, *loss.buffers())]


@pytest.mark.parametrize(("name", "way", "device"), STEPS)
def test_a_step_is_the_cpu_s(name: str, way: str, device: str, float64: None) -> None:
    model = build(name)
    batch = example_inputs(model, 4 if slow(model) else 7)
    expected = step(model, batch, "eager", "cpu")
    for ours, theirs in zip(step(model, batch, way, device), expected, strict=True):
        assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


# A gradient within the loss looks for the device.
WITHOUT_GRADIENT = {"regularized_ssvae": {"smooth_weight": 0.0}}

# Not seq_vae: torch's GRU asks a GPU for its memory.
PRETENDED = [name for name in MODELS if name != "seq_vae"]
FEW_PRETENDED = [
    "vae",
    "ssvae",
    "fsvae",
    "gmvae",
    "vae2d",
    "flow",
    "made",
    "ae",
    "vqvae",
    "two_layer_vae",
    "ppca",
]


@pytest.mark.parametrize("name", shortened(PRETENDED, FEW_PRETENDED))
def test_no_model_mixes_devices(name: str) -> None:
    """Objective, bound and samples on tensors that only pretend to be on CUDA: none meets one of the CPU."""
    model = build(name, **SHALLOW.get(name, {}), **WITHOUT_GRADIENT.get(name, {})).eval()
    inputs = example_inputs(model, 4)

    def pretended(value: Tensor) -> Tensor:
        return torch.empty(value.shape, dtype=value.dtype, device="cuda")

    found: list[Tensor] = []
    elbo = ESTIMATORS[model.estimators[0]].elbo(1)
    with FakeTensorMode(shape_env=ShapeEnv()), pyro.validation_enabled(False):
        for part in model.modules():
            for key, value in part._parameters.items():
                part._parameters[key] = None if value is None else torch.nn.Parameter(pretended(value))
            for key, value in part._buffers.items():
                part._buffers[key] = None if value is None else pretended(value)
        batch = {key: pretended(value) for key, value in inputs.items()}
        try:
            found.append(capturable_loss(elbo, model.model, model.guide, **batch))
            latents = sample_latents(model, **batch)
            found += model.bound(**batch, latents=latents).report().values()
            found.append(model.sample(3))
            if latents:
                found.append(model.reconstruct(batch["x"], batch.get("y")))
        except (DynamicOutputShapeException, GuardOnDataDependentSymNode):
            assert name == "made"  # whose samples index by a mask, which has no shape without numbers
        except RuntimeError as error:  # autograd looks for the device: flow's bound by hand is a gradient
            assert name == "flow" and "hasPrimaryContext" in str(error)
    assert found
    assert all(value.device.type == "cuda" for value in found)


@pytest.mark.parametrize(("name", "device"), ALL)
def test_samples_are_the_cpu_s(name: str, device: str, float64: None) -> None:
    model = build(name).eval()
    found = []
    for where in ("cpu", device):
        torch.manual_seed(1)
        with NoiseOfTheCPU():
            images = copy.deepcopy(model).to(where).sample(4, noise=False)
        assert images.device.type == where and images.shape == (4, *model.shape)
        found.append(images.cpu())
    assert_close(*found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("name", "device"), ALL)
def test_evaluation_is_the_cpu_s(name: str, device: str, float64: None) -> None:
    """Every figure, also the use of a codebook and the importance-weighted bounds."""
    model = build(name).eval()
    x = torch.randint(256, (6, *model.shape), dtype=torch.uint8)
    if model.observation in ("points", "codes"):
        x = example_inputs(model, 6)["x"].to(torch.float32 if model.observation == "points" else torch.uint8)
    y, found = torch.arange(6) % 10, []
    data = Dataset("random", x, y, x, y)
    for where in ("cpu", device):
        test = HeldOut(data, type(model), torch.device(where))
        there = copy.deepcopy(model).to(where)
        with NoiseOfTheCPU():
            found.append(evaluate_bounds(there, test, samples=2))
            if not why_no_importance_weights(there, data, found[-1]):
                found[-1] |= importance_sample(there, test, [1, 10]).metrics
    assert found[0].keys() == found[1].keys()
    for key, figure in found[0].items():
        assert found[1][key] == pytest.approx(figure, rel=1e-7, abs=1e-9, nan_ok=True), key
    assert name != "vqvae" or found[1]["perplexity"]["value"] > 1


@pytest.mark.parametrize(
    ("name", "way", "device"),
    [pytest.param(name, way, "cuda", marks=needs_cuda) for name in ("vae", "vqvae") for way in MODES]
    + [pytest.param("vae", way, "cpu", marks=pytest.mark.full) for way in ("eager", "graph")],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    name: str, way: str, device: str, small_npz: Path, tmp_path: Path
) -> None:
    """Bit for bit."""
    own = {"vae": ["--hidden", "8", "--z-dim", "2"], "vqvae": ["--codes", "9"]}[name]
    steps = {"vae": 40, "vqvae": 4}[name]

    def train(run: str, *options: str) -> None:
        assert svi.main([*options, "--run-dir", str(tmp_path / run)]) == 0

    usual = ["--model", name, *own, "--data", str(small_npz), "--batch-size", "15", "--device", device]
    usual += ["--compile", way]
    train("whole", *usual, "--steps", str(steps))
    train("part", *usual, "--steps", str(steps // 2))
    assert svi.main(["--resume", str(tmp_path / "part"), "--steps", str(steps)]) == 0
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "part"))
    assert json.loads((tmp_path / "part" / "results.json").read_text())["device"].startswith(device)


@pytest.mark.parametrize("device", FULL_ON_CPU)
def test_bfloat16_learns_and_stays_near_float32(device: str, small_npz: Path, tmp_path: Path) -> None:
    ends = {}
    for precision in ("float32", "bfloat16"):
        run = tmp_path / precision
        small = ["--hidden", "16", "--z-dim", "2", "--batch-size", "15", "--steps", "100", "--lr", "0.01"]
        own = ["--model", "vae", *small, "--data", str(small_npz), "--run-dir", str(run)]
        assert svi.main([*own, "--precision", precision, "--device", device, "--compile", "graph"]) == 0
        test = [line["negative_elbo"] for line in lines(run) if line["split"] == "test"]
        assert test[-1] < 0.8 * test[0]
        ends[precision] = test[-1]
        assert all(value.dtype == torch.float32 for value in checkpoint(run)["parameters"].values())
    assert ends["bfloat16"] == pytest.approx(ends["float32"], rel=0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_products_and_convolutions_have_float32_s_precision(device: str) -> None:
    """TF32 rounds to 11 bits: an error of about 5e-4."""
    a, b = (torch.randn(256, 256, dtype=torch.float64) for _ in range(2))
    x, w = torch.randn(2, 64, 16, 16, dtype=torch.float64), torch.randn(64, 64, 3, 3, dtype=torch.float64)
    with fast_float32(torch.device(device)):
        product = (a.float().to(device) @ b.float().to(device)).cpu()
        convolved = torch.nn.functional.conv2d(x.float().to(device), w.float().to(device)).cpu()
    for found, exact in ((product, a @ b), (convolved, torch.nn.functional.conv2d(x, w))):
        assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("device", FULL_ON_CPU)
def test_an_evaluated_run(
    device: str, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert svi.main([*arguments(small_npz, run, 20)[2:], "--device", device]) == 0
    capsys.readouterr()
    figures = []
    for where in ("cpu", device):
        with NoiseOfTheCPU():
            assert (
                evaluate_command.main([str(run), "--particles", "1", "10", "--device", where, "--json"]) == 0
            )
        figures.append(json.loads(capsys.readouterr().out))
    for key, figure in figures[0].items():
        if key.startswith("iwae"):
            assert figures[1][key] == pytest.approx(figure, rel=1e-4), key
    assert (run / "posterior.nc").exists()


@pytest.mark.parametrize("device", FULL_ON_CPU)
def test_two_processes(device: str, small_npz: Path, tmp_path: Path) -> None:
    """Each on a GPU of its own, or refused in one line: NCCL takes one process per GPU."""
    run = tmp_path / "run"
    done = forks.run(*arguments(small_npz, run, 4), "--device", device, processes=2)
    if device == "cuda" and torch.cuda.device_count() < 2:
        assert done.returncode != 0 and not run.exists()
        assert "error: 2 processes are on a machine with 1 CUDA devices" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "2 processes" in done.stdout and checkpoint(run)["step"] == 4


@pytest.mark.parametrize("device", FULL_ON_CPU)
def test_a_sweep_s_parent_opens_no_context(device: str, small_npz: Path) -> None:
    script = "import sys, torch; from inference import sweep; sweep.plan(sys.argv[1:])\n"
    script += "assert not torch.cuda.is_initialized()\n"
    if device == "cuda":
        script += "assert not torch._C._cuda_hasPrimaryContext(0)\n"
    grid = ["--model", "vae", "--over", "beta=0,1", "--batch-size", "15", "--data", str(small_npz)]
    command = [sys.executable, "-c", script, *grid, "--device", device]
    subprocess.run(command, env=forks.ENVIRONMENT, cwd=forks.ROOT, check=True, timeout=300)


def test_the_device_s_free_memory_counts(small_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the host's: here a device with 1 MiB free is pretended."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**20, 2**34))
    data, _ = find_dataset(str(small_npz), Path("nowhere"))
    config = configuration(parse(["--model", "vae", "--hidden", "3000", "--batch-size", "97"]), data)
    check_size(VAE, data, config, torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"vae of this size needs 0\.\d GiB of memory, and 0\.0 are free on the CUDA"
    ):
        check_size(VAE, data, config, torch.device("cuda"))
    few = replace(config, batch_size=97 * 2**20)
    with pytest.raises(UserError, match="a batch of 101711872 with 1 samples per image"):
        check_size(VAE, data, few, torch.device("cuda"))


def test_a_second_stage_encodes_on_the_chosen_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the device is pretended: the model stays where it is, and is asked to move."""
    x = np.random.RandomState(0).randint(256, size=(12, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "colours.npz", x_train=x[:8], x_test=x[8:])
    own = ["--model", "vqvae", "--data", str(tmp_path / "colours.npz"), "--codes", "9", "--steps", "1"]
    assert svi.main([*own, "--batch-size", "8", "--device", "cpu", "--run-dir", str(tmp_path / "run")]) == 0
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(VQVAE, "to", lambda self, device: asked.append(device) or self)
    for name, device in (("cuda", "cuda"), ("cpu", "cpu"), ("auto", "cuda")):
        file, _ = write_codes(tmp_path / "run", device=name)
        assert asked.pop() == torch.device(device)
    codes = np.load(file)["x_train"]
    assert codes.shape == (8, 8, 8) and codes.max() < 9
