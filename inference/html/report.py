"""Reports of runs: report.html, one file that needs no network."""

import os
import shlex
import sys
from pathlib import Path
from urllib.parse import quote

import torch
from markupsafe import Markup

from inference.backend.device import rng_state_preserved
from inference.backend.files import write_whole
from inference.data.dataset import Dataset
from inference.errors import UserError
from inference.html import explorer
from inference.html.curves import curves
from inference.html.diagnostics import diagnostics
from inference.html.formatting import HEADLINES, brief, count, exact, label, unit
from inference.html.page import page, part, section
from inference.html.result_sections import comparison, results_with_references
from inference.html.sections import ReportData, diagram, figures, reproduction, training
from inference.rundir.checkpoint import evaluation_state
from inference.rundir.restore import load_data
from inference.rundir.run import Run
from inference.rundir.schema import other_version
from inference.training.setup import check_size
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from ppl_models.registry import description

NAME = "report.html"
SIZE = 4_900_000  # bytes of a report without its style and script


def stages_in(folder: Path) -> list[Path]:
    """Returns the runs inside a run folder, such as that of a code prior; a linked folder is not followed."""
    return sorted(path.parent for path in folder.glob("*/config.json") if not path.parent.is_symlink())


def write_after_training(run: Run, data: Dataset, data_dir: Path | None = None) -> int:
    """Writes the report at the end of training, and updates that of the first stage if there is one.

    The report of the first stage is left unchanged if another command holds its folder. If the folder cannot
    be written to, or a report cannot be made, prints why; training has succeeded all the same.

    Args:
        run: the run, which the caller holds.
        data: the data set that the model was trained on.
        data_dir: where the data set of the first stage is; by default where that run found it.

    Returns:
        The exit status: 1 if the folder cannot be written to, else 0.
    """

    def write_both() -> None:
        update(run.folder, data)
        first = run.folder.parent
        if (first / NAME).exists():
            try:
                with Run.open(first):
                    update(first, None, data_dir)
            except UserError as error:
                print(f"warning: {first / NAME} is left unchanged: {error}", file=sys.stderr)

    if run.save(write_both):
        return 0
    again = f"python -m inference.report {shlex.quote(str(run.folder))}"
    words = f"cannot write the report into {run.folder} ({run.last_write_error})"
    print(f"error: {words}. Free some space, then run: {again}", file=sys.stderr)
    return 1


def update(folder: Path, data: Dataset | None, data_dir: Path | None = None) -> None:
    """Writes the report of a run after a command that has done its own work.

    Prints to standard error, because standard output belongs to the command. If the report cannot be made,
    prints a warning.

    Args:
        folder: the run folder.
        data: the data set of the run; loaded if it is None.
        data_dir: where the data set is; by default where the run found it.

    Raises:
        OSError: the folder cannot be written to.
    """
    try:
        write(gather(folder, data_dir, data))
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        again = f"python -m inference.report {shlex.quote(str(folder))}"
        print(f"warning: {folder} has no report ({reason:.200}). Try: {again}", file=sys.stderr)
    else:
        print(f"report: {folder / NAME}", file=sys.stderr)


@rng_state_preserved()
def gather(folder: Path, data_dir: Path | None = None, data: Dataset | None = None) -> ReportData:
    """Reads all data of a run that its report shows. Preserves the RNG state.

    Args:
        folder: the run folder.
        data_dir: where the data set is; by default where the run found it.
        data: the data set, if the caller has it.

    Raises:
        UserError: the run is damaged, or has no metrics yet.
    """
    run = Run.open(folder)
    config, metrics, missing = run.config, run.read_metrics(), ""
    if not config.shape:
        raise other_version(f"{folder / 'config.json'} has no 'shape'", config)
    if not metrics:
        raise UserError(f"{folder} has no metrics to report yet. Continue the run with --resume first.")
    model = _build(run)
    untrained = _load_parameters(run, model)
    finished = run.finished(metrics[-1]["step"])
    if data is None:
        try:
            data = load_data(run, data_dir).padded(type(model))
        except UserError as error:
            missing = str(error)
    results = run.results() if finished else None
    return ReportData(run, metrics, results, model.eval(), untrained, data, missing)


