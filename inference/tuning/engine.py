"""Ray Tune runs a sweep: it assigns cores and GPUs, searches, stops and retries.

Only `inference.sweep` imports this module, when a sweep starts: Ray is an optional dependency, and reads its
environment variables when it is imported.
"""

import json
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from inference.errors import UserError
from inference.plots.sweep import words
from inference.training.progress import StopSignals
from inference.tuning.plan import Job, Plan
from inference.tuning.space import Range, distributions
from inference.tuning.trial import Trial

PROGRAM = ("-m", "inference.tuning.child")  # of a run
MAX_RUNS = 8  # simultaneous runs on a machine by default: each takes about a gigabyte
RETRIES = 3  # of a run whose process was killed
FIRST_RUNG = 16  # ASHA first compares runs after this part of their steps
OBJECTS = 100 * 2**20  # bytes of Ray's shared memory: runs exchange files
TOKEN = secrets.token_hex(32)  # of Ray on this machine; Ray reads a token once per process
ROOT = "/tmp" if os.path.isdir("/tmp") else None  # Ray's sockets need a short path


class Unsaved:
    """An object without a state for Tune's files, which no sweep reads: its run folders are its state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Interrupted(Unsaved, tune.Stopper):
    """Ends the sweep after a signal."""

    def __init__(self, stopped: StopSignals):
        self.stopped = stopped

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Returns False: no single run is stopped."""
        return False

    def stop_all(self) -> bool:
        """Returns whether there was a signal."""
        return bool(self.stopped)


