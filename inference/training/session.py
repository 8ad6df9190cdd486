"""A training in a run folder: new or resumed, with metrics, checkpoints and results written into it."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference.backend import distributed
from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from inference.errors import TrainingDiverged, UserError
from inference.metrics.bounds import evaluate_bounds
from inference.metrics.codes import active_units
from inference.rundir import schema
from inference.rundir.checkpoint import evaluation_state
from inference.rundir.provenance import provenance
from inference.rundir.read_only import ReadOnlyRun
from inference.rundir.restore import load_data
from inference.rundir.run import Run
from inference.rundir.run_config import RunConfig, data_name, upgraded, with_steps
from inference.training.callbacks import Callback, RunRecorder
from inference.training.loop import Loop
from inference.training.progress import Progress, StopSignals
from inference.training.setup import prepare
from inference.training.tensorboard import TensorBoard
from ppl_models.base import LatentVariableModel

LOCAL = (
    "command",
    "data_dir",
    "stage1_run",
    "init_from",
    "format",
    "vocabulary",
)  # keys of config.json that results.json leaves out

# Keys of config.json that say where and by which version a run was started.
SET_AT_START = {"command", "versions", "gpu", "platform", "threads", "processes", "commit", "format"}


@dataclass
class Session:
    """A run that is trained: its folder, model, batches and data, and the state that it resumes from."""

    run: Run
    model: LatentVariableModel
    batches: Batches
    data: Dataset
    test: HeldOut
    state: dict[str, Any] | None = None

    @property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        return self.run.config

    @property
    def held_out(self) -> dict[str, HeldOut]:
        """The data for evaluation by name: test, validation and independent, as far as there are."""
        return ({"test": self.test} if len(self.test) else {}) | self.test.others


def start(
    on_exit: ExitStack,
    config: RunConfig,
    data: Dataset,
    folder: Path | None,
    model: LatentVariableModel | None = None,
) -> Session:
    """Creates the folder of a new run.

    Args:
        on_exit: releases the folder's lock.
        config: of the run, without provenance.
        data: the data set, with its validation part.
        folder: of the run; by default runs/<model>/<time>-<seed>.
        model: the model to train; by default a new one.

    Raises:
        UserError: the run cannot start.
    """
    model, batches, data = prepare(config, data, model)
    test = HeldOut(data, config.model_class, batches.device)
    config = replace(config, labelled=batches.labels.tolist(), **provenance(distributed.world_size()))
    run = None if distributed.rank() else on_exit.enter_context(Run.create(folder, config))
    named = distributed.all_gather(run and run.folder)[0]
    return Session(run or ReadOnlyRun(named, config), model, batches, data, test)


def was_started(folder: Path, config: RunConfig) -> bool:
    """Returns whether torchrun has restarted a run: its folder holds the run with the same configuration.

    Args:
        folder: of the run.
        config: of the run, without provenance.

    Raises:
        UserError: torchrun has restarted the processes, and the folder holds a run with other settings.
    """

    def differing() -> list[str] | None:
        if not distributed.was_restarted() or not (folder / "config.json").exists():
            return None
        kept, new = Run.open(folder).config.to_json(), json.loads(json.dumps(config.to_json()))
        compared = (kept.keys() | new.keys()) - SET_AT_START - ({"labelled"} - new.keys())
        return sorted(key for key in compared if kept.get(key) != new.get(key))

    names = distributed.broadcast_from_main(differing)
    if names:
        raise UserError(
            f"{folder} holds a run with another {', '.join(names)}. Name another folder with --run-dir."
        )
    return names is not None


def resume(
    on_exit: ExitStack,
    folder: Path,
    *,
    steps: int | None = None,
    device: str | None = None,
    data_dir: Path | None = None,
    data: Dataset | None = None,
) -> Session:
    """Opens a run to continue it.

    Args:
        on_exit: releases the folder's lock.
        folder: of the run.
        steps: the new number of steps, if it changes.
        device: the new device, if it changes.
        data_dir: the folder of named data sets, if it changed.
        data: the data set, with its validation part; by default it is loaded.

    Raises:
        UserError: the run cannot be resumed.
    """
    kind = ReadOnlyRun if distributed.rank() else Run
    run = on_exit.enter_context(kind.open(folder))
    state, config = run.load_checkpoint(), run.config
    if steps:
        config = with_steps(config, steps)
    if state and config.steps < state["step"]:
        raise UserError(f"{folder} is at step {state['step']} already. Give --steps {state['step']} or more.")
    if not state or state["step"] < config.steps:
        config.check_warmup()
    run.config = config = replace(config, device=device or config.device)
    model, batches, data = prepare(config, data or load_data(run, data_dir))
    if state:
        try:
            for parameters in (evaluation_state(state), state["parameters"]):  # both must fit
                model.load_state_dict(parameters)
        except (AttributeError, TypeError, ValueError, RuntimeError):
            raise schema.other_version(f"{folder}: checkpoint.pt does not fit config.json", config) from None
    test = HeldOut(data, config.model_class, batches.device)
    run.truncate_metrics_after(state["step"] if state else -1)
    run.write("config.json", config.to_json())
    return Session(run, model, batches, data, test, state)


def train(
    session: Session, callbacks: Sequence[Callback] = (), progress: bool = True
) -> tuple[Loop, RunRecorder]:
    """Trains a session's model in its run folder, until its last step or a signal to stop.

    Args:
        session: of the run.
        callbacks: further callbacks.
        progress: whether to show progress.

    Returns:
        The loop, and what it has recorded.

    Raises:
        TrainingDiverged: training diverged.
        UserError: the checkpoint does not fit the model.
    """
    run, config = session.run, session.config
    recorder, shown = RunRecorder(run), Progress(config.steps, quiet=not progress or distributed.rank() > 0)
    events = [TensorBoard(run.folder / "tensorboard")] if config.log and not distributed.rank() else []
    with StopSignals() as asked, shown:
        loop = Loop(
            session.model,
            session.batches,
            session.held_out,
            config,
            [recorder, shown, *events, *callbacks],
            say=shown.say,
            stop=lambda: bool(asked),
        )
        if session.state:
            loop.load_state_dict(session.state)
        shown.start(loop.step)
        try:
            loop.run()
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}. {run.folder} keeps its last good checkpoint.") from None
    return loop, recorder


def final_results(session: Session, loop: Loop, model: LatentVariableModel) -> dict[str, Any]:
    """Evaluates a trained model on all held-out data, with several samples of the latents per data point.

    Args:
        session: of the run.
        loop: which has trained the model.
        model: the model that evaluation uses, see `Loop.final_model`.

    Returns:
        The content of results.json.
    """
    config = session.config
    samples = OBSERVATIONS[model.observation].data.samples
    final = {name: evaluate_bounds(model, part, samples) for name, part in session.held_out.items()}
    settings = {key: value for key, value in config.to_json().items() if key not in LOCAL}
    settings = upgraded(settings) | {"data": data_name(config)}
    results = {key: settings[key] for key in ("model", "data", "observation", "steps", "seed")}
    results |= {"seconds": loop.seconds, "device": str(loop.device), "skipped": loop.skipped}
    results |= {"config": settings, "test": {}, **final}
    results |= {"best": loop.selection.best()} if config.select else {}
    results |= {"stopped_early": loop.step} if loop.step < config.steps else {}
    units = active_units(model, session.test) if len(session.test) else None
    return results | ({} if units is None else {"active_units": units})
