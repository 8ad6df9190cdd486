"""A report of a run in one file, report.html, that needs no network; an index of a folder of runs.

python -m inference.report RUN_DIR       RUN_DIR/report.html, and of a prior's run inside it
python -m inference.report runs/         runs/index.html, of all runs below: sorted, filtered, side by side

Training leaves a run's report by itself, and a sweep an index too; this makes them anew.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import torch
from markupsafe import Markup
from pyro.util import get_rng_state, set_rng_state

from inference.cli.options import Parser
from inference.data.datasets import Dataset
from inference.errors import UserError, run_command
from inference.html import explorer, index
from inference.html.curves import curves
from inference.html.page import HEADLINES, brief, count, exact, label, page, part, section, unit
from inference.html.sections import (
    Material,
    comparison,
    diagram,
    how_to_repeat,
    pictures,
    results_beside,
    what_was_trained,
)
from inference.rundir.files import write_whole
from inference.rundir.run import Run
from inference.rundir.schema import other_version
from inference.training.checkpoint import judged
from inference.training.setup import check_size
from ppl_models import MODELS

NAME = "report.html"
SIZE = 4_900_000  # bytes of a report, but for its style and script


def main(arguments: list[str]) -> int:
    """Write a run's report, or the index of a folder of runs, and say where it is."""
    parser = Parser(prog="python -m inference.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="RUN_DIR", help="a run, or a folder of runs")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where a run's data set is now")
    given = parser.parse_args(arguments)
    if not given.folder.is_dir():
        raise UserError(f"{given.folder} is no folder: name a run's, or one that runs are in")
    if not (given.folder / "config.json").exists():
        print(index.write(given.folder))
        return 0
    folders = [given.folder, *stages_in(given.folder)]
    with ExitStack() as held:
        for folder in folders:  # all of them, before anything is written
            held.enter_context(Run.open(folder))
        for folder in folders:
            write(gather(folder, given.data_dir))
            print(folder / NAME)
    return 0


def stages_in(folder: Path) -> list[Path]:
    """The runs in a run's folder, as of a prior; one behind a link is somebody else's."""
    return sorted(path.parent for path in folder.glob("*/config.json") if not path.parent.is_symlink())


def leave(run: Run, data: Dataset, data_dir: Path | None = None) -> int:
    """Write the report at the end of a training, whose data are at hand. Returns the exit status.

    Of a prior's run the first stage's report is made anew, for it names the other, unless another command
    holds the first stage's folder. Nothing but a folder that cannot be written to keeps a training from its
    end: then it is 1.
    """

    def both() -> None:
        renew(run.folder, data)
        first = run.folder.parent
        if (first / NAME).exists():
            try:
                with Run.open(first):
                    renew(first, None, data_dir)
            except UserError as error:
                print(f"warning: {first / NAME} is left as it is: {error}", file=sys.stderr)

    if run.save(both):
        return 0
    again = f"python -m inference.report {shlex.quote(str(run.folder))}"
    words = f"could not take its report ({run.last_write_error}): make room, and then {again}"
    print(f"error: {run.folder} {words}", file=sys.stderr)
    return 1


def renew(folder: Path, data: Dataset | None, data_dir: Path | None = None) -> None:
    """Write a run's report after a command whose own work is done: what goes wrong is a warning.

    It is said on the standard error, as the output is the command's. Raises OSError where the folder cannot
    be written to.
    """
    try:
        write(gather(folder, data_dir, data))
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        again = f"python -m inference.report {shlex.quote(str(folder))}"
        print(f"warning: {folder} has no report ({reason:.200}); try {again}", file=sys.stderr)
    else:
        print(f"report: {folder / NAME}", file=sys.stderr)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Random numbers go on afterwards as if there had been no report."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


