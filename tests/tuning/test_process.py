"""The process of a run: what it reports to Tune, and what happens if it is killed, stopped or not alone."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from inference.tuning.process import Killed, RunProcess
from inference.tuning.state import State

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of POSIX")
STUB = Path(__file__).with_name("stub.py")
ROOT = Path(__file__).parents[2]


def run(out: Path, beta: int, **changed: Any) -> RunProcess:
    out.mkdir(exist_ok=True)
    state = State(out)
    state.write()
    folder = out / f"beta={beta}" / "seed=0"
    settings: dict[str, Any] = {"name": f"beta={beta}/seed=0", "folder": str(folder), "program": [str(STUB)]}
    settings |= {"start": ["--run-dir", str(folder)], "resume": ["--resume", str(folder)], "cwd": str(out)}
    settings |= {"out": str(out), "token": state.token, "threads": 3, "gpus": 0.0, "metric": "negative_elbo"}
    return RunProcess(settings | {"steps": 40, "stopped": False} | changed)


def results(process: RunProcess) -> list[dict[str, Any]]:
    """Everything that a run reports; a result twice only if nothing is new for a second."""
    found: list[dict[str, Any]] = [{}]
    try:
        while not found[-1].get("done"):
            found.append(process.step())
    finally:
        process.stop()
    return found[1:]


def attempts(out: Path, beta: int) -> list[str]:
    return (out / f"beta={beta}" / "seed=0.started").read_text().splitlines()


def until(condition: Any) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it takes too long")


def test_each_measurement_of_the_validation_data_is_reported_once_and_in_order(tmp_path: Path) -> None:
    """That of the last step only with the end: Tune must not stop a run that is about to write results."""
    *found, last = results(run(tmp_path, 1))
    steps = [(result["step"], result["negative_elbo"]) for result in found]
    assert [pair for pair in steps if pair[0]] == [(step, 100 + step) for step in range(2, 40, 2)]
    assert last == {"step": 40, "negative_elbo": 100, "done": True, "ended": "done"}
    log = (tmp_path / "beta=1" / "seed=0.log").read_text().splitlines()
    assert log == [f"$ python -m inference.svi --run-dir {tmp_path}/beta=1/seed=0", "beta is 1.0"]
    environment = json.loads((tmp_path / "beta=1" / "seed=0" / "environment.json").read_text())
    assert environment["OMP_NUM_THREADS"] == "3" and environment["CUDA_VISIBLE_DEVICES"] == ""


def test_without_a_metric_only_the_end_is_reported(tmp_path: Path) -> None:
    *found, last = results(run(tmp_path, 1, metric="", gpus=0.5))
    assert all(result == {"step": 0} for result in found)
    assert last == {"step": 40, "done": True, "ended": "done"}
    environment = json.loads((tmp_path / "beta=1" / "seed=0" / "environment.json").read_text())
    assert environment.get("CUDA_VISIBLE_DEVICES") != ""  # Ray sets it


def test_a_run_that_is_done_is_reported_again_and_not_started(tmp_path: Path) -> None:
    first, second = results(run(tmp_path, 1)), results(run(tmp_path, 1))
    assert [result for result in first if result["step"]] == second  # none is a repetition
    assert attempts(tmp_path, 1) == ["first"]


def test_a_run_that_was_killed_resumes(tmp_path: Path) -> None:
    with pytest.raises(Killed, match="beta=4/seed=0 was stopped"):
        results(run(tmp_path, 4))
    *_, last = results(run(tmp_path, 4))
    assert last["ended"] == "done" and attempts(tmp_path, 4) == ["first", "again"]
    assert "--resume" in (tmp_path / "beta=4" / "seed=0.log").read_text()


def test_a_run_that_fails_says_why_and_has_no_metric(tmp_path: Path) -> None:
    *_, last = results(run(tmp_path, 3))
    log = tmp_path / "beta=3" / "seed=0.log"
    assert last == {"done": True, "ended": "failed", "error": f"it diverged (exit status 1; {log})"}


def test_a_run_that_is_stopped_saves_first(tmp_path: Path) -> None:
    process = run(tmp_path, 5)
    until(lambda: process.step()["step"] == 10)
    process.stop()
    assert (tmp_path / "beta=5" / "seed=0" / "checkpoint.pt").read_text() == "saved"
    assert process.process is not None and process.process.returncode == 130
    found = results(run(tmp_path, 5, stopped=True))
    assert [result["step"] for result in found] == [2, 4, 6, 8, 10, 10]  # reported only
    assert found[-1]["ended"] == "stopped" and attempts(tmp_path, 5) == ["first"]


def test_a_run_waits_for_another_process_that_trains_it(tmp_path: Path) -> None:
    """Also for one whose worker has gone: here the worker's own copy of the log is closed."""
    first, second = run(tmp_path, 5), run(tmp_path, 5, steps=10)
    until(lambda: first.step()["step"] == 10)
    assert first.log is not None and first.process is not None
    first.log.close()
    assert second.process is None
    assert second.step()["step"] == 2 and second.process is None
    assert attempts(tmp_path, 5) == ["first"]
    first.process.terminate()
    first.process.wait()
    until(lambda: second.step() and second.process is not None)
    assert attempts(tmp_path, 5)[0] == "first"
    second.stop()


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    for number, token in enumerate(("", "0" * 32)):
        process = run(tmp_path / str(number), 1, token=token)
        (last,) = results(process)
        assert last["ended"] == "failed" and not (tmp_path / str(number) / "beta=1").exists()
        assert "does not see it. Put --out on a file system that all machines see" in last["error"]


def test_nothing_can_be_written(tmp_path: Path) -> None:
    process = run(tmp_path, 1)
    (tmp_path / "beta=1").write_text("a file")
    (last,) = results(process)
    assert last["ended"] == "failed" and "beta=1: File exists" in last["error"]


def test_a_process_without_a_parent_stops(tmp_path: Path) -> None:
    """Ray may end its worker, the parent of a run, without a signal to the run."""
    program = (
        "import os, signal, sys, threading, time\n"
        "from inference.tuning.child import stop_without\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('stopped', 'w').close(), os._exit(130)))\n"
        "threading.Thread(target=stop_without, args=(os.getppid(),), daemon=True).start()\n"
        "open('started', 'w').close()\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import subprocess, sys, time, pathlib\n"
        f"subprocess.Popen([sys.executable, '-c', {program!r}])\n"
        "while not pathlib.Path('started').exists(): time.sleep(0.01)\n"
    )
    environment = {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", parent], cwd=tmp_path, env=environment, check=True)
    until((tmp_path / "stopped").exists)
