"""Several processes that train one model make the same step as a single process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from inference import svi, sweep
from inference.backend import distributed
from inference.cli.train import parse
from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.errors import TrainingAborted, UserError
from inference.rundir.run import Run
from inference.training.progress import StopSignals
from ppl_models import VAE
from tests import forks
from tests.forks import ENVIRONMENT, QUICK, ROOT
from tests.support import checkpoint, lines, same, timeless

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

# Each process takes its share of the images and noise. Its step is compared with that of one process.
COMPARED = """
import copy, sys, torch
from contextlib import nullcontext
import torch.distributed as dist
from inference.backend import distributed
from inference.data.examples import example_inputs
from inference.elbo.estimators import Loss
from inference.rundir.config import TrainConfig
from inference.training.schedules import KLWeight
from inference.training.steps import Steps
from tests.ppl_models.test_contract import build
from tests.support import NARROW_NETWORKS

for module, constant, number in NARROW_NETWORKS:
    setattr(module, constant, number)

def sliced(draw, part):
    def normal(shape, *arguments, **keywords):
        *lead, images, d = shape
        shape = (*lead, 7, d) if part else tuple(shape)  # the joint batch's
        eps = draw(shape, *arguments, **keywords)
        return eps.tensor_split(2, dim=-2)[distributed.rank()] if part else eps
    return normal

class SevenImages:  # as Batches
    device = torch.device("cpu")
    def __init__(self, batch):
        self.batch, self.images = batch, len(batch["x"])
    def __call__(self, number):
        return self.batch
    def share(self, number):
        return self.images / 7

torch.set_default_dtype(torch.float64)
draw = torch.distributions.utils._standard_normal
with distributed.process_group():
    for name, estimator in [line.split(":") for line in sys.argv[1:]]:
        torch.manual_seed(0)
        own = {"vqvae": {"codebook": "average"}, "fsq": {"quantizer": "fsq"}}.get(name, {})
        model = build("vqvae" if name == "fsq" else name, **own)
        if name == "vqvae":  # entries stay where they are, and their averages are those of all images
            model.codebook.initialized.fill_(True)
        if name in ("vqvae", "fsq"):
            for part in model.modules():  # and no batch is normalised
                part.train(not isinstance(part, torch.nn.BatchNorm2d))
        kept = copy.deepcopy(model.state_dict())
        batch = example_inputs(model, 7)
        particles, accumulate = 3 if "iwae" in estimator else 1, 2 if name in ("fsvae", "vqvae") else 1
        settings = {"batch_size": 7, "elbo": estimator, "particles": particles, "accumulate": accumulate}
        found = []
        for part in (False, True):
            for module in (torch.distributions.normal, torch.distributions.multivariate_normal):
                module._standard_normal = sliced(draw, part)
            share = distributed.local_share
            mine = {k: share(v) if part and "labelled" not in k else v for k, v in batch.items()}
            for way in ("eager", "graph") if part else ("eager",):
                model.load_state_dict(kept)
                config = TrainConfig(compile=way, **settings).resolved(type(model), model.shape)
                loss, batches = Loss(model, estimator, particles), SevenImages(mine)
                beta = KLWeight(model, 0, batches.device)
                steps = Steps(loss, batches, config, beta, nullcontext, lambda *_: "", lambda line: None)
                torch.manual_seed(1)
                together = dist.is_initialized
                dist.is_initialized = together if part else lambda: False
                objective, _, good, stop = steps._gradients(1, part and distributed.rank() == 1)
                dist.is_initialized = together
                assert good and stop == part
                assert steps.gradients.mode == way
                every = [p.grad for p in loss.parameters()] + list(loss.buffers())
                found.append([objective, *(value.clone() for value in every)])
                loss.zero_grad()
        for other in found[1:]:
            for a, b in zip(found[0], other):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert len(mine["x"]) == (4, 3)[distributed.rank()]
        print(name, estimator, "agree")
"""

# Trains by compiled blocks, whose graphs are replayed, and by eager steps, in two processes each.
BLOCKS = """
import torch
from inference.backend import distributed
from inference.compiled.checks import norm
from inference.training import program, steps
from ppl_models.nets import codebook
from tests.ppl_models.test_contract import build
from tests.support import NARROW_NETWORKS
from tests.training.test_program import apart, train

for module, constant, number in NARROW_NETWORKS:
    setattr(module, constant, number)
codebook.RESET_AFTER = 2  # so that all processes get entries of the first one

def replay(graph, given, path):
    return lambda inputs: graph(*inputs)

def broken_in_the_second(*given):
    if distributed.rank():
        raise RuntimeError("no compiler")
    return replay(*given)

