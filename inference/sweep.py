"""Train a model over a grid of its settings, one process per run; make one table and one figure of all runs.

python -m inference.sweep --model beta_vae --over beta=0,1e-4,1e-3,1e-2,1,10 --seeds 0,1,2
python -m inference.sweep --model vae --over z-dim=2,10 --over lr=1e-3,1e-4 --data digits --steps 500
torchrun --nnodes 2 ... -m inference.sweep ...     the runs are shared by machines that see one folder

Every other option of inference.svi is passed on. The same command continues a sweep that was stopped.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
import itertools
import json
import os
import queue
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext, redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Any, NamedTuple

import torch

from inference.backend import distributed
from inference.backend.device import choose_device
from inference.backend.files import open_append, write_whole
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.cli.train import configuration, parse, read_data
from inference.errors import UserError, unknown
from inference.html import index
from inference.plots.sweep import draw, over_seeds, table, words
from inference.rundir.config import TrainConfig, as_text, flag
from inference.rundir.folders import is_used
from inference.rundir.kinds import COUNT, SEED
from inference.rundir.run import Run
from inference.rundir.run_config import MODEL_FILES, RunConfig, model_argument
from inference.training.progress import StopSignals
from inference.training.setup import prepare
from ppl_models import MODELS

CORES = os.cpu_count() or 1
MAX_JOBS = 8  # simultaneous runs by default: each takes about a gigabyte
TRAINING = ("lr", "batch_size", "steps", "particles")  # settings that can be swept, with a model's options


class Job(NamedTuple):
    """One run of the grid."""

    over: dict[str, Any]  # the settings that are swept
    folder: Path
    config: RunConfig  # without provenance
    start: list[str]  # the arguments of inference.svi that start it
    resume: list[str]  # and those that resume it

    @property
    def name(self) -> str:
        """The values and the seed, such as `beta=1/seed=0`."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def test(self) -> dict[str, dict[str, float]]:
        """Returns the metrics on the test set; none if the run is not done."""
        path = self.folder / "results.json"
        return json.loads(path.read_text())["test"] if path.exists() else {}


def main(arguments: list[str]) -> int:
    """Runs the grid. Returns the exit status: 0, 1 if a run failed, 130 if stopped."""
    as_json = "--json" in arguments
    with distributed.process_group():
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            status = sweep(*(planned := plan(arguments)))
        if as_json and status != 130 and not distributed.rank():
            content = (planned[0].out / "results.json").read_text()
            print(json.dumps({"results": json.loads(content)}, indent=2))
        return status


