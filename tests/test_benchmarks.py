"""The rivals of the benchmarks are fair: the same loss by hand, and every rival trains every parameter."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from benchmarks import COST, bound, growth, step, training
from inference import svi
from inference.compare import example_inputs
from inference.errors import UserError
from inference.plots import images
from ppl_models import MODELS
from ppl_models.base import draw_latents
from tests.support import DOCUMENTED, TINY

WRITTEN = [(name, written) for name, ways in step.WRITTEN.items() for written in ways]
# Standard deviations of normals whose squared error alone is what is minimised by hand.
SCALES = {"ae": (2 * math.pi) ** -0.5, "conv_vae": 0.5**0.5, "hvae": 0.5**0.5}


@pytest.mark.parametrize(("name", "written"), WRITTEN)
def test_by_hand_is_the_same_loss(name: str, written: str, float64: None) -> None:
    model = step.made(name)
    nets, loss = step.WRITTEN[name][written]()
    ours = [p for child in model.children() for p in child.parameters()]
    ours += model.parameters(recurse=False)
    theirs = [p for net in nets for p in net.parameters()]
    for mine, p in zip(ours, theirs, strict=True):
        p.data.copy_(mine.detach())
    if name == "ssvae":  # a decoder that looks away from z: its noise comes in another order
        with torch.no_grad():
            for first in (model.decoder.layers[0], nets[-1][0]):
                first.weight[:, : model.z_dim] = 0
    if name == "vqvae":  # entries stay where they are
        model.codebook.initialized.fill_(True)
    batch = example_inputs(model, 6)
    torch.manual_seed(1)
    ours = model.bound(**batch, latents=draw_latents(model, **batch), kl="closed")
    scale = getattr(model, "scale", SCALES.get(name, (2 * math.pi) ** -0.5))  # or else there is no constant
    log_density = math.prod(model.shape) / 2 * math.log(2 * math.pi * scale**2)
    constant = ours.weights.get("reconstruction", 1.0) * log_density
    if name == "vqvae":  # the uniform prior's, which by hand is left out too
        constant += ours.weights["kl_z"] * ours.terms["kl_z"].mean()
    torch.manual_seed(1)
    torch.testing.assert_close(loss(**batch), ours.objective - constant)


@pytest.mark.parametrize("name", step.WRITTEN)
def test_every_rival_trains_every_parameter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.nn.Parameter] = []
    create = torch.nn.Linear.__init__

    def watched(self: torch.nn.Linear, *sizes: int) -> None:
        create(self, *sizes)
        made.extend(self.parameters())

    monkeypatch.setattr(torch.nn.Linear, "__init__", watched)
    for before in step.WRITTEN:  # an earlier model leaves nothing behind in Pyro's store
        made.clear()
        rivals = step.contenders(before, mode="eager", compiled=False)
        if before == name:
            break
        rivals[step.SVI](**example_inputs(step.made(before), 5))
    ours = list(made)
    values = [p.detach().clone() for p in ours]
    for rival in rivals.values():
        rival(**example_inputs(step.made(name), 5))
    assert all(not torch.equal(p, value) for p, value in zip(ours, values, strict=True))


def colours(folder: Path) -> list[str]:
    """The options of a short run of conv_vae on few images."""
    x = np.random.RandomState(0).randint(256, size=(30, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "colours.npz", x_train=x[:20], x_test=x[20:])
    data = ["--data", str(folder / "colours.npz"), "--batch-size", "8"]
    return ["--model", "conv_vae", *data, "--steps", "5"]


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "draw_all", lambda *_: None)


@pytest.mark.usefixtures("no_pictures")
def test_a_training_by_hand_goes_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert svi.main([*colours(tmp_path), "--run-dir", run]) == 0
    capsys.readouterr()
    assert training.main([run]) == 0
    lines = {line.split(" | ")[0][2:]: line for line in capsys.readouterr().out.splitlines()}
    for figure in ("negative_elbo", "kl", "squared_error_and_kl"):
        _, suite, hand, *_ = lines[figure].split(" | ")
        assert float(hand) == pytest.approx(float(suite), rel=1e-4)


@pytest.mark.usefixtures("no_pictures")
def test_a_training_by_hand_refuses_what_it_cannot_repeat(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert svi.main([*colours(tmp_path), "--clip", "1", "--run-dir", run]) == 0
    with pytest.raises(UserError, match="by hand there is no clip"):
        training.main([run])


def test_the_table_of_steps_is_made_from_its_json() -> None:
    found = json.loads(step.TIMES.read_text())
    assert found.keys() == step.WRITTEN.keys() == set(DOCUMENTED)
    assert step.table(found) in COST.read_text()


@pytest.mark.parametrize("rival", [step.SUITE, step.SVI])
def test_the_suite_and_plain_svi_are_timed_without_validation(rival: str) -> None:
    make, batch = (
        step.contenders("vae", mode="eager", compiled=False)[rival],
        example_inputs(step.made("vae"), 5),
    )
    seen: list[set[object]] = []

    def look(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, torch.nn.Linear):
            seen.append({value for key, value in pyro.settings.get().items() if key.startswith("validate_")})

    before = {key: value for key, value in pyro.settings.get().items() if key.startswith("validate_")}
    assert set(before.values()) == {True}  # as a test begins, and as Pyro does
    hook = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        make(**batch)
    finally:
        hook.remove()
    assert len(seen) >= 6 and all(values == {False} for values in seen)
    assert {key: value for key, value in pyro.settings.get().items() if key.startswith("validate_")} == before


def test_a_model_that_is_not_written_by_hand_is_refused(
    tmp_path: Path, small_npz: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="unknown model 'factor_analysis': choose from vae, gmvae"):
        step.main(["--model", "factor_analysis"])
    run = str(tmp_path / "run")
    assert svi.main(["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", run]) == 0
    monkeypatch.delitem(step.WRITTEN, "vae")
    with pytest.raises(UserError, match="vae is not written by hand: take a run of gmvae, ssvae"):
        training.main([run])


def test_a_slope_of_one_is_linear() -> None:
    axis = growth.Axis((1, 10, 100), lambda n: MODELS["vae"]((1, 4, 4)), "iwae", lambda n: n, lambda n: n)
    assert growth.slopes(axis, [2.0, 20.0, 200.0]) == pytest.approx([1, 1])
    assert growth.slopes(axis, [5.0, 5.0, 500.0]) == pytest.approx([0, 2])


def test_operations_of_a_bound_are_those_of_its_networks() -> None:
    counted = bound.count(step.made("vae"), torch.zeros(1, 1, 28, 28))
    encoder, decoder = 784 * 300 + 300 * 300 + 300 * 20, 10 * 300 + 300 * 300 + 300 * 784
    assert counted == 2 * (encoder + bound.DRAWS * decoder)
    assert 10_000 * counted == pytest.approx(6.56e12, rel=0.01)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts memory as Linux does")
def test_memory_is_what_a_step_takes_at_its_peak() -> None:
    """In a process of its own: this one may have memory at hand that earlier tests have freed."""
    program = """
import torch
from benchmarks import step
rivals = {"large": lambda **_: torch.ones(2**25).sum(), "small": lambda **_: None}
step.contenders = lambda name: rivals
print(step._grow("vae", "small"), step._grow("vae", "large"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    small, large = map(float, done.stdout.split())
    assert small < 16 and large == pytest.approx(128, abs=16)  # 2^25 numbers of four bytes