program.cached_program = lambda path: None
steps.BLOCK_SECONDS = 100.0
torch.set_default_dtype(torch.float64)
FOLLOWED = {"ema": 0.9, "clip": 1.0, "schedule": "cosine", "lr_warmup": 3, "kl_warmup": 6}
CASES = [
    ("vae", FOLLOWED, None),
    ("ae", {"steps": 5}, None),  # whose batch norm has running averages
    ("vqvae", {"steps": 5}, None),  # exchanges the counts of its codebook within the step
    ("flow", {"accumulate": 3, "images": 45, "ema": 0.9}, None),
    ("vae2d", {"steps": 18}, 7),  # an image that is not finite
]
with distributed.process_group():
    for name, settings, bad in CASES:
        found, said = {}, []
        own = {"codebook": "average"} if name == "vqvae" else {}
        noises = []
        for mode in ("eager", "inductor"):
            program.compiled = replay
            torch.manual_seed(0)
            found[mode], ended, noise = train(build(name, **own), mode, said.append, bad, **settings)
            noises.append(noise)
        made = found["inductor"]
        assert made.steps.program.split and len(made.steps.program.runs) == 2
        # Biases before a batch norm have gradients of zero, whose rounding errors Adam scales up.
        assert apart(made, found["eager"]) < (1e-8 if name in ("ae", "vqvae") else 1e-12)
        assert torch.equal(*noises)
        assert made.skipped == found["eager"].skipped and (made.skipped > 0) == (bad is not None)
        assert len(said) == 2 * (bad is not None) and said[:1] == said[1:]
        state = torch.cat([value.double().flatten() for value in made.model.state_dict().values()])
        assert all(torch.equal(state, other) for other in distributed.all_gather(state))
        assert len(set(distributed.all_gather(noise.item()))) == 2  # each process has noise of its own
        if bad is None:
            block = made.steps.make(9, 2, distributed.rank() == 1)  # only the second one wants to stop
            assert block.steps == 2 and block.stopped
            assert len(set(distributed.all_gather(made.steps.program.seconds_per_step))) == 1
            print(name, ended.at)
    program.compiled = broken_in_the_second
    torch.manual_seed(0)
    said = []
    made, _, _ = train(build("vae"), "inductor", said.append)
    assert made.steps.program is None
    assert said == ["--compile inductor cannot be used, steps are eager: RuntimeError: no compiler"]
    try:
        torch.nn.SyncBatchNorm(2)(torch.randn(3, 2, 4, 4))
    except ValueError as error:
        print(str(error).partition(" or")[0])
