"""`fit`, and the training of a run to its end."""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from inference.backend import distributed
from inference.backend.device import choose_device, fast_float32, rng_state_preserved
from inference.data.convert import as_dataset
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from inference.errors import UserError, unknown
from inference.html import report
from inference.plots.images import save_images
from inference.plots.run_figures import draw_all
from inference.rundir.config import TrainConfig
from inference.rundir.run_config import IN_MEMORY, MODEL_FILES, RunConfig
from inference.training import session
from inference.training.callbacks import Callback, History
from inference.training.code_prior import sample_images
from inference.training.loop import Loop
from inference.training.progress import Progress, StopSignals, table
from inference.training.selection import check_metric
from inference.training.session import Session
from inference.training.setup import check_training, check_values, initialize, prepare_batches
from ppl_models.base import LatentVariableModel

CODE_SAMPLES = 100  # images in the figure of a prior of codes


class Outcome(NamedTuple):
    """How a training in a run folder ended: the exit status, and what it measured."""

    status: int
    history: History


def fit(
    model: LatentVariableModel,
    train: Any,
    *,
    validation: Any = None,
    config: TrainConfig | None = None,
    callbacks: Sequence[Callback] = (),
    run_dir: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> History:
    """Trains a model.

    The model is trained in place and returned to its mode. Pyro's parameter store and torch's settings are
    preserved. Ctrl-C stops training after the current step and raises KeyboardInterrupt.

    Args:
        model: the model.
        train: training data: a tensor or an array x, a pair (x, y), a torch `Dataset` or `DataLoader`, or a
            `Dataset` of `inference.data`. Images are uint8 levels, or floats from 0 to 1 or 0 to 255.
        validation: data for evaluation during training, in one of the same forms.
        config: the settings; by default those of the model.
        callbacks: objects with methods of `Callback`.
        run_dir: folder to write configuration, metrics, checkpoints, results, figures and a report into.
        device: "auto", "cpu" or "cuda".
        progress: whether to show a progress bar.
        settings: fields of `TrainConfig`, which win over `config`, such as `steps=5_000` or `lr=1e-4`.

    Returns:
        The measurements: training batches every 100 steps, validation data 20 times.

    Raises:
        UserError: a setting or the data cannot be used.
        TrainingDiverged: the loss or its gradient is not finite.

    Example:
        >>> from inference import fit
        >>> from inference.data import load_dataset
        >>> from ppl_models import VAE
        >>> model = VAE((1, 8, 8), z_dim=2, hidden=16)
        >>> history = fit(model, load_dataset("digits"), steps=20, progress=False)
        >>> history.metrics[-1]["step"]
        20
    """
    data = as_dataset(train, validation, model=model, name=IN_MEMORY)
    resolved = _resolved(model, data, config, settings)
    if resolved.metric and not isinstance(train, Dataset):  # the user's validation data are not a test set
        none = None if data.y_test is None else data.y_test[:0]
        data = replace(data, x_valid=data.x_test, y_valid=data.y_test, x_test=data.x_test[:0], y_test=none)
    if run_dir is not None:
        return _fit_in_folder(model, data, resolved, callbacks, Path(run_dir), device, progress)
    return _fit_in_memory(model, data, resolved, callbacks, device, progress)


def _resolved(
    model: LatentVariableModel, data: Dataset, config: TrainConfig | None, settings: dict[str, Any]
) -> TrainConfig:
    """The settings of `fit` with the defaults of the model."""
    cls, known = type(model), {spec.name for spec in fields(TrainConfig)}
    for name in settings.keys() - known:
        raise unknown("setting", name, sorted(known))
    given = {name: getattr(config, name) for name in known if config and getattr(config, name) is not None}
    try:
        shape = cls.padded(data.shape)
    except ValueError as error:
        raise UserError(f"the data are {error}") from None
    resolved = TrainConfig(**given | settings).resolved(cls, shape)
    if shape != model.shape:
        raise UserError(
            f"the data have shape {data.shape}, and the model is built for {model.shape}. Build it for the "
            f"data: {cls.__name__}({shape}, ...)."
        )
    return resolved


@rng_state_preserved()
def _fit_in_memory(
    model: LatentVariableModel,
    data: Dataset,
    settings: TrainConfig,
    callbacks: Sequence[Callback],
    device: str,
    progress: bool,
) -> History:
    """`fit` without a run folder."""
    cls, where = type(model), choose_device(device)
    if settings.log:
        raise UserError(f"log={settings.log!r} writes into a run folder. Give run_dir.")
    batches, data = prepare_batches(cls, model.constructor_options, settings, data, where)
    model.to(where)
    try:
        check_training(model, settings)
        check_values(model, data)
    except ValueError as error:
        raise UserError(str(error)) from None
    check_metric(settings, model, data, where)
    initialize(model, batches)
    test = HeldOut(data, cls, where)
    held_out = ({"validation": test} if len(test) else {}) | test.others
    history, shown = History(), Progress(settings.steps, quiet=not progress)
    torch.manual_seed(settings.seed)
    with StopSignals() as asked, shown, fast_float32(where):
        loop = Loop(
            model,
            batches,
            held_out,
            settings,
            [history, shown, *callbacks],
            say=shown.say,
            stop=lambda: bool(asked),
        )
        loop.run()
    if asked:
        raise KeyboardInterrupt
    if settings.select:
        model.load_state_dict(loop.selection.parameters)
    return history


@rng_state_preserved()
def _fit_in_folder(
    model: LatentVariableModel,
    data: Dataset,
    settings: TrainConfig,
    callbacks: Sequence[Callback],
    folder: Path,
    device: str,
    progress: bool,
) -> History:
    """`fit` with a run folder."""
    cls = type(model)
    if cls.registered_name is None:
        raise UserError(
            f"{cls.__name__} is not registered. Call ppl_models.register('a_name', {cls.__name__})."
        )
    config = RunConfig(
        **{spec.name: getattr(settings, spec.name) for spec in fields(TrainConfig)},
        model=cls.registered_name,
        options=model.constructor_options,
        data=data.name,
        data_dir="",
        checksum=data.checksum(),
        shape=list(data.shape),
        classes=model.classes,
        scale=data.scale,
        columns=asdict(data.columns) if data.columns else None,
        vocabulary=asdict(data.vocabulary) if data.vocabulary else None,
        class_names=data.names,
        observation=OBSERVATIONS[model.observation].label,
        device=device,
    )
    with ExitStack() as on_exit:
        started = session.start(on_exit, config, data, folder, model)
        outcome = train_session(started, callbacks, progress)
    if outcome.status == 130:
        raise KeyboardInterrupt
    return outcome.history


def train_session(
    started: Session,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    data_dir: Path | None = None,
) -> Outcome:
    """Trains a run to its end: training, results, figures and report.

    Args:
        started: the run, new or resumed.
        callbacks: further callbacks.
        progress: whether to print progress and results.
        data_dir: folder of named data sets, for the first stage of a prior.

    Returns:
        The exit status (0; 1 if the folder could not be written to; 130 if a signal stopped training) and
        the measurements.

    Raises:
        TrainingDiverged: the loss or its gradient is not finite.
        UserError: the state of a resumed run does not fit.
    """
    run, config, history = started.run, started.config, History()
    say: Callable[[str], None] = print if progress else lambda line: None
    say(describe(started))
    if started.model.note():
        say(str(started.model.note()))
    with fast_float32(started.batches.device):
        loop, recorder = session.train(started, [history, *callbacks], progress)
        again = f"python -m inference.svi --resume {shlex.quote(str(run.folder))}"
        again += f" --model {shlex.quote(MODEL_FILES[config.model])}" if config.model in MODEL_FILES else ""
        if not loop.finished:
            unsaved = "" if recorder.saved else ", and only earlier steps are saved"
            say(f"stopped at step {loop.step} of {config.steps}{unsaved}. Continue with: {again}")
            return Outcome(130, history)
        model, test = loop.final_model(), started.test
        results = session.final_results(started, loop, model)
        if run.last_write_error:
            run.save_checkpoint(recorder.state)
        if config.select:  # the checkpoint has the last parameters, from which --resume continues
            started.model.load_state_dict(loop.selection.parameters)
        if distributed.rank():
            return Outcome(0, history)
        saved = not run.last_write_error and run.save(lambda: run.write("results.json", results))
        if config.select:
            say("the parameters are those of step {step}, the best by {metric}".format(**results["best"]))
        say(table(results["test"]))
        if not (saved and run.save(lambda: draw_all(model, started.batches, test, run))):
            print(
                f"error: cannot write all results to {run.folder} ({run.last_write_error}). "
                f"Free space, then run {again}",
                file=sys.stderr,
            )
            return Outcome(1, history)
    say(f"results, curves and pictures: {run.folder}")
    if config.stage1_run:
        sampled = sample_images(run.folder, Path(config.stage1_run), CODE_SAMPLES, data_dir)
        title = f"{CODE_SAMPLES} samples: codes from the prior, decoded to mean images"
        save_images(sampled.model, sampled.images, 10, run.figures / "samples.png", title)
    return Outcome(report.write_after_training(run, started.data, data_dir), history)


def describe(started: Session) -> str:
    """Returns one line that says what is trained, on what, and where."""
    config, model, batches = started.config, started.model, started.batches
    parts = ", ".join(f"{len(part)} {name}" for name, part in started.held_out.items())
    kind = OBSERVATIONS[model.observation].data
    what = f"{kind.name} of {'x'.join(map(str, model.shape[1:]))}" if model.shape[1:] else kind.name
    count = sum(p.numel() for p in model.parameters())
    processes = distributed.world_size()
    where = f"{batches.device}" + (f", {processes} processes" if processes > 1 else "")
    return (
        f"{config.model} on {config.data}: {len(batches.x)} training, {parts} {what}, {count} parameters, "
        f"{config.elbo} estimator, {where}. Run: {started.run.folder}"
    )
