"""Train a model over a grid of its settings, a process a run; leave one table and one picture of them all.

python -m inference.sweep --model beta_vae --over beta=0,1e-4,1e-3,1e-2,1,10 --seeds 0,1,2
python -m inference.sweep --model vae --over z-dim=2,10 --over lr=1e-3,1e-4 --data digits --steps 500
torchrun --nnodes 2 ... -m inference.sweep ...     the runs shared among machines that see one folder

Every other option of inference.svi is passed on. The same command again goes on where it was stopped.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

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
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Any, NamedTuple

import torch

from inference.backend import distributed
from inference.backend.device import choose_device
from inference.cli.options import DATA_DIR, Parser, configuration, flag, parse, plain, positive, seed
from inference.data import datasets
from inference.errors import UserError, run_command, unknown
from inference.html import index
from inference.plots.sweep import draw, over_seeds, table, words
from inference.rundir.files import open_append, write_whole
from inference.rundir.run import Run, used
from inference.training.progress import StopSignals
from inference.training.setup import prepare
from ppl_models import MODELS

CORES = os.cpu_count() or 1
MOST = 8  # runs at a time unless --jobs says otherwise: each takes about a gigabyte
TRAINING = ("lr", "batch_size", "steps", "particles")  # what may be swept beside a model's own options


class Job(NamedTuple):
    """One run of the grid."""

    over: dict[str, Any]  # the settings that are swept
    folder: Path
    config: dict[str, Any]  # as the run's config.json begins
    begin: list[str]  # the arguments of inference.svi that begin it
    go_on: list[str]  # and those that go on with it

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def test(self) -> dict[str, dict[str, float]]:
        """The figures on the test set; none where the run is not done."""
        path = self.folder / "results.json"
        return json.loads(path.read_text())["test"] if path.exists() else {}


def main(arguments: list[str]) -> int:
    """Run the grid. Returns the exit status: 0, 1 where a run failed, 130 if stopped."""
    with distributed.process_group():
        return sweep(*plan(arguments))


def sweep(asked: argparse.Namespace, jobs: list[Job]) -> int:
    """Run the jobs, or this process's share of them. Returns the exit status."""
    todo = [job for job in jobs if stage(job) != "done"]
    for job in jobs:
        if job not in todo:
            print(f"{job.name} is done already: skipped")
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {asked.out} ({error.strerror}): name another with --out") from None
    failed: list[str] = []
    count, threads, mine = (
        len(jobs),
        max(CORES // asked.jobs, 1),
        todo[distributed.rank() :: distributed.world_size()],
    )
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
                print(f"stopped with {done} of {count} runs done; the same command goes on")
                return 130
        finally:
            stopped.stopped = True  # whatever has broken this off, no run is left behind
    failed = [name for part in distributed.all_gather(failed) for name in part]
    if not distributed.rank():
        summarise(asked, jobs)
    if failed:
        print(f"failed: {', '.join(failed)}; the same command goes on with them where they stopped")
    return 1 if failed else 0


def plan(arguments: list[str]) -> tuple[argparse.Namespace, list[Job]]:
    """The sweep's options, and its runs by value and seed. Raises UserError where one could not begin."""
    parser = Parser(prog="python -m inference.sweep", description=__doc__)
    add = parser.add_argument
    add("--model", metavar="NAME", help=f"what to train: {', '.join(MODELS)}")
    about = f"what to sweep: an option of the model, or {', '.join(TRAINING)}; more than once for the product"
    add("--over", action="append", type=_values, required=True, metavar="KEY=VALUE,VALUE", help=about)
    add("--seeds", type=_seeds, default=[0, 1, 2], metavar="N,N", help="of each value (default: 0,1,2)")
    about = f"runs at a time, which share the cores (default: one a core, at most {MOST})"
    add("--jobs", type=positive(int), default=min(CORES, MOST), metavar="N", help=about)
    add("--out", type=Path, metavar="DIR", help="the sweep's folder (default: runs/sweeps/<model>-<keys>)")
    asked, rest = parser.parse_known_args(arguments)

    model = ["--model", asked.model] if asked.model else []
    parse(model)
    keys, known = [key for key, _ in asked.over], [*MODELS[asked.model].options(), *TRAINING]
    for key in keys:
        if key not in known:
            raise unknown(f"setting of {asked.model}", key, known)
        if keys.count(key) > 1:
            raise UserError(f"{key} is swept over twice: give all its values in one --over")
    for own in ("--seed", "--run-dir", "--resume", *map(flag, keys)):
        if own in {argument.partition("=")[0] for argument in rest}:
            raise UserError(f"{own} cannot be passed on, the sweep gives it to each run itself: leave it out")
    asked.out = asked.out or Path("runs", "sweeps", "-".join([asked.model, *keys]))
    if (asked.out / "config.json").exists():
        raise UserError(f"{asked.out} is the folder of a single run: name another with --out")

    every = itertools.product(*([f"{flag(key)}={value}" for value in values] for key, values in asked.over))
    points = [(list(point), parse([*model, *rest, *point])) for point in every]
    given = points[0][1]
    asked.data_dir = getattr(given, "data_dir", None)
    cls = MODELS[asked.model]
    data, line = datasets.load(getattr(given, "data", cls.default_dataset), asked.data_dir or DATA_DIR, cls)
    if line:
        print(line)
    chosen = [] if "data" in given else ["--data", data.name]  # for all runs the same, whatever comes
    elsewhere = [f"{flag(key)}={vars(given)[key]}" for key in ("data_dir", "device") if key in given]
    jobs: dict[Path, Job] = {}
    for point, given in points:
        config, over = configuration(given, data), {key: getattr(given, key) for key in keys}
        asked.gpus = visible_gpus() if choose_device(config["device"]).type == "cuda" else []
        on_cpu = config | {"device": "cpu"}  # the runs use the GPUs, and this process leaves them alone
        prepare(on_cpu, data.with_validation(config["validation"], config["seed"]))
        for number in asked.seeds:
            value = ",".join(f"{key}={plain(value)}" for key, value in over.items())
            folder = asked.out / value / f"seed={number}"
            if folder in jobs:
                raise UserError(f"{value} is in the grid twice: give each value once")
            begin = [*model, *point, *rest, *chosen, "--seed", str(number), "--run-dir", str(folder)]
            go_on = ["--resume", str(folder), *elsewhere]
            jobs[folder] = Job(over, folder, config | {"seed": number}, begin, go_on)
    asked.jobs = min(asked.jobs, len(jobs))
    return asked, list(jobs.values())


def _values(text: str) -> tuple[str, list[str]]:
    key, _, values = text.partition("=")
    if not values:
        raise argparse.ArgumentTypeError(f"{text} names no values: write KEY=VALUE,VALUE")
    return key.replace("-", "_"), values.split(",")


def _seeds(text: str) -> list[int]:
    try:
        seeds = [seed(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not whole numbers with commas between") from None
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} names a seed twice: give each once")
    return seeds


def stage(job: Job) -> str:
    """How far a run is: "new", "begun" or "done".

    Raises UserError where its folder holds anything else, or a run of other settings.
    """
    if not job.folder.exists() or not used(job.folder):
        return "new"
    if not (job.folder / "config.json").exists():
        raise UserError(f"{job.folder} is no run of a sweep: move it away, or name another folder with --out")
    found = Run.open(job.folder).config
    may_differ = ("data_dir", "device", "eval_every", "options")  # the options are compared one by one
    wanted = {key: value for key, value in job.config.items() if key not in may_differ}
    for key, value in (wanted | job.config["options"]).items():
        was = (found | found["options"]).get(key, value)
        if was != value:
            raise UserError(f"{job.folder} is a run with {key} {was}, not {value}: name another with --out")
    return "done" if (job.folder / "results.json").exists() else "begun"


def visible_gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them.

    CUDA is not initialised if NVML is there to count them, as it is with NVIDIA's driver.
    """
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(i) for i in range(count)]


def places(jobs: int, gpus: list[str]) -> queue.SimpleQueue[dict[str, str]]:
    """The environment variables of each of `jobs` simultaneous runs, which take the GPUs in turn.

    Without GPUs there are none. Processes of one machine that share a sweep begin with different GPUs.
    """
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    first = int(os.environ.get("LOCAL_RANK", "0")) * jobs
    for place in range(first, first + jobs):
        free.put({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})
    return free


def train(
    job: Job, threads: int, stopped: StopSignals, free: queue.SimpleQueue[dict[str, str]]
) -> str | None:
    """Train one run to its end in a process of its own. Returns its last line of output if it failed."""
    if stopped:
        return None
    place = free.get()
    try:
        return _train(job, threads, stopped, place)
    finally:
        free.put(place)


def _train(job: Job, threads: int, stopped: StopSignals, place: dict[str, str]) -> str | None:
    arguments = job.go_on if stage(job) == "begun" else job.begin
    command = [sys.executable, "-m", "inference.svi", *arguments]
    environment = (
        distributed.single_process_env() | place | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    )
    log = job.folder.with_name(f"{job.folder.name}.log")  # beside the run, whose folder must be empty
    log.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_append(log), "a") as file:
        print("$", shlex.join(command), file=file, flush=True)
        process = Popen(command, stdin=DEVNULL, stdout=file, stderr=STDOUT, env=environment)
        while process.poll() is None and not stopped:
            time.sleep(0.1)
        process.terminate()  # a run that goes on saves its checkpoint and stops
        status = process.wait()
    last = log.read_text(errors="replace").splitlines()[-1].removeprefix("error: ")
    return f"{last} (exit status {status}; {log})" if status else None


def summarise(asked: argparse.Namespace, jobs: list[Job]) -> None:
    """Leave results.json, table.md and sweep.png, of the runs that are done; print the table."""
    grouped = itertools.groupby(jobs, key=lambda job: job.over)
    rows = [(over, [job for job in of_value if job.test()]) for over, of_value in grouped]
    results = [
        {
            "over": over,
            "seeds": [job.config["seed"] for job in done],
            "test": over_seeds([job.test() for job in done]),
        }
        for over, done in rows
    ]
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
