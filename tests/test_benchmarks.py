"""The benchmarks are fair: every implementation computes the same loss and trains every parameter."""

import io
import json
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from threading import Thread
from types import ModuleType

import numpy as np
import pyro
import pytest
import torch

from benchmarks import (
    COST,
    bound,
    gpu,
    growth,
    implementations,
    network,
    processes,
    profile,
    rows,
    scale,
    step,
    training,
    worker,
)
from benchmarks.plain_torch import IMPLEMENTATIONS
from inference import svi
from inference.data import stored
from inference.data.examples import example_inputs
from inference.elbo.estimators import Loss
from inference.errors import UserError
from ppl_models import MODELS
from ppl_models.programs import sample_latents
from tests import forks
from tests.support import DOCUMENTED, TINY

LABELS = [(name, label) for name, builders in IMPLEMENTATIONS.items() for label in builders]
# For models that minimise a squared error: the scale of the normal with this log density, up to a constant.
SCALES = {"ae": (2 * math.pi) ** -0.5, "conv_vae": 0.5**0.5, "hvae": 0.5**0.5}


@pytest.mark.parametrize(("name", "label"), LABELS)
def test_plain_torch_computes_the_same_loss(name: str, label: str, float64: None) -> None:
    model = implementations.build_model(name)
    nets, loss = IMPLEMENTATIONS[name][label]()
    ours = [p for child in model.children() for p in child.parameters()]
    ours += model.parameters(recurse=False)
    theirs = [p for net in nets for p in net.parameters()]
    for mine, p in zip(ours, theirs, strict=True):
        p.data.copy_(mine.detach())
    if name == "ssvae":  # the noise comes in another order, so make the decoder ignore z
        with torch.no_grad():
            for first in (model.decoder.layers[0], nets[-1][0]):
                first.weight[:, : model.z_dim] = 0
    if name == "vqvae":  # no initialization from data
        model.codebook.initialized.fill_(True)
    batch = example_inputs(model, 6)
    torch.manual_seed(1)
    ours = model.bound(**batch, latents=sample_latents(model, **batch), kl="closed")
    no_constant = (2 * math.pi) ** -0.5  # the scale at which the constant is zero
    scale = getattr(model, "scale", SCALES.get(name, no_constant))
    log_density = math.prod(model.shape) / 2 * math.log(2 * math.pi * scale**2)
    constant = ours.weights.get("reconstruction", 1.0) * log_density
    if name == "vqvae":  # plain PyTorch omits the constant KL term of the uniform prior too
        constant += ours.weights["kl_z"] * ours.terms["kl_z"].mean()
    torch.manual_seed(1)
    expected = ours.objective - constant
    if name == "iwae":
        expected = Loss(model, "iwae", 50)(**batch)
        torch.manual_seed(1)
    torch.testing.assert_close(loss(**batch), expected)


