"""The process of one run of a sweep: `inference.svi`, started, watched and stopped.

Ray's workers import this module. It needs the standard library only, so that a worker starts fast.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WAIT = 1.0  # seconds after which `step` returns without a new measurement, so that Tune can stop the run
SAVED = 130  # exit status of a run that a signal stopped
NOFOLLOW, NONBLOCK = (getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "NONBLOCK"))


class Killed(RuntimeError):
    """The process of a run was killed. Tune starts the run again."""


class RunProcess:
    """One run of a sweep: it is started, or resumed, or only reported if nothing is left to do.

    Args:
        run: what `inference.tuning.engine` gives: `name`; `folder`; `program`, Python's arguments, with the
            further ones `start` or `resume`; `out` and `token` of the sweep; `cwd`; `threads`; `gpus`;
            `metric`; `steps`; and `stopped`, whether ASHA has stopped the run before.
    """

    def __init__(self, run: dict[str, Any]):
        self.run, self.folder = run, Path(run["cwd"], run["folder"])
        self.process: subprocess.Popen[bytes] | None = None
        self.log: IO[bytes] | None = None
        self.last: dict[str, Any] = {"step": 0} | ({run["metric"]: float("nan")} if run["metric"] else {})

    @property
    def log_path(self) -> Path:
        """The output of the run; it is next to the folder, which must be empty when the run starts."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def step(self) -> dict[str, Any]:
        """Waits for the next measurement of the validation data, up to a second.

        Returns:
            `step` and the metric, from the last measurement. After the end of the run also `done`, and
            `ended`: "done", "stopped" if ASHA has stopped it before, or "failed", with `error`.

        Raises:
            Killed: a signal ended the process.
        """
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            try:
                status = self._status()
            except OSError as error:
                return self._failed(f"{error.filename or self.folder}: {error.strerror or error}")
            measured = self._next_measurement()
            if measured:
                self.last = measured
                break
            if status is not None:
                return self._end(status)
            time.sleep(0.1)
        return dict(self.last)

    def stop(self) -> None:
        """Ends the process, which saves a checkpoint first."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
            self.process.wait()
        if self.log is not None:
            self.log.close()

    def _status(self) -> int | None:
        """The exit status of the process; None while the run trains, here or in another process."""
        if self.process is None:
            if self.log is None:
                self._check_folder()
                if not self._lock():
                    return None
            if self.run["stopped"] or (self.folder / "results.json").exists():
                return 0
            self._start()
        assert self.process is not None
        return self.process.poll()

    def _check_folder(self) -> None:
        """Raises OSError if this machine does not see the folder of the sweep."""
        content = None
        with suppress(OSError, ValueError):
            content = json.loads(Path(self.run["out"], "sweep.json").read_bytes())
        if not isinstance(content, dict) or content.get("token") != self.run["token"]:
            reason = (
                f"{socket.gethostname()} does not see it. Put --out on a file system that all machines see"
            )
            raise OSError(0, reason, self.run["out"])

    def _lock(self) -> bool:
        """Opens and locks the log. Its lock lasts until this process and the run's have both ended.

        A run that is tried again waits so for its process on a machine that Ray has lost from sight.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NOFOLLOW | NONBLOCK
        log = os.fdopen(os.open(self.log_path, flags, 0o666), "ab")
        if fcntl is not None:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.close()
                return False
        self.log = log
        return True

    def _start(self) -> None:
        assert self.log is not None
        begun = (self.folder / "config.json").exists()
        arguments = self.run["resume" if begun else "start"]
        line = shlex.join(["python", "-m", "inference.svi", *arguments])
        self.log.write(f"$ {line}\n".encode())
        self.log.flush()
        environment = os.environ | {"OMP_NUM_THREADS": str(self.run["threads"]), "PYTHONUNBUFFERED": "1"}
        if not self.run["gpus"]:  # Ray leaves GPUs visible that it has not assigned
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self.process = subprocess.Popen(
            [sys.executable, *self.run["program"], *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=self.run["cwd"],
        )

    def _next_measurement(self) -> dict[str, Any] | None:
        """The first measurement of the validation data after the last one that was reported.

        That of the last step comes with the end of the run: a run that is complete is not stopped.
        """
        metric = self.run["metric"]
        if not metric:
            return None
        for line in self._read("metrics.jsonl").splitlines():
            try:
                found = json.loads(line)
            except ValueError:  # the run is writing it
                break
            later = self.last["step"] < found.get("step", 0) < self.run["steps"]
            if later and found.get("split") == "validation" and metric in found:
                return {"step": found["step"], metric: found[metric]}
        return None

    def _read(self, name: str) -> str:
        """The text of a file of the run; "" if there is none."""
        try:
            with os.fdopen(os.open(self.folder / name, os.O_RDONLY | NOFOLLOW | NONBLOCK), "rb") as file:
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _end(self, status: int) -> dict[str, Any]:
        """The last result of a run, from the exit status of its process."""
        if status < 0 or status == SAVED:
            raise Killed(f"the process of {self.run['name']} was stopped (exit status {status})")
        if status:
            lines = self.log_path.read_text("utf-8", errors="replace").splitlines() or [""]
            return self._failed(
                f"{lines[-1].removeprefix('error: ')} (exit status {status}; {self.log_path})"
            )
        results = self._read("results.json")
        if not results:
            return self.last | {"done": True, "ended": "stopped"}
        metric = self.run["metric"]
        last = {"step": self.run["steps"]}
        if metric:
            last[metric] = json.loads(results)["validation"][metric]["value"]
        return last | {"done": True, "ended": "done"}

    def _failed(self, error: str) -> dict[str, Any]:
        """The last result of a run that failed. It has no value of the metric: it is the worst."""
        return {"done": True, "ended": "failed", "error": error}
