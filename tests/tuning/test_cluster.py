"""A sweep on two machines, of which one is lost. The machines are network namespaces of this one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests import forks
from tests.support import checkpoint, lines, same, timeless

pytestmark = [pytest.mark.full, pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
NAMES = (f"ppl{os.getpid()}a", f"ppl{os.getpid()}b")
ADDRESSES = ("10.213.7.1", "10.213.7.2")
PORT = 6379


def ip(*words: str) -> str:
    """Runs the command ip. Raises CalledProcessError if it fails."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def on(machine: int, command: list[str]) -> list[str]:
    return ["ip", "netns", "exec", NAMES[machine], *command]


def turn_off(machine: int) -> None:
    """Kills all processes of a machine, as a power cut does."""
    for pid in ip("netns", "pids", NAMES[machine]).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture
def machines() -> Iterator["list[subprocess.Popen[bytes]]"]:
    """Two network namespaces with a cable between them, and a list of processes that the test starts on them.

    Skips the test where they cannot be made.
    """
    if shutil.which("ip") is None:
        pytest.skip("the command ip is not installed (Debian: iproute2)")
    made, started = list[str](), list["subprocess.Popen[bytes]"]()
    try:
        for name in NAMES:
            ip("netns", "add", name)
            made.append(name)
        ip(
            "link",
            "add",
            "cable",
            "netns",
            NAMES[0],
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            NAMES[1],
        )
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield started
    except (OSError, subprocess.CalledProcessError) as error:
        if len(made) == len(NAMES):
            raise
        pytest.skip(f"no network namespaces: {getattr(error, 'stderr', '') or error}")
    finally:
        for machine, name in enumerate(NAMES):
            if name in made:
                turn_off(machine)
                ip("netns", "delete", name)
        for process in started:
            process.wait()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of both machines: a token that they share."""
    token = tmp_path / "token"
    token.write_text("a-token-of-this-test-" + "0123456789" * 3)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    own |= {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "300"}  # other processes may be busy
    return {**forks.ENVIRONMENT, **own}


def until(condition: Any, what: str, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: it takes too long"
        time.sleep(0.05)


def steps(run: Path) -> int:
    return max((line["step"] for line in lines(run)), default=0) if (run / "metrics.jsonl").exists() else 0


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """A folder with a short path, which sockets need."""
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def start_ray(machine: int, folder: str, log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Starts Ray on a machine; the first one is the head."""
    options = [f"--node-ip-address={ADDRESSES[machine]}", "--num-cpus=1", "--object-store-memory=100000000"]
    head = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}"]
    options += ["--block", "--disable-usage-stats"] if machine == 0 else ["--block"]
    options += [f"--address={ADDRESSES[0]}:{PORT}"] if machine else head
    with open(log, "w") as file:
        command = on(machine, [*RAY, "start", *options])
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=forks.ROOT, env=environment)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    until(ready, "Ray starts")
    return process


def test_a_machine_is_lost(
    small_npz: Path, tmp_path: Path, ray_folder: str, environment: dict[str, str], machines: list[Any]
) -> None:
    """Each run ends, and equals the run of this machine alone bit for bit: all have one thread."""
    out, said = tmp_path / "out", tmp_path / "sweep.log"
    small = [
        "--model",
        "vae",
        "--hidden",
        "16",
        "--batch-size",
        "20",
        "--compile",
        "eager",
        "--steps",
        "6000",
    ]
    small += ["--data", str(small_npz)]
    for machine in (0, 1):
        machines.append(start_ray(machine, ray_folder, tmp_path / f"ray-{machine}.log", environment))
    grid = ["--over", "z-dim=2,3,4", "--seeds", "0", "--cpus", "1", "--out", str(out)]
    grid += ["--address", f"{ADDRESSES[0]}:{PORT}"]
    sweep = on(0, [sys.executable, "-m", "inference.sweep", *small, *grid])
    with open(said, "w") as log:
        process = subprocess.Popen(sweep, stdout=log, stderr=log, cwd=forks.ROOT, env=environment)
    lost = victim(out, process, said)
    turn_off(1)
    assert process.wait(timeout=600) == 0, said.read_text()
    assert f"{lost.parent.name}/seed=0 was killed. It continues from its last checkpoint." in said.read_text()
    assert Path(f"{lost}.log").read_text().count("$ python -m inference.svi --resume") == 1
    for z in (2, 3, 4):
        direct, run = tmp_path / f"direct-{z}", out / f"z_dim={z}" / "seed=0"
        done = forks.run("-m", "inference.svi", *small, "--z-dim", str(z), "--run-dir", str(direct))
        assert done.returncode == 0, done.stderr
        assert same(checkpoint(run), checkpoint(direct)) and timeless(run) == timeless(direct)
        tests = [json.loads((each / "results.json").read_text())["test"] for each in (run, direct)]
        assert tests[0] == tests[1]


def victim(out: Path, process: "subprocess.Popen[bytes]", said: Path) -> Path:
    """Waits until the second machine has trained a run for a while, and returns the run."""

    def running() -> list[Path]:
        assert process.poll() is None, said.read_text()
        words = []
        for pid in ip("netns", "pids", NAMES[1]).split():
            try:
                words += Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
        return [path for path in out.glob("*/seed=0") if str(path) in words and steps(path) > 600]

    until(running, "a run starts on the second machine")
    return running()[0]


def test_a_wrong_token_is_refused(
    small_npz: Path, tmp_path: Path, ray_folder: str, environment: dict[str, str], machines: list[Any]
) -> None:
    machines.append(start_ray(0, ray_folder, tmp_path / "ray.log", environment))
    (tmp_path / "token").write_text("another-token-" + "0123456789" * 3)
    grid = ["--model", "vae", "--over", "z-dim=2", "--data", str(small_npz), "--out", str(tmp_path / "out")]
    address = ["--batch-size", "20", "--address", f"{ADDRESSES[0]}:{PORT}"]
    sweep = on(0, [sys.executable, "-m", "inference.sweep", *grid, *address])
    done = subprocess.run(sweep, cwd=forks.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and not list((tmp_path / "out").glob("*/*"))
    (last,) = done.stderr.splitlines()
    assert last.startswith("error: cannot join the Ray cluster") and "the same token" in last