"""


def together(*arguments: str, processes: int = 2) -> str:
    """Runs a program in several processes, without torchrun itself, and returns what it prints."""
    done = forks.run(*arguments, processes=processes)
    assert done.returncode == 0, done.stderr
    return done.stdout


# A label that is summed over, and a codebook of averages in several batches per step.
PAIRS = ["ssvae:enum", "vqvae:trace"]
MORE_PAIRS = ["vae:mean_field", "gmvae:iwae", "vae:iwae_dreg", "fsvae:trace", "ppca:trace", "fsq:trace"]


@pytest.mark.parametrize("pairs", [PAIRS, pytest.param(MORE_PAIRS, marks=pytest.mark.full)], ids="-".join)
def test_gradients_are_those_of_one_process_on_the_joint_batch(pairs: list[str], tmp_path: Path) -> None:
    script = tmp_path / "compared.py"
    script.write_text(COMPARED)
    said = together(str(script), *pairs)
    assert said.splitlines() == [f"{pair.replace(':', ' ')} agree" for pair in pairs]


@pytest.mark.full
def test_blocks_of_steps_in_two_processes_are_eager_steps(tmp_path: Path) -> None:
    """Also: torch has no synchronised batch norm on the CPU, as docs/cost.md says."""
    script = tmp_path / "blocks.py"
    script.write_text(BLOCKS)
    assert together(str(script)).splitlines() == [
        "vae [1, 2, 3, 4, 7, 8]",
        "ae [1, 2, 3, 4, 5]",
        "vqvae [1, 2, 3, 4, 5]",
        "flow [1, 2, 7, 8]",
        "SyncBatchNorm expected input tensor to be on GPU",
    ]


def arguments(data: Path, run: Path, steps: int) -> list[str]:
    small = ["--hidden", "8", "--z-dim", "2", "--batch-size", "15", "--steps", str(steps)]
    own = ["--model", "vae", *small, "--data", str(data), "--run-dir", str(run)]
    return ["-m", "inference.svi", *own, "--compile", "graph"]


def test_a_run_on_two_processes(small_npz: Path, tmp_path: Path) -> None:
    """It leaves one folder, resumes bit for bit on two processes, and resumes on one."""
    quick = ("-c", QUICK, "inference.svi")
    said = together(*quick, *arguments(small_npz, tmp_path / "whole", 20)[2:])
    assert "2 processes" in said and said.count("results, curves and pictures") == 1
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["processes"] == 2 and config["batch_size"] == 15
    assert [line["step"] for line in lines(tmp_path / "whole") if line["split"] == "test"] == list(range(21))
    together(*quick, *arguments(small_npz, tmp_path / "part", 10)[2:])
    state = checkpoint(tmp_path / "part")
    first, second = (kept["cpu"] for kept in state["generators"])
    assert not torch.equal(first, second)  # their noise differs
    together(*quick, "--resume", str(tmp_path / "part"), "--steps", "20")
    assert same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "part"))
    evaluation = ["-c", QUICK, "inference.evaluate", str(tmp_path / "part"), "--json"]
    measured, alone = (json.loads(together(*evaluation, processes=n)) for n in (2, 1))
    assert measured == alone  # the number of processes does not matter
    assert svi.main(["--resume", str(tmp_path / "part"), "--steps", "25"]) == 0
    assert checkpoint(tmp_path / "part")["step"] == 25
    assert len(checkpoint(tmp_path / "part")["generators"]) == 1


def test_a_sweep_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start it without torchrun"):
        sweep.plan(["--model", "vae", "--over", "beta=0,1"])


def test_a_process_that_has_lost_another_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun sends it, and would end the process before it says why."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with (
            pytest.raises(TrainingAborted, match="lost the connection"),
            StopSignals(),
            distributed.peer_loss_guard(),
        ):
            raise RuntimeError("Connection closed by peer")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    with StopSignals():
        pass
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.full
def test_a_killed_process_ends_the_run_with_a_word(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*TORCHRUN, *arguments(small_npz, run, 1_000_000)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len(lines(run)) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        victim = next(pid for pid in children(process.pid) if environment(pid).get("RANK") == "1")
        os.kill(victim, signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "error: process 0 of 2 lost the connection to another one (" in said
    assert "Continue the run from its last checkpoint with --resume" in said
    assert "inference/svi.py" not in said  # no traceback
    assert Run.open(run).load_checkpoint() is not None


def test_a_restarted_command_continues_its_run(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun starts the same command again, whose folder then holds the run."""
    command = arguments(small_npz, tmp_path / "run", 10)[2:]
    assert svi.main(arguments(small_npz, tmp_path / "whole", 10)[2:]) == 0
    take = Batches.__call__

    def killed(self: Batches, step: int) -> dict[str, torch.Tensor]:
        if step == 7:
            raise MemoryError
        return take(self, step)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Batches, "__call__", killed)
        svi.main(command)
    assert checkpoint(tmp_path / "run")["step"] == 7
    with pytest.raises(UserError, match=r"exists and is not empty\. Name another"):
        svi.main(command)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(UserError, match=r"run holds a run with another batch_size, lr\. Name another folder"):
        svi.main([*command, "--lr", "0.1", "--batch-size", "16"])
    assert svi.main(command) == 0
    assert same(checkpoint(tmp_path / "run"), checkpoint(tmp_path / "whole"))
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")
    fresh = tmp_path / "fresh"  # a run that was killed before its first checkpoint
    fresh.mkdir()
    (fresh / "config.json").write_text((tmp_path / "run" / "config.json").read_text())
    assert svi.main(arguments(small_npz, fresh, 10)[2:]) == 0
    assert same(checkpoint(fresh), checkpoint(tmp_path / "whole"))


def test_a_run_that_may_be_restarted_needs_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(UserError, match=r"in a folder with a name\. Give --run-dir DIR\."):
        svi.main(["--model", "vae", "--data", "digits"])