@generators_kept()
def gather(folder: Path, data_dir: Path | None = None, data: Dataset | None = None) -> Material:
    """Everything that a run's folder tells. Raises UserError where it is damaged, or has nothing to tell."""
    run = Run.open(folder)
    config, metrics, missing = run.config, run.read_metrics(), ""
    if not {"shape", "classes"} <= config.keys():
        raise other_version(f"{folder / 'config.json'} has no 'shape' or no 'classes'", config)
    if not metrics:
        raise UserError(f"{folder} has nothing to report yet, it has measured nothing: --resume it first")
    cls, untrained = MODELS[config["model"]], ""
    shape = cls.padded(tuple(config["shape"]))
    try:
        y = torch.arange(config["classes"]) if config["classes"] else None
        empty = Dataset("", torch.empty(0, *shape), y, torch.empty(0), None)
        check_size(cls, empty, config, torch.device("cpu"))
        model = cls(shape, config["classes"], **config["options"])
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: {config['model']} cannot be made: {reason:.200}") from None
    try:
        state = run.load_checkpoint()
        if state:
            model.load_state_dict(judged(state))
        else:
            untrained = f"{folder} has no checkpoint.pt yet"
    except UserError as error:
        untrained = str(error)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        untrained = str(other_version(f"{folder}: checkpoint.pt does not fit {config['model']}", config))
    done = (folder / "results.json").exists() and metrics[-1]["step"] >= config["steps"]
    if data is None:
        try:
            data = run.data(data_dir).padded(cls.image_size)
        except UserError as error:
            missing = str(error)
    return Material(run, metrics, run.results() if done else None, model.eval(), untrained, data, missing)


def write(it: Material) -> None:
    """Write the report into the run's folder, whole or not at all. Raises OSError where that cannot be."""
    write_whole(it.run.folder / NAME, html(it).encode(errors="replace"))  # a file's name may be no text


@generators_kept()
def html(it: Material) -> str:
    """The report, whole."""
    config = it.run.config
    walked = Markup() if it.untrained or it.data is None else explorer.section(it.data, it.model)
    walked = walked if len(walked) < 0.8 * SIZE else Markup()  # too many weights find no room
    made = {
        "trained": ("What was trained on what", what_was_trained(it)),
        "diagram": ("Model and guide", diagram(it)),
        "results": ("Results", results_beside(it)),
        "curves": ("Curves", curves(it.metrics, it.what)),
        "figures": ("Figures", Markup()),
        "walk": ("A latent space to walk in", walked),
        "compare": ("Paper against program", comparison(it)),
        "repeat": ("How to repeat it", how_to_repeat(it)),
    }
    # What is left is for pictures, which can be made smaller.
    room = max(SIZE - sum(len(inside.encode(errors="replace")) for _, inside in made.values()), SIZE // 10)
    made["figures"] = ("Figures", pictures(it.run.figures, room))
    made = {name: (words, inside) for name, (words, inside) in made.items() if inside}
    title = f"{config['model']} on {Path(config['data']).name}, seed {config['seed']}"
    body = part(
        "report",
        title=title,
        about=(sys.modules[type(it.model).__module__].__doc__ or "").splitlines()[0],
        stages=_stages(it.run.folder),
        unfinished=_unfinished(it),
        headlines=_headlines(it),
        contents=[(name, words) for name, (words, _) in made.items()],
        sections=[
            inside if name == "walk" else section(name, words, inside)
            for name, (words, inside) in made.items()
        ],
    )
    return page(title, body, ["curves.js", *(explorer.SCRIPTS if walked else ())])


def _stages(folder: Path) -> list[tuple[str, str]]:
    """Links to the other run of a system trained in two stages, and their words."""
    found = [
        (f"./{quote(os.fsencode(path.name))}/{NAME}", f"the prior over its codes, {path.name}")
        for path in stages_in(folder)
    ]
    if (folder.parent / "config.json").exists():
        found.append((f"../{NAME}", "the first stage, whose codes these are"))
    return found


def _unfinished(it: Material) -> dict[str, str]:
    """How far a run is that has not come to its end, and the command that goes on."""
    if it.results:
        return {}
    at = f"step {count(it.metrics[-1]['step'])} of {count(it.run.config['steps'])}"
    return {"at": at, "command": f"python -m inference.svi --resume {shlex.quote(str(it.run.folder))}"}


def _headlines(it: Material) -> list[tuple[str, Markup, str]]:
    """The first figures of a finished run: name, value and unit."""
    test = it.results["test"] if it.results else {}
    return [
        (
            label(name),
            exact(brief(name, test[name]), test[name]["value"]),
            unit(name, it.what).replace("%", "of all"),
        )
        for name in HEADLINES
        if name in test
    ]


if __name__ == "__main__":
    run_command(main)