def sweep(asked: argparse.Namespace, jobs: list[Job]) -> int:
    """Runs the jobs, or this process's share of them. Returns the exit status."""
    todo = [job for job in jobs if stage(job) != "done"]
    for job in jobs:
        if job not in todo:
            print(f"{job.name} is already done: skipped")
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {asked.out} ({error.strerror}): name another with --out") from None
    failed: list[str] = []
    count, threads = len(jobs), max(CORES // asked.jobs, 1)
    mine = todo[distributed.rank() :: distributed.world_size()]
    free = places(asked.jobs, asked.gpus)
    print(f"{count} runs, {asked.jobs} at a time with {threads} of {CORES} cores each: {asked.out}")
    with StopSignals() as stopped, ThreadPoolExecutor(asked.jobs) as pool:
        try:
            futures = {pool.submit(train, job, threads, stopped, free): job for job in mine}
            for ended, future in enumerate(as_completed(futures), count - len(todo) + 1):
                job, complaint = futures[future], future.result()
                if stopped:
                    continue
                if complaint:
                    failed.append(job.name)
                    print(f"{ended}/{count} {job.folder} failed: {complaint}", flush=True)
                else:
                    print(f"{ended}/{count} {job.name}: {words(job.test())}", flush=True)
            if distributed.any_process(bool(stopped)):
                done = sum(bool(job.test()) for job in jobs)
                print(f"stopped with {done} of {count} runs done. The same command continues.")
                return 130
        finally:
            stopped.stopped = True  # also after an error no run is left behind
    failed = [name for part in distributed.all_gather(failed) for name in part]
    if not distributed.rank():
        summarise(asked, jobs)
    if failed:
        print(f"failed: {', '.join(failed)}. The same command resumes them.")
    return 1 if failed else 0


def plan(arguments: list[str]) -> tuple[argparse.Namespace, list[Job]]:
    """Returns the options and the runs of a sweep. Raises UserError if one of them could not start."""
    parser = Parser(prog="python -m inference.sweep", description=__doc__)
    add = parser.add_argument
    add("--model", metavar="NAME", help=f"the model: {', '.join(MODELS)}")
    about = f"an option of the model, or {', '.join(TRAINING)}, with its values; repeat it for a product"
    add("--over", action="append", type=_values, required=True, metavar="KEY=VALUE,VALUE", help=about)
    add("--seeds", type=_seeds, default=[0, 1, 2], metavar="N,N", help="seeds of each value (default: 0,1,2)")
    about = f"simultaneous runs, which share the cores (default: one per core, at most {MAX_JOBS})"
    add("--jobs", type=COUNT.parse, default=min(CORES, MAX_JOBS), metavar="N", help=about)
    add("--out", type=Path, metavar="DIR", help="folder of the sweep (default: runs/sweeps/<model>-<keys>)")
    add("--json", action="store_true", help="print the results as JSON; other output goes to stderr")
    asked, rest = parser.parse_known_args(arguments)

    model = ["--model", asked.model] if asked.model else []
    parse(model)
    keys, known = [key for key, _ in asked.over], [*MODELS[asked.model].options(), *TRAINING]
    for key in keys:
        if key not in known:
            raise unknown(f"setting of {asked.model}", key, known)
        if keys.count(key) > 1:
            raise UserError(f"{key} is swept twice: give all its values in one --over")
    for own in ("--seed", "--run-dir", "--resume", *map(flag, keys)):
        if own in {argument.partition("=")[0] for argument in rest}:
            raise UserError(f"{own} cannot be passed on, the sweep sets it for each run: leave it out")
    asked.out = asked.out or Path("runs", "sweeps", "-".join([asked.model, *keys]))
    if (asked.out / "config.json").exists():
        raise UserError(f"{asked.out} is the folder of a single run: name another with --out")

    every = itertools.product(*([f"{flag(key)}={value}" for value in values] for key, values in asked.over))
    points = [(list(point), parse([*model, *rest, *point])) for point in every]
    given = points[0][1]
    asked.data_dir = getattr(given, "data_dir", None)
    data, line = read_data(given)
    if line:
        print(line)
    named = ["--model", model_argument(asked.model)]
    chosen = [] if "data" in given else ["--data", data.name]  # the same for all runs
    elsewhere = [f"{flag(key)}={vars(given)[key]}" for key in ("data_dir", "device") if key in given]
    jobs: dict[Path, Job] = {}
    for point, given in points:
        config, over = configuration(given, data), {key: getattr(given, key) for key in keys}
        asked.gpus = visible_gpus() if choose_device(config.device).type == "cuda" else []
        on_cpu = replace(config, device="cpu")  # the runs use the GPUs, not this process
        prepare(on_cpu, data.with_validation(config.validation, config.seed))
        for number in asked.seeds:
            value = ",".join(f"{key}={as_text(value)}" for key, value in over.items())
            folder = asked.out / value / f"seed={number}"
            if folder in jobs:
                raise UserError(f"{value} is in the grid twice: give each value once")
            start = [*named, *point, *rest, *chosen, "--seed", str(number), "--run-dir", str(folder)]
            resume = ["--resume", str(folder), *(named if asked.model in MODEL_FILES else []), *elsewhere]
            jobs[folder] = Job(over, folder, replace(config, seed=number), start, resume)
    asked.jobs = min(asked.jobs, len(jobs))
    return asked, list(jobs.values())


def _values(text: str) -> tuple[str, list[str]]:
    key, _, values = text.partition("=")
    if not values:
        raise argparse.ArgumentTypeError(f"{text} has no values: write KEY=VALUE,VALUE")
    return key.replace("-", "_"), values.split(",")


def _seeds(text: str) -> list[int]:
    try:
        seeds = [SEED.parse(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text} is not a list of seeds such as 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} names a seed twice: give each once")
    return seeds


def stage(job: Job) -> str:
    """Returns how far a run is: "new", "started" or "done".

    Raises:
        UserError: the folder is something else, or a run with other settings.
    """
    if not job.folder.exists() or not is_used(job.folder):
        return "new"
    if not (job.folder / "config.json").exists():
        raise UserError(f"{job.folder} is not a run of a sweep. Move it, or name another folder with --out.")
    found = Run.open(job.folder).config
    compared = ["model", "data", "checksum", "validation", "labelled_file"]
    compared += [spec.name for spec in fields(TrainConfig) if spec.name != "eval_every"]
    wanted = {name: (getattr(found, name), getattr(job.config, name)) for name in compared}
    wanted |= {name: (found.options.get(name), value) for name, value in job.config.options.items()}
    for name, (was, value) in wanted.items():
        if was != value:
            raise UserError(f"{job.folder} is a run with {name} {was}, not {value}. Name another with --out.")
    return "done" if (job.folder / "results.json").exists() else "started"


def visible_gpus() -> list[str]:
    """Returns the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them.

    CUDA is not initialised if NVML can count them, as it can with NVIDIA's driver.
    """
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(i) for i in range(count)]


