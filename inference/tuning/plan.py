"""The runs of a sweep, checked before one of them starts."""

import argparse
import itertools
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from inference.backend.device import choose_device
from inference.cli.train import configuration, parse, read_data
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.errors import UserError, unknown
from inference.metrics.bounds import evaluate_bounds
from inference.rundir.config import TrainConfig, as_text, flag
from inference.rundir.folders import is_used
from inference.rundir.run import Run
from inference.rundir.run_config import MODEL_FILES, RunConfig, model_argument
from inference.training.selection import HIGHER_IS_BETTER
from inference.training.setup import prepare
from inference.tuning.space import Point, Range, Values, corners, sample_points
from inference.tuning.state import State
from ppl_models import MODELS

TRAINING = ("lr", "batch_size", "steps", "particles")  # settings that can be swept, with a model's options
OWN = ("--seed", "--run-dir", "--resume")  # options of a run that the sweep sets


class Job(NamedTuple):
    """One run of a sweep."""

    over: dict[str, Any]  # the settings that are swept
    folder: Path
    config: RunConfig  # without provenance
    start: list[str]  # the arguments of inference.svi that start it
    resume: list[str]  # and those that resume it

    @property
    def name(self) -> str:
        """The values and the seed, such as `beta=1/seed=0`."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def results(self) -> dict[str, Any]:
        """Returns the content of results.json; empty if the run is not done."""
        path = self.folder / "results.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    def test(self) -> dict[str, dict[str, float]]:
        """Returns the metrics on the test set; none if the run is not done."""
        return self.results().get("test", {})


@dataclass
class Plan:
    """A sweep.

    Attributes:
        asked: the options of the sweep.
        rest: the options of inference.svi that are passed on.
        data: the data set.
        space: the values of each setting.
        jobs: the runs by folder. Optuna adds more.
        begun: with Optuna, the values of the runs in the folder.
        metric: of the validation data, by which ASHA and Optuna compare runs; "" if neither does.
        steps: of a run, with ASHA.
        state: what the run folders do not say.
    """

    asked: argparse.Namespace
    rest: list[str]
    data: Dataset
    space: dict[str, Values]
    jobs: dict[Path, Job] = field(default_factory=dict)
    begun: list[dict[str, Any]] = field(default_factory=list)
    metric: str = ""
    steps: int = 0
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.state = State(self.asked.out)

    @property
    def mode(self) -> str:
        """Whether a better value of the metric is a "min" or a "max"."""
        return "max" if self.metric in HIGHER_IS_BETTER else "min"

    @property
    def count(self) -> int:
        """The number of runs, those that Optuna has yet to suggest included."""
        return max(len(self.jobs), self.asked.samples if self.asked.search == "optuna" else 0)

    def jobs_of(self, point: Point) -> list[Job]:
        """Returns the runs of a point, one per seed.

        Raises:
            UserError: the settings do not go together.
        """
        typed = [f"{flag(key)}={text}" for key, text in point.items()]
        given = parse(["--model", self.asked.model, *self.rest, *typed])
        config, over = configuration(given, self.data), {key: getattr(given, key) for key in point}
        named = ["--model", model_argument(self.asked.model)]
        chosen = [] if "data" in given else ["--data", self.data.name]  # the same for all runs
        elsewhere = [f"{flag(key)}={vars(given)[key]}" for key in ("data_dir", "device") if key in given]
        value = ",".join(f"{key}={as_text(value)}" for key, value in over.items())
        found = []
        for seed in self.asked.seeds:
            folder = self.asked.out / value / f"seed={seed}"
            start = [*named, *typed, *self.rest, *chosen, "--seed", str(seed), "--run-dir", str(folder)]
            resume = [
                "--resume",
                str(folder),
                *(named if self.asked.model in MODEL_FILES else []),
                *elsewhere,
            ]
            found.append(Job(over, folder, replace(config, seed=seed), start, resume))
        return found

    def add(self, point: Point) -> list[Job]:
        """Adds the runs of a point to the sweep, and returns them."""
        found = self.jobs_of(point)
        self.jobs |= {job.folder: job for job in found}
        return found

    def stage(self, job: Job) -> str:
        """Returns how far a run is: "new", "started", "stopped" by ASHA or "done".

        Raises:
            UserError: the folder is something else, or a run with other settings.
        """
        if not job.folder.exists() or not is_used(job.folder):
            return "new"
        if not (job.folder / "config.json").exists():
            raise UserError(f"{job.folder} is not a run of a sweep. Move it, or name another with --out.")
        found = Run.open(job.folder).config
        compared = ["model", "data", "checksum", "validation", "labelled_file"]
        compared += [spec.name for spec in fields(TrainConfig) if spec.name != "eval_every"]
        wanted = {name: (getattr(found, name), getattr(job.config, name)) for name in compared}
        wanted |= {name: (found.options.get(name), value) for name, value in job.config.options.items()}
        for name, (was, value) in wanted.items():
            if was != value:
                raise UserError(
                    f"{job.folder} is a run with {name} {was}, not {value}. Name another with --out."
                )
        if (job.folder / "results.json").exists():
            return "done"
        return "stopped" if self.asked.asha and job.name in self.state.stopped else "started"


def make_plan(asked: argparse.Namespace, rest: list[str]) -> Plan:
    """Returns the runs of a sweep.

    Args:
        asked: the options of the sweep.
        rest: the options of inference.svi that are passed on.

    Raises:
        UserError: a run could not start.
    """
    model = ["--model", asked.model] if asked.model else []
    parse(model)
    space = _space(asked, rest)
    asked.out = asked.out or Path("runs", "sweeps", "-".join([asked.model, *space]))
    if (asked.out / "config.json").exists():
        raise UserError(f"{asked.out} is the folder of a single run: name another with --out")
    points = _points(asked, space)
    typed = [[f"{flag(key)}={text}" for key, text in point.items()] for point in points]
    given, *_ = [parse([*model, *rest, *arguments]) for arguments in typed]
    asked.data_dir, asked.device = getattr(given, "data_dir", None), getattr(given, "device", "auto")
    data, line = read_data(given)
    if line:
        print(line)
    plan = Plan(asked, rest, data, space)
    for point in points:
        first, *others = plan.jobs_of(point)
        if first.folder in plan.jobs:
            raise UserError(f"{first.folder.parent.name} is in the grid twice: give each value once")
        _check(plan, first)
        plan.jobs |= {job.folder: job for job in (first, *others)}
    if asked.search == "optuna":  # the points above are only checked
        plan.jobs = {}
        plan.begun = _begun(plan)
    return plan


def _space(asked: argparse.Namespace, rest: list[str]) -> dict[str, Values]:
    """Returns the values of each setting.

    Raises:
        UserError: a setting cannot be swept, or options do not go together.
    """
    known = [*MODELS[asked.model].options(), *TRAINING]
    keys = [key for key, _ in asked.over]
    for key in keys:
        if key not in known:
            raise unknown(f"setting of {asked.model}", key, known)
        if keys.count(key) > 1:
            raise UserError(f"{key} is swept twice: give all its values in one --over")
    for own in (*OWN, *map(flag, keys)):
        if own in {argument.partition("=")[0] for argument in rest}:
            raise UserError(f"{own} cannot be passed on, the sweep sets it for each run: leave it out")
    for key, values in asked.over:
        if isinstance(values, Range) and not asked.samples:
            raise UserError(f"{key} has a range: give the number of settings with --samples")
    if asked.search and not asked.samples:
        raise UserError("--search samples settings: give their number with --samples")
    if asked.asha and "steps" in keys:
        raise UserError("--asha compares runs after the same number of steps: do not sweep steps")
    if asked.seeds is None:
        asked.seeds = [0] if asked.search == "optuna" else [0, 1, 2]
    if asked.search == "optuna" and len(asked.seeds) > 1:
        raise UserError("--search optuna compares single runs: give one seed")
    return dict(asked.over)


def _points(asked: argparse.Namespace, space: dict[str, Values]) -> list[Point]:
    """The points of a grid or a random search; with Optuna those at the ends of the ranges."""
    if asked.search == "optuna":
        return corners(space)
    if asked.samples:
        return sample_points(space, asked.samples, asked.seeds[0])
    lists = [values for values in space.values() if not isinstance(values, Range)]  # all of them
    return [dict(zip(space, texts, strict=True)) for texts in itertools.product(*lists)]


def _check(plan: Plan, job: Job) -> None:
    """Checks that a run can start, and finds the metric by which ASHA and Optuna compare runs.

    Raises:
        UserError: it cannot.
    """
    if not plan.asked.address:  # else the runs use the devices of other machines
        choose_device(job.config.device)
    on_cpu = replace(job.config, device="cpu")  # the runs use the GPUs, not this process
    model, batches, data = prepare(on_cpu, plan.data.with_validation(job.config.validation, job.config.seed))
    options = {"--asha": plan.asked.asha, "--search optuna": plan.asked.search == "optuna"}
    option = next((option for option, given in options.items() if given), None)
    if not option or plan.metric:
        return
    if data.x_valid is None:
        raise UserError(
            f"{option} compares runs by validation data, and there are none. The test set would bias the "
            "results. Give --validation 0.1."
        )
    y = None if data.y_valid is None else data.y_valid[:2]
    few = HeldOut(replace(data, x_test=data.x_valid[:2], y_test=y, x_valid=None), type(model), batches.device)
    plan.metric, plan.steps = job.config.metric or next(iter(evaluate_bounds(model, few))), job.config.steps


def _begun(plan: Plan) -> list[dict[str, Any]]:
    """Returns the values of the runs in the folder of a search, and adds these runs.

    Raises:
        UserError: a run has other settings than the sweep.
    """
    found = []
    for path in sorted(plan.asked.out.glob(f"*/seed={plan.asked.seeds[0]}/config.json")):
        config = Run.open(path.parent).config
        values = {key: config.options.get(key, getattr(config, key, None)) for key in plan.space}
        point = {key: _text_in(plan, key, value) for key, value in values.items()}
        if None in point.values() or plan.jobs_of(point)[0].folder != path.parent:
            continue  # a run of another sweep in the same folder
        (job,) = plan.add(point)
        plan.stage(job)
        ranges = {key for key, values in plan.space.items() if isinstance(values, Range)}
        found.append({key: values[key] if key in ranges else text for key, text in point.items()})
    return found


def _text_in(plan: Plan, key: str, value: Any) -> Any:
    """The text of a value of a run, as the space has it; None if it is not in the space."""
    values = plan.space[key]
    if isinstance(values, Range):
        inside = isinstance(value, int | float) and values.low <= value <= values.high
        return values.text(value) if inside else None
    model = ["--model", plan.asked.model]
    same = (text for text in values if getattr(parse([*model, f"{flag(key)}={text}"]), key) == value)
    return next(same, None)