class Driver(Unsaved, tune.Callback):
    """Gives Tune the runs of a sweep, and prints how they end.

    Args:
        plan: of the sweep.
        threads: of a run.
        gpus: of a run.

    Attributes:
        failed: the names of the runs that failed.
    """

    def __init__(self, plan: Plan, threads: int, gpus: float):
        self.plan, self.threads, self.gpus = plan, threads, gpus
        self.failed: list[str] = []
        self.ended = {job.name for job in plan.jobs.values() if plan.stage(job) in ("done", "stopped")}

    def as_json(self, job: Job) -> str:
        """Returns what `RunProcess` needs of a run."""
        plan = self.plan
        run: dict[str, Any] = {
            "name": job.name,
            "folder": str(job.folder),
            "start": job.start,
            "resume": job.resume,
        }
        run |= {"out": str(plan.asked.out.resolve()), "token": plan.state.token, "cwd": os.getcwd()}
        run |= {"program": PROGRAM, "threads": self.threads, "gpus": self.gpus, "metric": plan.metric}
        return json.dumps(run | {"steps": job.config.steps, "stopped": plan.stage(job) == "stopped"})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints the results of a run, or why it has none."""
        job, last = self._job(trial), trial.last_result
        if job.name in self.ended:  # before this sweep: it was only reported again
            return
        if last.get("ended") == "failed":
            self._fail(job, last["error"])
            return
        self.ended.add(job.name)
        if last.get("ended") == "done":
            self._print(f"{job.name}: {words(job.test())}")
        else:
            self.plan.state.stop(job.name)
            value = f"{self.plan.metric} {last[self.plan.metric]:.4g}"
            self._print(f"{job.name}: ASHA stopped it at step {last['step']} ({value})")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints that a run is tried again."""
        print(f"{self._job(trial).name} was killed. It continues from its last checkpoint.", flush=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Prints that a run was tried too often."""
        lines = Path(trial.error_file).read_text("utf-8", errors="replace").strip().splitlines() or [""]
        self._fail(self._job(trial), f"{RETRIES + 1} attempts ended; the last: {lines[-1]}")

    def _fail(self, job: Job, reason: str) -> None:
        self.ended.add(job.name)
        self.failed.append(job.name)
        self._print(f"{job.folder} failed: {reason}")

    def _print(self, line: str) -> None:
        print(f"{len(self.ended)}/{self.plan.count} {line}", flush=True)

    def _job(self, trial: Any) -> Job:
        folder = Path(json.loads(trial.config["run"])["folder"])
        return self.plan.jobs[folder]


class Suggestions(OptunaSearch):
    """Optuna's suggestions as runs of a sweep.

    Args:
        plan: of the sweep.
        driver: of the sweep.
    """

    def __init__(self, plan: Plan, driver: Driver):
        super().__init__(
            distributions(plan.space),
            metric=plan.metric,
            mode=plan.mode,
            points_to_evaluate=plan.begun,  # they come first
            seed=plan.asked.seeds[0] + len(plan.begun),  # else it would suggest the first points again
        )
        self.driver = driver

    def suggest(self, trial_id: str) -> dict[str, str]:
        """Returns the run of the next suggestion."""
        plan = self.driver.plan
        point = {}
        for key, value in super().suggest(trial_id).items():
            values = plan.space[key]
            point[key] = values.text(value) if isinstance(values, Range) else value
        (job,) = plan.add(point)
        return {"run": self.driver.as_json(job)}


def run_sweep(plan: Plan) -> tuple[bool, list[str]]:
    """Runs a sweep to its end, or until a signal.

    Args:
        plan: of the sweep.

    Returns:
        Whether a signal stopped it, and the names of the runs that failed.

    Raises:
        UserError: the cluster does not exist, or a machine of it does not have what a run needs.
    """
    asked = plan.asked
    with cluster(asked.address):
        threads, gpus = resources(asked)
        driver = Driver(plan, threads, gpus)
        cores = ray.cluster_resources()["CPU"]
        print(f"{plan.count} runs, each with {threads} of {cores:g} cores: {asked.out}", flush=True)
        with StopSignals() as stopped, TemporaryDirectory(prefix="ppl-sweep-") as storage:
            trial = tune.with_resources(Trial, {"cpu": threads, "gpu": gpus})
            tuner = tune.Tuner(
                trial,
                param_space=None if asked.search == "optuna" else {"run": tune.grid_search(_given(driver))},
                tune_config=_tune_config(driver),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=storage,
                    stop=Interrupted(stopped),
                    callbacks=[driver],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                ),
            )
            tuner.fit()
        return bool(stopped), driver.failed


def _given(driver: Driver) -> list[str]:
    """The runs that Tune gets. ASHA also gets those that have ended, because it compares with them."""
    every = driver.plan.jobs.values()
    asha = driver.plan.asked.asha
    return [driver.as_json(job) for job in every if asha or job.name not in driver.ended]


def _tune_config(driver: Driver) -> Any:
    """How Tune searches and stops."""
    plan = driver.plan
    config = tune.TuneConfig(trial_name_creator=_trial_id, trial_dirname_creator=_trial_id)
    if plan.asked.search == "optuna":
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        config.search_alg = Suggestions(plan, driver)
        config.num_samples = plan.count
    if plan.asked.asha:
        config.scheduler = ASHAScheduler(
            time_attr="step",
            metric=plan.metric,
            mode=plan.mode,
            max_t=plan.steps,
            grace_period=max(plan.steps // FIRST_RUNG, 1),
        )
    return config


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Joins a Ray cluster, or starts Ray on this machine for the duration of the context.

    Ray on this machine listens on the loopback interface only. Its token is in the environment of its
    processes, and not in a file. A caller that has called `ray.init` keeps its cluster.

    Args:
        address: HOST:PORT of the cluster; None starts Ray on this machine.

    Raises:
        UserError: there is no such cluster, its token is missing or differs, or Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    with ExitStack() as on_exit:
        own: dict[str, Any] = {}
        if address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", TOKEN)
            folder = TemporaryDirectory(prefix="ray-", dir=ROOT, ignore_cleanup_errors=True)
            own = {"_temp_dir": on_exit.enter_context(folder), "_node_ip_address": "127.0.0.1"}
            own |= {"include_dashboard": False, "object_store_memory": OBJECTS}
        try:
            with _native_output_hidden() if address else nullcontext():
                ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except Exception as error:  # which Ray raises as such if its processes do not start in time
            reason = str(error).strip().partition("\n")[0].removesuffix(".")
            where = f"cannot join the Ray cluster at {address}" if address else "cannot start Ray"
            advice = "Start it with `ray start` and the same token: docs/howto/sweeps.md."
            advice = advice if address else "If the machine is busy, try again later."
            raise UserError(f"{where} ({reason:.200}). {advice}") from None
        on_exit.callback(ray.shutdown)
        yield


@contextmanager
def _native_output_hidden() -> Iterator[None]:
    """Hides what C++ code writes to standard error: Ray warns at each attempt to join a cluster."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def resources(asked: Any) -> tuple[int, float]:
    """Returns the cores and GPUs of a run.

    Args:
        asked: the options of the sweep.

    Raises:
        UserError: no machine of the cluster has as many.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores, devices = (max(machine.get(kind, 0) for machine in machines) for kind in ("CPU", "GPU"))
    cpus = asked.cpus or max(int(cores) // MAX_RUNS, 1)
    gpus = asked.gpus
    if gpus is None:
        gpus = 1.0 if devices and asked.device != "cpu" else 0.0
    for option, wanted, most in (("--cpus", cpus, cores), ("--gpus", gpus, devices)):
        if wanted > most:
            raise UserError(
                f"{option} is {wanted:g}, and the largest machine has {most:g}. Give at most that."
            )
    if asked.device == "cuda" and not gpus:
        raise UserError("--device cuda: the runs get no GPU. Leave out --device, or give --gpus 1.")
    return cpus, gpus