@pytest.mark.full
def test_torchrun_restarts_a_run_whose_process_was_killed(small_npz: Path, tmp_path: Path) -> None:
    """The results equal those of an undisturbed run, bit for bit."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    together("-c", QUICK, "inference.svi", *arguments(small_npz, whole, 3_000)[2:])
    command = [*TORCHRUN, "--max-restarts", "3", *arguments(small_npz, run, 3_000)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len(lines(run)) < 8:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        victim = next(pid for pid in children(process.pid) if environment(pid).get("RANK") == "1")
        os.kill(victim, signal.SIGKILL)
        said = process.communicate(timeout=180)[1]
    assert process.returncode == 0, said
    assert "lost the connection to another one" in said
    assert same(checkpoint(run), checkpoint(whole)) and timeless(run) == timeless(whole)
    results = [json.loads((folder / "results.json").read_text())["test"] for folder in (run, whole)]
    assert results[0] == results[1]


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
def test_a_compiled_run_on_two_processes_resumes_bit_for_bit(small_npz: Path, tmp_path: Path) -> None:
    runs = {}
    for name, stages in {"whole": [40], "part": [21, 40]}.items():
        command = arguments(small_npz, tmp_path / name, stages[0])[2:]
        command[command.index("graph")] = "inductor"
        together("-c", QUICK, "inference.svi", *command)
        for steps in stages[1:]:
            together("-c", QUICK, "inference.svi", "--resume", str(tmp_path / name), "--steps", str(steps))
        runs[name] = checkpoint(tmp_path / name)
    assert same(runs["whole"], runs["part"])


def children(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def environment(pid: int) -> dict[str, str]:
    parts = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(part.split("=", 1) for part in parts if "=" in part)


@pytest.mark.parametrize(
    ("device", "gpus", "backend"),
    [
        ("cpu", 2, "gloo"),  # also on a machine with GPUs
        ("auto", 0, "gloo"),
        ("auto", 2, "cpu:gloo,cuda:nccl"),
        ("cuda", 2, "cpu:gloo,cuda:nccl"),
    ],
)
def test_the_backend_follows_the_device(
    device: str, gpus: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps have a timeout of minutes. Only `all_gather`, on the CPU, waits for days."""
    made: list[tuple[str, timedelta]] = []
    chosen: list[int] = []
    for key, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "init_process_group", lambda name, timeout: made.append((name, timeout)))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: made.append((backend, timeout)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with distributed.process_group(device):
        pass
    assert [name for name, _ in made] == [backend, "gloo"]
    assert made[0][1] <= timedelta(hours=1) and made[1][1] >= timedelta(days=1)
    assert chosen == ([1] if "nccl" in backend else [])  # a run on the CPU leaves the GPU alone


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process raises it before any of them waits for another. NCCL needs one GPU per process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for rank in ("0", "1"):
        for key, value in {"WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(key, value)
        refused = r"2 processes are on a machine with 1 CUDA devices\. Start one process per device, or give"
        with pytest.raises(UserError, match=refused), distributed.process_group("cuda"):
            pass


def test_the_device_of_a_resumed_run_is_its_own(small_npz: Path, tmp_path: Path) -> None:
    """It is known before the processes exchange anything."""
    run = tmp_path / "run"
    assert svi.main([*arguments(small_npz, run, 2)[2:], "--device", "cpu"]) == 0
    assert svi.device_of(parse(["--resume", str(run)])) == "cpu"
    assert svi.device_of(parse(["--resume", str(run), "--device", "auto"])) == "auto"
    assert svi.device_of(parse(["--model", "vae"])) == "auto"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (dist.DistBackendError("NCCL error in: remote process exited"), True),
        (dist.DistNetworkError("socket closed"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms"), True),
        (RuntimeError("run_func_(container) API call failed at model_container_runner.cpp, line 1"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_only_a_lost_connection_is_a_lost_process(
    error: RuntimeError, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", fail)
    monkeypatch.setattr(dist, "all_gather_object", fail)
    for exchange in (
        lambda: distributed.sum_over_processes([torch.ones(())], False),
        lambda: distributed.all_gather(1),
    ):
        with pytest.raises(RuntimeError) as caught:
            exchange()
        assert isinstance(caught.value, TrainingAborted) == lost
        assert str(error) in str(caught.value)


def test_no_two_processes_draw_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = set()
    for rank in range(8):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        seeds |= {distributed.process_seed(seed, step) for seed in range(10) for step in (0, 500, 1000)}
    assert len(seeds) == 8 * 10 * 3


def test_a_batch_is_shared_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 97 images is split into 49 and 48, and an epoch has every image once."""
    data = Dataset(
        "random", torch.zeros(195, 1, 2, 2, dtype=torch.uint8), None, torch.zeros(1, 1, 2, 2), None
    )
    data.x_train[:] = torch.arange(195)[:, None, None, None].to(torch.uint8)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    seen = []
    for rank, images in ((0, 49), (1, 48)):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        batches = Batches(data, VAE, 97, 0, torch.empty(0, dtype=torch.long), torch.device("cpu"))
        batches.observation = lambda x: x
        assert batches.images == images and batches.per_epoch == 2  # the last image joins the second batch
        assert [batches.share(step) for step in range(2)] == [images / 97, 49 / 98]
        assert [batches.full(step) for step in range(3)] == [True, False, True]
        parts = [batches(step)["x"] for step in range(2)]
        assert [len(part) for part in parts] == [images, 49]
        seen.append(torch.cat(parts).flatten())
    assert sorted(torch.cat(seen)[::4].tolist()) == list(range(195))
