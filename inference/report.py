"""A report of a run in one file, report.html, that needs no network; an index of a folder of runs.

python -m inference.report RUN_DIR       RUN_DIR/report.html, and of a prior's run inside it
python -m inference.report runs/         runs/index.html, of all runs below: sorted, filtered, side by side

Training leaves a run's report by itself, and a sweep an index too; this makes them anew.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from pyro.util import get_rng_state, set_rng_state

from inference import report_index, walk
from inference.checkpoints import judged
from inference.datasets import Dataset
from inference.disk import write_whole
from inference.errors import BadInput, run_command
from inference.options import Parser
from inference.report_curves import curves
from inference.report_page import HEADLINES, brief, count, exact, label, page, section, unit
from inference.report_sections import (
    Material,
    comparison,
    diagram,
    how_to_repeat,
    pictures,
    results_beside,
    what_was_trained,
)
from inference.runs import Run
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
        raise BadInput(f"{given.folder} is no folder: name a run's, or one that runs are in")
    if not (given.folder / "config.json").exists():
        print(report_index.write(given.folder))
        return 0
    for folder in (given.folder, *sorted(path.parent for path in given.folder.glob("*/config.json"))):
        write(gather(folder, given.data_dir))
        print(folder / NAME)
    return 0


def leave(run: Run, data: Dataset, data_dir: Path | None = None) -> int:
    """Write the report at the end of a training, whose data are at hand. Returns the exit status.

    Of a prior's run the first stage's report is made anew, for it names the other. Nothing but a folder that
    cannot be written to keeps a training from its end: then it is 1.
    """

    def both() -> None:
        renew(run.folder, data)
        if (run.folder.parent / NAME).exists():
            renew(run.folder.parent, None, data_dir)

    if run.save(both):
        return 0
    again = f"python -m inference.report {shlex.quote(str(run.folder))}"
    words = f"could not take its report ({run.trouble}): make room, and then {again}"
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
    """Everything that a run's folder tells. Raises BadInput where it is damaged, or has nothing to tell."""
    run = Run.open(folder)
    config, metrics, missing = run.config, run.measured(), ""
    if not {"shape", "classes"} <= config.keys():
        raise BadInput(f"{folder / 'config.json'} is damaged: it has no shape and classes")
    if not metrics:
        raise BadInput(f"{folder} has nothing to report yet, it has measured nothing: --resume it first")
    cls, untrained = MODELS[config["model"]], ""
    try:
        model = cls(cls.padded(tuple(config["shape"])), config["classes"], **config["options"])
        state = run.load_checkpoint()
        if state:
            model.load_state_dict(judged(state))
        else:
            untrained = f"{folder} has no checkpoint.pt yet"
    except BadInput as error:
        untrained = str(error)
    except (TypeError, ValueError, RuntimeError):
        raise BadInput(f"{folder}: config.json and checkpoint.pt do not belong together") from None
    done = (folder / "results.json").exists() and metrics[-1]["step"] >= config["steps"]
    if data is None:
        try:
            data = run.data(data_dir).padded(cls.side)
        except BadInput as error:
            missing = str(error)
    return Material(run, metrics, run.results() if done else None, model.eval(), untrained, data, missing)


def write(it: Material) -> None:
    """Write the report into the run's folder, whole or not at all. Raises OSError where that cannot be."""
    write_whole(it.run.folder / NAME, html(it).encode())


@generators_kept()
def html(it: Material) -> str:
    """The report, whole."""
    config = it.run.config
    walked = "" if it.untrained or it.data is None else walk.section(it.data, it.model)
    walked = walked if len(walked) < 0.8 * SIZE else ""  # a decoder of millions of weights finds no room
    sections = [
        section("trained", "What was trained on what", what_was_trained(it)),
        section("diagram", "Model and guide", diagram(it)),
        section("results", "Results", results_beside(it)),
        section("curves", "Curves", curves(it.metrics, it.what)),
        walked,
        section("compare", "Paper against program", comparison(it)),
        section("repeat", "How to repeat it", how_to_repeat(it)),
    ]
    room = max(SIZE - len("".join(sections).encode()), SIZE // 10)  # for pictures, which can be made smaller
    sections.insert(4, section("figures", "Figures", pictures(it.run.figures, room)))
    found = re.findall(r'<section id="([\w-]+)".*?>\s*<h2.*?>(.*?)</h2>', "".join(sections), re.DOTALL)
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in found)
    title = f"{config['model']} on {Path(config['data']).name}, seed {config['seed']}"
    about = (sys.modules[type(it.model).__module__].__doc__ or "").splitlines()[0]
    body = (
        f"<header><h1>{escape(title)}</h1><p>{escape(about)}</p>{_stages(it.run.folder)}{_state(it)}"
        f'{_headlines(it)}<nav aria-label="Sections"><ul>{contents}</ul></nav></header>\n'
        f'<main id="content">\n{"".join(sections)}</main>\n'
        "<footer>Made by <code>python -m inference.report</code> from the run's own folder.</footer>"
    )
    return page(title, body, ["curves.js"])


def _stages(folder: Path) -> str:
    """Links to the other run of a system trained in two stages."""
    found = [
        (f"{path.parent.name}/{NAME}", f"the prior over its codes, {path.parent.name}")
        for path in sorted(folder.glob("*/config.json"))
    ]
    if (folder.parent / "config.json").exists():
        found.append((f"../{NAME}", "the first stage, whose codes these are"))
    links = ", ".join(f'<a href="{escape(address)}">{escape(words)}</a>' for address, words in found)
    return f"<p>One stage of two: see {links}.</p>" if links else ""


def _state(it: Material) -> str:
    """How far a run is that has not come to its end."""
    if it.results:
        return ""
    again = f"python -m inference.svi --resume {shlex.quote(str(it.run.folder))}"
    at = f"step {count(it.metrics[-1]['step'])} of {count(it.run.config['steps'])}"
    return f'<p class="said">Training is not finished: {at}. Go on with: <code>{escape(again)}</code></p>'


def _headlines(it: Material) -> str:
    """The first figures of a finished run."""
    test = it.results["test"] if it.results else {}
    items = [
        f"<li>{escape(label(name))} <b>{exact(brief(name, test[name]), test[name]['value'])}</b> "
        f'<span class="muted">{escape(unit(name, it.what).replace("%", "of all"))}</span></li>'
        for name in HEADLINES
        if name in test
    ]
    return f'<ul class="headlines" aria-label="On the test set">{"".join(items)}</ul>' if items else ""


if __name__ == "__main__":
    run_command(main)
