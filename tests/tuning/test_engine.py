"""Sweeps on Ray Tune. Most have runs that are stand-ins (`stub.py`): a training takes seconds to start."""

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from inference import svi, sweep
from inference.errors import UserError
from tests import forks
from tests.support import LONGER, TINY, checkpoint, lines, same, timeless

# not `importorskip`: Ray must be imported after its environment variables are set
pytestmark = [
    pytest.mark.skipif(not (find_spec("ray") and find_spec("optuna")), reason="Ray is not installed"),
    # Ray does not wait for its processes, and leaves files open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STUB = Path(__file__).with_name("stub.py")
VALIDATION = ["--validation", "0.1"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """The engine, with Ray started once for the file: sweeps use a Ray that runs. Two GPUs are pretended."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sweep.RAY_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')
        from inference.tuning import engine

        with engine.cluster(None):
            yield engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for its processes
        gc.collect()


@pytest.fixture
def stand_ins(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(engine, "PROGRAM", [str(STUB)])
    return engine


def planned(out: Path, data: Path, betas: str, *more: str) -> sweep.Plan:
    grid = ["--model", "vae", "--over", f"beta={betas}", "--seeds", "0", *LONGER, "--data", str(data)]
    plan = sweep.plan([*grid, *VALIDATION, "--out", str(out), *more])
    out.mkdir(exist_ok=True)
    plan.state.write()
    return plan


def attempts(out: Path, beta: int) -> list[str]:
    return (out / f"beta={beta}" / "seed=0.started").read_text().splitlines()


def test_a_run_is_started_and_its_end_is_printed(
    stand_ins: Any, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stand_ins.run_sweep(planned(tmp_path / "out", small_npz, "1")) == (False, [])
    assert attempts(tmp_path / "out", 1) == ["first"]
    assert "1/1 beta=1/seed=0: -ELBO 100\n" in capsys.readouterr().out


@pytest.mark.full
def test_killed_and_failed_runs(
    stand_ins: Any, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was killed continues, and one that fails does not stop the others and is not tried again."""
    plan = planned(tmp_path / "out", small_npz, "3,4")
    assert stand_ins.run_sweep(plan) == (False, ["beta=3/seed=0"])
    assert attempts(tmp_path / "out", 3) == ["first"] and attempts(tmp_path / "out", 4) == ["first", "again"]
    printed = capsys.readouterr().out
    failed = tmp_path / "out" / "beta=3" / "seed=0"
    assert f"/2 {failed} failed: it diverged (exit status 1; {failed}.log)\n" in printed
    assert "beta=4/seed=0 was killed. It continues from its last checkpoint.\n" in printed
    assert "/2 beta=4/seed=0: -ELBO 400\n" in printed
    environment = json.loads((failed.parent / "seed=0" / "environment.json").read_text())
    assert environment["OMP_NUM_THREADS"] == "1" and environment["CUDA_VISIBLE_DEVICES"] in ("0", "1")


@pytest.mark.full
def test_asha_stops_the_worse_run_and_keeps_the_better_one(
    stand_ins: Any, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run at a time: the second one is compared with the first one at its first rung."""
    out, alone = tmp_path / "out", ["--asha", "--cpus", str(os.cpu_count())]
    assert stand_ins.run_sweep(planned(out, small_npz, "1,5", *alone)) == (False, [])
    printed = capsys.readouterr().out
    assert "1/2 beta=1/seed=0: -ELBO 100\n" in printed
    assert "2/2 beta=5/seed=0: ASHA stopped it at step 2 (negative_elbo 502)\n" in printed
    assert json.loads((out / "sweep.json").read_text())["stopped"] == ["beta=5/seed=0"]
    saved = out / "beta=5" / "seed=0" / "checkpoint.pt"
    until(saved.exists)
    assert saved.read_text() == "saved" and not saved.with_name("results.json").exists()


@pytest.mark.full
def test_a_run_is_tried_four_times(
    stand_ins: Any, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stand_ins.run_sweep(planned(tmp_path / "out", small_npz, "13")) == (False, ["beta=13/seed=0"])
    assert attempts(tmp_path / "out", 13) == ["first", *["again"] * 3]
    printed = capsys.readouterr().out
    assert printed.count("was killed. It continues from its last checkpoint.") == 3
    assert "1/1 " in printed and "beta=13/seed=0 failed: 4 attempts ended; the last: " in printed
    assert "the process of beta=13/seed=0 was stopped (exit status -9)" in printed


@pytest.mark.full
def test_a_signal_stops_every_run(
    stand_ins: Any, small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path / "out", small_npz, "5,1", "--cpus", str(os.cpu_count()))
    folder = tmp_path / "out" / "beta=5" / "seed=0"

    def interrupt() -> None:
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.1)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    assert stand_ins.run_sweep(plan) == (True, [])
    assert (folder / "checkpoint.pt").read_text() == "saved"  # also by a run that is stopped
    assert not (tmp_path / "out" / "beta=1" / "seed=0").exists()


@pytest.mark.full
def test_optuna_finds_the_better_values(
    stand_ins: Any, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stand-in's metric is 100 beta: suggestions after the first ten are smaller."""
    search = ["--search", "optuna", "--samples", "20"]
    plan = planned(tmp_path / "out", small_npz, "uniform(6,9)", *search)
    assert stand_ins.run_sweep(plan) == (False, [])
    found = [job.over["beta"] for job in plan.jobs.values()]
    assert len(found) == 20 and all(6 <= beta <= 9 for beta in found)
    assert sum(found[10:]) < sum(found[:10]) - 3
    assert "20/20 " in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.usefixtures("engine")
def test_each_run_equals_the_direct_command_bit_for_bit(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as many threads: here one. Then nothing is left to do, and the table is the same."""
    out, direct = tmp_path / "out", tmp_path / "direct"
    own = ["--model", "vae", *TINY, "--data", str(small_npz)]
    grid = [*own, "--over", "beta=0.5", "--seeds", "3", "--cpus", "1", "--out", str(out)]
    assert sweep.main(grid) == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert svi.main([*own, "--beta", "0.5", "--seed", "3", "--run-dir", str(direct)]) == 0
    finally:
        torch.set_num_threads(threads)
    run = out / "beta=0.5" / "seed=3"
    assert same(checkpoint(run), checkpoint(direct)) and timeless(run) == timeless(direct)
    swept, alone = (json.loads((folder / "results.json").read_text()) for folder in (run, direct))
    assert swept["test"] == alone["test"]
    assert (run / "report.html").exists() and (out / "index.html").exists()
    table = (out / "table.md").read_text()
    capsys.readouterr()
    assert sweep.main(grid) == 0
    assert "beta=0.5/seed=3 is already done: skipped" in capsys.readouterr().out
    assert (out / "table.md").read_text() == table


def test_ray_that_does_not_start_is_an_error_of_one_line(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine Ray raises an exception of no class of its own."""

    def late(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because it is busy.")

    monkeypatch.setattr(engine.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(engine.ray, "init", late)
    refused = r"^cannot start Ray \(The current node timed out .* busy\)\. If the machine is busy, try again"
    with pytest.raises(UserError, match=refused), engine.cluster(None):
        pass


def test_cores_and_gpus_of_a_run(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the machines are pretended."""

    def found(cpus: int | None = None, gpus: float | None = None, device: str = "auto") -> tuple[int, float]:
        return engine.resources(argparse.Namespace(cpus=cpus, gpus=gpus, device=device))

    machines = [
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 32.0, "GPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}},
    ]
    monkeypatch.setattr(engine.ray, "nodes", lambda: machines)
    assert found() == (4, 1) and found(device="cpu") == (4, 0) and found(1, 0.25) == (1, 0.25)
    with pytest.raises(UserError, match="--cpus is 33, and the largest machine has 32"):
        found(33)
    with pytest.raises(UserError, match="--device cuda: the runs get no GPU"):
        found(gpus=0, device="cuda")
    del machines[1]
    assert found() == (1, 0)
    with pytest.raises(UserError, match=r"--gpus is 0\.5, and the largest machine has 0"):
        found(gpus=0.5)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "inference.sweep", *arguments]


def until(condition: Any, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


@pytest.fixture
def one_thread() -> dict[str, str]:
    return {**forks.ENVIRONMENT, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def long_runs(small_npz: Path) -> list[str]:
    small = ["--batch-size", "20", "--hidden", "16", "--compile", "eager"]
    return ["--model", "vae", *small, "--steps", "4000", "--data", str(small_npz), "--seeds", "0"]


@pytest.mark.full
def test_ctrl_c_and_a_kill_lose_nothing(long_runs: list[str], tmp_path: Path, one_thread: Any) -> None:
    """The command is interrupted and repeated; then one run is killed. All end with undisturbed bits."""
    out = tmp_path / "out"
    grid = command(*long_runs, "--over", "z-dim=2,3", "--cpus", "1", "--out", str(out))
    runs = [out / f"z_dim={z}" / "seed=0" for z in (2, 3)]
    keywords: dict[str, Any] = {"cwd": forks.ROOT, "env": one_thread, "stdout": subprocess.PIPE, "text": True}

    def steps(run: Path) -> int:
        return max((line["step"] for line in lines(run)), default=0) if run.exists() else 0

    first = subprocess.Popen(grid, **keywords)
    until(lambda: (runs[0] / "checkpoint.pt").exists() and steps(runs[0]) > 200)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=400)
    assert first.returncode == 130, said
    assert "stopped with 0 of 2 runs done. The same command continues." in said
    before = steps(runs[0])
    assert 200 < before < 4000 and not (runs[0] / "results.json").exists()

    second = subprocess.Popen(grid, **keywords)
    until(lambda: steps(runs[1]) > 400)
    (victim,) = processes_of(runs[1])
    os.kill(victim, signal.SIGKILL)
    said, _ = second.communicate(timeout=600)
    assert second.returncode == 0, said
    assert "z_dim=3/seed=0 was killed. It continues from its last checkpoint." in said
    assert "--resume" in Path(f"{runs[0]}.log").read_text()
    for z, run in zip((2, 3), runs, strict=True):
        direct = tmp_path / f"direct-{z}"
        own = ["-m", "inference.svi", *long_runs[:-2], "--z-dim", str(z), "--run-dir", str(direct)]
        assert forks.run(*own).returncode == 0
        assert same(checkpoint(run), checkpoint(direct)) and timeless(run) == timeless(direct)


def processes_of(run: Path) -> list[int]:
    """The process that trains a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "inference.tuning.child" in words and str(run) in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.full
def test_asha_stops_an_absurd_learning_rate(long_runs: list[str], tmp_path: Path, one_thread: Any) -> None:
    """One run at a time. The same command then trains neither again."""
    out = tmp_path / "out"
    alone = [*VALIDATION, "--asha", "--cpus", str(os.cpu_count()), "--out", str(out)]
    grid = command(*long_runs, "--over", "lr=1e-3,0.3", *alone)
    for _ in range(2):
        done = subprocess.run(grid, cwd=forks.ROOT, env=one_thread, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "lr=0.3/seed=0 is already stopped by ASHA: skipped" in done.stdout
    good, bad = (out / f"lr={lr}" / "seed=0" for lr in ("0.001", "0.3"))
    assert (good / "results.json").exists() and not (bad / "results.json").exists()
    assert 250 <= checkpoint(bad)["step"] < 2000  # ASHA compares first after a sixteenth of the steps
    assert "best negative_elbo on the validation data:" in done.stdout and "with lr=0.001" in done.stdout


@pytest.mark.full
def test_a_search_continues_where_it_was_stopped(
    long_runs: list[str], tmp_path: Path, one_thread: Any
) -> None:
    """Optuna gets the runs of before first, and suggests the rest."""
    out = tmp_path / "out"
    own = [*long_runs, "--steps", "60", *VALIDATION, "--over", "lr=log(1e-4,1e-2)", "--over", "z-dim=2,3"]
    seen: list[set[str]] = []
    for samples in ("2", "4", "4"):
        arguments = [*own, "--search", "optuna", "--samples", samples, "--out", str(out)]
        done = subprocess.run(
            command(*arguments), cwd=forks.ROOT, env=one_thread, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        seen.append({path.parent.parent.name for path in out.glob("*/seed=0/results.json")})
    assert len(seen[0]) == 2 and seen[0] < seen[1] and len(seen[1]) == 4 and seen[2] == seen[1]
    assert len(json.loads((out / "results.json").read_text())) == 4
    rates = [float(name.partition("lr=")[2].partition(",")[0]) for name in seen[1]]
    assert all(1e-4 <= lr <= 1e-2 for lr in rates)
