"""Train a model with many settings on Ray Tune; make one table and one figure of all runs.

python -m inference.sweep --model beta_vae --over beta=0,1e-4,1e-3,1e-2,1,10 --seeds 0,1,2
python -m inference.sweep --model vae --over z-dim=2,10 --over lr=1e-3,1e-4 --data digits --steps 500
python -m inference.sweep --model vae --over 'lr=log(1e-4,1e-2)' --samples 20
python -m inference.sweep --model vae --over 'z-dim=int(2,50)' --samples 20 --search optuna --validation 0.1
python -m inference.sweep --model vae --over z-dim=2,10 --address HOST:PORT      on the machines of a cluster

Every other option of inference.svi is passed on. The same command continues a sweep that was stopped.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
import itertools
import json
import os
import sys
from contextlib import nullcontext, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

from inference.backend.files import write_whole
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError
from inference.html import index
from inference.plots.sweep import draw, over_seeds, table
from inference.rundir.kinds import COUNT, SEED, Kind, is_number
from inference.tuning.plan import TRAINING, Job, Plan, make_plan
from inference.tuning.space import parse_over
from ppl_models import MODELS

GPUS = Kind("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1, float)
# Ray reads these when it is imported.
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # also for a cluster: no machine joins without its token
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's new behaviour, without a warning
    "RAY_AIR_NEW_OUTPUT": "0",  # the sweep prints its own lines
    "RAY_worker_niceness": "0",  # the priority of the direct command
    "RAY_raylet_start_wait_time_s": "120",  # on a busy machine Ray does not start in 30 s
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run writes its own files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep has its own
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a run that failed has no metric
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the sweep prints one line
}


def main(arguments: list[str]) -> int:
    """Runs the sweep. Returns the exit status: 0, 1 if a run failed, 130 if stopped."""
    as_json = "--json" in arguments
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        status = sweep(planned := plan(arguments))
    if as_json and status != 130:
        content = (planned.asked.out / "results.json").read_bytes()
        print(json.dumps({"results": json.loads(content)}, indent=2))
    return status


def plan(arguments: list[str]) -> Plan:
    """Returns the options and the runs of a sweep. Raises UserError if one of them could not start."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a sweep is one process, and Ray starts its runs: start it without torchrun")
    return make_plan(*options(arguments))


def options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of a sweep, and those that are passed on. Raises UserError for a wrong value."""
    parser = Parser(prog="python -m inference.sweep", description=__doc__)
    add = parser.add_argument
    add("--model", metavar="NAME", help=f"the model: {', '.join(MODELS)}")
    about = f"an option of the model, or {', '.join(TRAINING)}, with its values; repeat it for a product. "
    about += "With --samples also uniform(LOW,HIGH), log(LOW,HIGH) or int(LOW,HIGH)"
    add("--over", action="append", type=parse_over, required=True, metavar="KEY=VALUE,VALUE", help=about)
    about = "number of settings to sample (default: every combination)"
    add("--samples", type=COUNT.parse, metavar="N", help=about)
    about = "with --samples: random (default), or optuna, which learns from the runs before"
    add("--search", choices=("random", "optuna"), help=about)
    about = "seeds of each setting (default: 0,1,2; with optuna 0); the first is also that of the search"
    add("--seeds", type=_seeds, metavar="N,N", help=about)
    about = "stop runs early that are worse than others after as many steps, on the validation data"
    add("--asha", action="store_true", help=about)
    about = "cores of a run, and its threads (default: an eighth of the machine's cores, at least one)"
    add("--cpus", type=COUNT.parse, metavar="N", help=about)
    about = "GPUs of a run, from 0 to 1; 0.25 lets four runs share one (default: 1 if there are GPUs)"
    add("--gpus", type=GPUS.parse, metavar="N", help=about)
    add("--address", metavar="HOST:PORT", help="Ray cluster whose machines run the sweep (default: this one)")
    add("--out", type=Path, metavar="DIR", help="folder of the sweep (default: runs/sweeps/<model>-<keys>)")
    add("--json", action="store_true", help="print the results as JSON; other output goes to stderr")
    return parser.parse_known_args(arguments)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [SEED.parse(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text} is not a list of seeds such as 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} names a seed twice: give each once")
    return seeds


def sweep(plan: Plan) -> int:
    """Runs what is not done, and writes the results. Returns the exit status."""
    out, stages = plan.asked.out, {job.name: plan.stage(job) for job in plan.jobs.values()}
    for name, stage in stages.items():
        if stage in ("done", "stopped"):
            print(f"{name} is already {stage if stage == 'done' else 'stopped by ASHA'}: skipped")
    begin = len(stages) < plan.count or {"new", "started"} & set(stages.values())
    if begin:
        check_packages()
    try:
        out.mkdir(parents=True, exist_ok=True)
        plan.state.write()
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): name another with --out") from None
    stopped, failed = run_trials(plan) if begin else (False, [])
    if stopped:
        done = sum(bool(job.test()) for job in plan.jobs.values())
        print(f"stopped with {done} of {plan.count} runs done. The same command continues.")
        return 130
    summarise(plan)
    if failed:
        print(f"failed: {', '.join(failed)}. The same command resumes them.")
    return 1 if failed else 0


def check_packages() -> None:
    """Raises UserError if Ray or Optuna is not installed."""
    if not (find_spec("ray") and find_spec("optuna")):
        raise UserError('a sweep needs Ray Tune and Optuna. Install them: pip install "ppl-models[sweep]"')


def run_trials(plan: Plan) -> tuple[bool, list[str]]:
    """Runs a sweep on Ray Tune, see `inference.tuning.engine.run_sweep`."""
    os.environ.update(RAY_ENVIRONMENT)
    if plan.asked.address:  # Ray does not document this: a wrong token is refused after 3 s instead of 20
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    from inference.tuning.engine import run_sweep

    return run_sweep(plan)


def summarise(plan: Plan) -> None:
    """Writes results.json, table.md and sweep.png of the runs that are done, and prints the table."""
    out = plan.asked.out
    grouped = itertools.groupby(plan.jobs.values(), key=lambda job: job.over)
    rows = [(over, [job for job in of_value if job.test()]) for over, of_value in grouped]
    results = []
    for over, done in rows:
        tests = over_seeds([job.test() for job in done])
        results.append({"over": over, "seeds": [job.config.seed for job in done], "test": tests})
    write_whole(out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    write_whole(out / "table.md", (table(results) + "\n").encode())
    print(f"\n{table(results)}\n")
    complete = [(over, done) for over, done in rows if len(done) == len(plan.asked.seeds)]
    if plan.metric and complete:
        _print_best(plan, {done[0].folder.parent.name: done for _, done in complete})
    drawn = draw(
        {done[0].folder: over for over, done in rows if done}, out / "sweep.png", plan.asked.data_dir
    )
    print(f"{'table.md, results.json and sweep.png' if drawn else 'table.md and results.json'}: {out}")
    print(index.write(out))


def _print_best(plan: Plan, runs: dict[str, list[Job]]) -> None:
    """Prints the setting with the best validation metric, a mean over the seeds."""
    values = {
        name: mean(job.results()["validation"][plan.metric]["value"] for job in done)
        for name, done in runs.items()
    }
    best = (max if plan.mode == "max" else min)(values, key=lambda name: values[name])
    print(f"best {plan.metric} on the validation data: {values[best]:.4g} with {best}")


if __name__ == "__main__":
    run_command(main)