def places(jobs: int, gpus: list[str]) -> queue.SimpleQueue[dict[str, str]]:
    """Returns the environment variables of each of `jobs` simultaneous runs, which use the GPUs in turn.

    Without GPUs there are no variables. Processes of one machine that share a sweep start with different
    GPUs.
    """
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    first = int(os.environ.get("LOCAL_RANK", "0")) * jobs
    for place in range(first, first + jobs):
        free.put({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})
    return free


def train(
    job: Job, threads: int, stopped: StopSignals, free: queue.SimpleQueue[dict[str, str]]
) -> str | None:
    """Trains one run to its end in a separate process. Returns its last line of output if it failed."""
    if stopped:
        return None
    place = free.get()
    try:
        return _train(job, threads, stopped, place)
    finally:
        free.put(place)


def _train(job: Job, threads: int, stopped: StopSignals, place: dict[str, str]) -> str | None:
    arguments = job.resume if stage(job) == "started" else job.start
    command = [sys.executable, "-m", "inference.svi", *arguments]
    environment = (
        distributed.single_process_env() | place | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    )
    log = job.folder.with_name(f"{job.folder.name}.log")  # next to the run, whose folder must be empty
    log.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_append(log), "a") as file:
        print("$", shlex.join(command), file=file, flush=True)
        process = Popen(command, stdin=DEVNULL, stdout=file, stderr=STDOUT, env=environment)
        while process.poll() is None and not stopped:
            time.sleep(0.1)
        process.terminate()  # a run in progress saves its checkpoint and stops
        status = process.wait()
    last = log.read_text(errors="replace").splitlines()[-1].removeprefix("error: ")
    return f"{last} (exit status {status}; {log})" if status else None


def summarise(asked: argparse.Namespace, jobs: list[Job]) -> None:
    """Writes results.json, table.md and sweep.png of the runs that are done, and prints the table."""
    grouped = itertools.groupby(jobs, key=lambda job: job.over)
    rows = [(over, [job for job in of_value if job.test()]) for over, of_value in grouped]
    results = []
    for over, done in rows:
        tests = over_seeds([job.test() for job in done])
        results.append({"over": over, "seeds": [job.config.seed for job in done], "test": tests})
    write_whole(asked.out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    write_whole(asked.out / "table.md", (table(results) + "\n").encode())
    print(f"\n{table(results)}\n")
    drawn = draw(
        {done[0].folder: over for over, done in rows if done}, asked.out / "sweep.png", asked.data_dir
    )
    print(f"{'table.md, results.json and sweep.png' if drawn else 'table.md and results.json'}: {asked.out}")
    print(index.write(asked.out))


if __name__ == "__main__":
    run_command(main)