@pytest.mark.parametrize(
    "names", [["vae", "ssvae", "made"], pytest.param(IMPLEMENTATIONS, marks=pytest.mark.full)]
)
def test_every_implementation_trains_every_parameter(
    names: Iterable[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model after the other: an earlier one leaves nothing behind in Pyro's parameter store."""
    created: list[torch.nn.Parameter] = []
    initialize = torch.nn.Linear.__init__

    def recording(self: torch.nn.Linear, *sizes: int) -> None:
        initialize(self, *sizes)
        created.extend(self.parameters())

    monkeypatch.setattr(torch.nn.Linear, "__init__", recording)
    for name in names:
        created.clear()
        runs = implementations.contenders(name, 5, mode="eager", compiled=False)
        parameters = list(created)
        values = [p.detach().clone() for p in parameters]
        for run in runs.values():
            run(1)
        changed = (not torch.equal(p, value) for p, value in zip(parameters, values, strict=True))
        assert all(changed), name


def conv_vae_options(folder: Path) -> list[str]:
    """Returns the options of a short run of conv_vae on a few images."""
    x = np.random.RandomState(0).randint(256, size=(30, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "colours.npz", x_train=x[:20], x_test=x[20:])
    data = ["--data", str(folder / "colours.npz"), "--batch-size", "8"]
    return ["--model", "conv_vae", *data, "--steps", "5"]


def test_plain_torch_training_has_the_same_trajectory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert svi.main([*conv_vae_options(tmp_path), "--run-dir", run]) == 0
    capsys.readouterr()
    assert training.main([run]) == 0
    lines = {line.split(" | ")[0][2:]: line for line in capsys.readouterr().out.splitlines()}
    for metric in ("negative_elbo", "kl", "squared_error_and_kl"):
        _, suite, plain, *_ = lines[metric].split(" | ")
        assert float(plain) == pytest.approx(float(suite), rel=1e-4)


def test_plain_torch_training_refuses_options_that_it_does_not_support(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert svi.main([*conv_vae_options(tmp_path), "--clip", "1", "--run-dir", run]) == 0
    with pytest.raises(UserError, match="plain PyTorch does not support --clip"):
        training.main([run])


# no plain PyTorch next to them yet
NOT_TIMED = {"two_layer_vae", "vamp_vae", "regularized_ssvae", "adgm", "seq_vae"}


def test_the_table_of_steps_is_made_from_step_json() -> None:
    found = json.loads(step.TIMES.read_text())
    assert found.keys() == IMPLEMENTATIONS.keys()
    assert {*DOCUMENTED, "iwae"} - found.keys() <= NOT_TIMED and not NOT_TIMED & found.keys()
    assert step.table(found) in COST.read_text()


@pytest.mark.parametrize("label", [implementations.SUITE, implementations.SVI])
def test_the_suite_and_plain_svi_are_timed_without_validation(label: str) -> None:
    run = implementations.contenders("vae", 5, mode="eager", compiled=False)[label]
    run(1)  # Pyro validates the suite's first step
    seen: list[set[object]] = []

    def record(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, torch.nn.Linear):
            seen.append({value for key, value in pyro.settings.get().items() if key.startswith("validate_")})

    before = {key: value for key, value in pyro.settings.get().items() if key.startswith("validate_")}
    assert set(before.values()) == {True}  # Pyro's default, which a fixture sets
    hook = torch.nn.modules.module.register_module_forward_hook(record)
    try:
        run(1)
    finally:
        hook.remove()
    assert len(seen) >= 6 and all(values == {False} for values in seen)
    assert {key: value for key, value in pyro.settings.get().items() if key.startswith("validate_")} == before


def test_a_model_without_a_plain_torch_implementation_is_refused(
    tmp_path: Path, small_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="unknown model 'factor_analysis': choose from vae, iwae, gmvae"):
        step.main(["--model", "factor_analysis"])
    run = str(tmp_path / "run")
    assert svi.main(["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", run]) == 0
    monkeypatch.delitem(IMPLEMENTATIONS, "vae")
    with pytest.raises(UserError, match=r"no implementation in plain PyTorch\. Choose a run of gmvae, ssvae"):
        training.main([run])


def test_a_slope_of_one_is_linear() -> None:
    axis = growth.Axis((1, 10, 100), lambda n: MODELS["vae"]((1, 4, 4)), "iwae", lambda n: n, lambda n: n)
    assert growth.slopes(axis, [2.0, 20.0, 200.0]) == pytest.approx([1, 1])
    assert growth.slopes(axis, [5.0, 5.0, 500.0]) == pytest.approx([0, 2])


def test_operations_of_the_bound_are_those_of_its_networks() -> None:
    counted = bound.count_operations(implementations.build_model("vae"), torch.zeros(1, 1, 28, 28))
    encoder, decoder = 784 * 300 + 300 * 300 + 300 * 20, 10 * 300 + 300 * 300 + 300 * 784
    assert counted == 2 * (encoder + bound.SAMPLES * decoder)
    assert 10_000 * counted == pytest.approx(32.8e12, rel=0.01)


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc/self/clear_refs")
def test_memory_growth_is_the_peak_of_a_step() -> None:
    """Runs in a subprocess, because this process may reuse memory that earlier tests have freed."""
    program = """
import torch
from benchmarks import step
runs = {"large": lambda count: torch.ones(2**25).sum(), "small": lambda count: None}
step.contenders = lambda name, size: runs
print(step._memory_growth("vae", "small"), step._memory_growth("vae", "large"))
"""
    done = forks.run("-c", program)
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    assert small < 16 and large == pytest.approx(128, abs=16)  # 2^25 numbers of 4 bytes


def test_the_parts_of_a_profile_add_up_to_the_step() -> None:
    kernels = {
        "aoti_torch_cpu_addmm_out": 2.0,
        "aten::random_": 0.25,
        "graph_0_cpp_fused_add_div_lerp_mul_sqrt_sub_sum_23": 0.5,
        "graph_0_cpp_fused_abs_add_exp_mm_mul_0": 1.0,
    }
    found = profile.Profile(4.0, kernels, 10**9, 2e12)
    parts = found.parts()
    assert list(parts.values()) == [2.0, 0.25, 0.5, 1.0, 0.25]
    assert "| 2.000 (50%) |" in profile.table({"vae": found})
    assert "500 of 2000 |" in profile.table({"vae": found})


@pytest.mark.full
def test_a_profile_sees_the_kernels_of_the_compiled_step() -> None:
    found = profile.measure("vae2d")
    parts = found.parts()
    assert parts["Adam"] > 0 and parts["matrix products"] > 0 and parts["other elementwise, sums"] > 0
    assert abs(parts["rest"]) < found.step


def test_a_worker_answers_requests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process sends nothing. What a training prints is not an answer."""
    build = worker.training
    monkeypatch.setattr(worker, "training", lambda *a, **b: print("steps are eager") or build(*a, **b))
    monkeypatch.setattr(torch.distributed, "all_reduce", torch.distributed.all_reduce)  # which it replaces
    requests = [{"training": kind, "steps": 2, "accumulate": 1} for kind in (worker.EAGER, worker.LATENCY)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(map(json.dumps, requests))))
    assert worker.main(["vae2d", "8"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 2 and all(answer["ms"] > 0 for answer in answers)
    assert all(answer[key] == 0 for answer in answers for key in ("bytes", "numbers", "exchange_ms"))


def test_a_ring_sends_twice_the_vector_and_a_message_per_process() -> None:
    at_rate = 10**6 / (1e9 / 8 * network.PAYLOAD) * 1e3  # milliseconds for a vector of 1 MB at 1 Gbit/s
    assert network.ring_ms(1, 10**6, 1000, 0.1) == 0
    assert network.ring_ms(2, 10**6, 1000, 0.0) == pytest.approx(at_rate)
    assert network.ring_ms(2, 10**6, 100, 0.0) == pytest.approx(10 * at_rate)
    assert network.ring_ms(512, 10**6, 1000, 0.1) == pytest.approx(2 * 511 / 512 * at_rate + 102.2)


def test_the_share_of_exchanges_is_calculated_from_the_measured_computation() -> None:
    """At 100 Mbit/s a vector of 0.1 million numbers takes 33.5 ms in a ring of two."""
    point = network.Point("vae", 100, 8, 200.0, 40.0, 4e5, 10**5, 0.0)
    (row,) = network.rows([point])
    cells = row.split(" | ")
    assert cells[3:6] == ["0.40", "38800", "200"]  # 970 * 8 images in 0.2 s
    assert cells[6:9] == ["40.0", "33.5", "20%"]
    ring = [network.ring_ms(processes, 4e5, 100, 0.0) for processes in network.CALCULATED]
    assert cells[9].rstrip(" |") == ", ".join(f"{ms / (ms + 160):.0%}" for ms in ring)


def test_a_network_needs_root_and_iproute2(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = r"need root and iproute2\. Install iproute2 \(apt-get install iproute2\), and run the command"
    monkeypatch.setattr(network, "call", pytest.fail)
    for module, name, value in ((os, "geteuid", lambda: 1000), (network.shutil, "which", lambda name: None)):
        with monkeypatch.context() as patch, pytest.raises(UserError, match=refused):
            patch.setattr(module, name, value)
            network.main([])


@pytest.mark.parametrize("module", [processes, network, scale])
def test_rows_are_measured_for_known_models(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown model 'made': choose from "):
        module.main(["--model", "made"])
    kept = module.TABLE.kept()
    assert kept and kept.keys() <= set(module.TABLE.models) and module.TABLE.text(kept) in COST.read_text()


def test_some_rows_are_measured_again_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, models = tmp_path / "cost.md", ("vae", "ssvae", "made")
    old = ["<!-- a -->", "| model | ms |", "|---|---|", "| `vae` | 1 |", "| `made` | 2 |", "<!-- b -->"]
    page.write_text("\n".join(old))
    monkeypatch.setattr(rows, "COST", page)
    table = rows.ModelTable(("<!-- a -->", "<!-- b -->"), "| model | ms |", models)
    given = table.parse(["--model", "ssvae", "--model", "made", "--write"], "benchmarks.x", "Measures.")
    table.measure(given, lambda name: [f"| `{name}` | 3 |", f"| `{name}` | 4 |"])
    new = ["| `ssvae` | 3 |", "| `ssvae` | 4 |", "| `made` | 3 |", "| `made` | 4 |"]
    assert page.read_text().splitlines()[3:-1] == ["| `vae` | 1 |", *new]
    assert capsys.readouterr().out.splitlines() == ["| model | ms |", "|---|---|", *new]


def test_the_speed_up_is_the_ratio_of_the_times() -> None:
    assert processes.ratios([4.0] * 4, [2.0] * 4) == "2.00"  # half the time is twice the throughput


def test_images_of_the_scale_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker streams them, and its row has the rates of all three trainings."""
    monkeypatch.setattr(scale, "SHAPE", (32, 32, 3))
    monkeypatch.setattr(stored, "LIMIT", 0)
    scale.write_images(tmp_path / "images.npy", 40)
    build, batches = worker.prepared("pixel_vae", 4, str(tmp_path / "images.npy"))
    assert isinstance(batches.x, stored.Rows) and batches(0)["x"].shape == (4, 3, 32, 32)
    assert build().shape == (3, 32, 32)
    answer = {"ms": 2000.0, "exchange_ms": 500.0, "bytes": 3e6, "memory": 90.0}
    found = {kind: answer | {"ms": 1000.0 * place} for place, kind in enumerate(scale.KINDS, 1)}
    cells = scale.row("pixel_vae", 4, found).split(" | ")[2:]
    assert cells == ["4", "16.0", "1000", "500", "3.0", "90", "8.0", "10.7 |"]  # 32 images in 3 s


def test_a_process_of_the_gpu_table_times_and_profiles_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is a thread, and on the CPU: no kernel of a GPU, and no wait for one."""
    monkeypatch.setattr(gpu, "MODES", {"compiled": "graph", "eager": "eager"})
    monkeypatch.setattr(gpu, "BATCHES", (4, 6))
    monkeypatch.setattr(gpu, "BLOCK", 2)
    ours, theirs = multiprocessing.Pipe()
    thread = Thread(target=gpu.serve, args=("vae2d", theirs, "cpu"))
    thread.start()
    assert ours.recv() == ""
    answers = []
    for request in (("time", 4, "eager", 2), ("time", 6, "compiled", 3), ("profile", 6)):
        ours.send(request)
        answers.append(ours.recv())
    ours.close()
    thread.join(60)
    assert not thread.is_alive()
    assert 0 < answers[0] < 1e4 and 0 < answers[1] < 1e4 and answers[2] == (0.0, 0)


def test_a_model_that_cannot_be_compiled_is_no_row_of_the_gpu_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not timed with eager steps in the place of compiled ones."""
    monkeypatch.setattr("inference.training.program.record", lambda *given, **more: 1 / 0)
    with pytest.raises(RuntimeError, match=r"inductor cannot be used, steps are eager: .*division by zero"):
        gpu._training("vae2d", 4, "compiled", "cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the state of a process from /proc")
def test_while_a_model_is_timed_the_others_are_stopped() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:

        def state() -> str:
            return Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0]

        with gpu.stopped([other.pid, None]):
            assert state() == "T"
        assert state() != "T"
        other.kill()