def _build(run: Run) -> LatentVariableModel:
    """Returns the untrained model of a run. Raises UserError if its configuration does not fit."""
    config, cls = run.config, MODELS[run.config.model]
    try:
        shape = cls.padded(tuple(config.shape))
        y = torch.arange(config.classes) if config.classes else None
        empty = Dataset("", torch.empty(0, *shape), y, torch.empty(0), None)
        check_size(cls, empty, config, torch.device("cpu"))
        return cls(shape, config.classes, **config.options)
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{run.folder}: cannot build {config.model}: {reason:.200}") from None


def _load_parameters(run: Run, model: LatentVariableModel) -> str:
    """Loads the parameters of a run into its model. Returns why that is impossible, or an empty string."""
    try:
        state = run.load_checkpoint()
        if not state:
            return f"{run.folder} has no checkpoint.pt yet"
        model.load_state_dict(evaluation_state(state))
    except UserError as error:
        return str(error)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        words = f"{run.folder}: checkpoint.pt does not fit {run.config.model}"
        return str(other_version(words, run.config))
    return ""


def write(it: ReportData) -> None:
    """Writes the report into the run folder, whole or not at all. Raises OSError if that fails."""
    write_whole(it.run.folder / NAME, html(it).encode(errors="replace"))  # file names may not be valid text


@rng_state_preserved()
def html(it: ReportData) -> str:
    """Returns the report as an HTML page. Preserves the RNG state."""
    config = it.run.config
    explored = Markup() if it.untrained or it.data is None else explorer.section(it.data, it.model)
    explored = explored if len(explored) < 0.8 * SIZE else Markup()
    contents = {
        "training": ("Training", training(it)),
        "diagram": ("Model and guide", diagram(it)),
        "results": ("Results", results_with_references(it)),
        "diagnostics": ("Diagnostics", diagnostics(it)),
        "curves": ("Curves", curves(it.metrics, it.what)),
        "figures": ("Figures", Markup()),
        "explorer": ("Latent explorer", explored),
        "comparison": ("Comparison with Pyro", comparison(it)),
        "reproduction": ("Reproduce this run", reproduction(it)),
    }
    # Figures get the remaining bytes, because they can be made smaller.
    used = sum(len(inside.encode(errors="replace")) for _, inside in contents.values())
    contents["figures"] = ("Figures", figures(it.run.figures, max(SIZE - used, SIZE // 10)))
    contents = {name: (words, inside) for name, (words, inside) in contents.items() if inside}
    title = f"{config.model} on {Path(config.data).name}, seed {config.seed}"
    body = part(
        "report",
        title=title,
        about=description(type(it.model)),
        stages=_stages(it.run.folder),
        unfinished=_unfinished(it),
        headlines=_headlines(it),
        contents=[(name, words) for name, (words, _) in contents.items()],
        sections=[
            inside if name == "explorer" else section(name, words, inside)
            for name, (words, inside) in contents.items()
        ],
    )
    return page(title, body, ["curves.js", *(explorer.SCRIPTS if explored else ())])


def _stages(folder: Path) -> list[tuple[str, str]]:
    """Returns links to the other runs of a system that is trained in two stages, and their texts."""
    found = [
        (f"./{quote(os.fsencode(path.name))}/{NAME}", f"the prior of its codes, {path.name}")
        for path in stages_in(folder)
    ]
    if (folder.parent / "config.json").exists():
        found.append((f"../{NAME}", "the first stage, which encodes images to these codes"))
    return found


def _unfinished(it: ReportData) -> dict[str, str]:
    """Returns the progress of an unfinished run and the command that resumes it."""
    if it.results:
        return {}
    at = f"step {count(it.metrics[-1]['step'])} of {count(it.run.config.steps)}"
    return {"at": at, "command": f"python -m inference.svi --resume {shlex.quote(str(it.run.folder))}"}


def _headlines(it: ReportData) -> list[tuple[str, Markup, str]]:
    """Returns the main metrics of a finished run: name, value and unit."""
    test = it.results["test"] if it.results else {}
    return [
        (
            label(name),
            exact(brief(name, test[name]), test[name]["value"]),  # ends with "%" if the unit is "%"
            unit(name, it.what).removesuffix("%"),
        )
        for name in HEADLINES
        if name in test
    ]
