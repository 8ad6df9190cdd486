"""The index of a folder of runs: one page that sorts and filters them, and lays chosen ones side by side."""

import json
import time
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from inference.disk import write_whole
from inference.errors import BadInput
from inference.options import defaults, plain
from inference.report_curves import terms, thinned, title
from inference.report_page import HEADLINES, brief, distinct, label, page, thumbnail, with_unit
from inference.runs import Run
from ppl_models import MODELS

NAME, REPORT = "index.html", "report.html"
SHOWN = {  # of a run's pictures: the first there is of each
    "samples": ("sample_means", "samples"),
    "reconstructions": ("reconstructions_5",),
}
PICTURE, PICTURES = 60_000, 3_000_000  # bytes of one, and of all together
LINES = 60  # of a run's measurements on the test set


class Row(NamedTuple):
    """A run as the index has it."""

    name: str  # its folder, as seen from the index
    run: Run
    metrics: list[dict[str, Any]]
    results: dict[str, Any]  # empty of a run that has not come to its end
    began: float  # seconds since 1970

    @property
    def what(self) -> str:
        """What an observation is."""
        return "point" if MODELS[self.run.config["model"]].pixels == "points" else "image"


def write(folder: Path) -> Path:
    """Write index.html into a folder, of all runs in it and below; returns its path.

    Raises BadInput where there is none, and OSError where the folder cannot be written to.
    """
    runs, damaged = [], []
    for path in sorted(folder.rglob("config.json")):
        try:
            runs.append(_row(folder, path.parent))
        except BadInput as error:
            damaged.append(str(error))
    if not runs:
        raise BadInput(
            damaged[0] if damaged else f"{folder} has no runs in it: name a run, or what runs are in"
        )
    write_whole(folder / NAME, html(folder, runs, damaged).encode())
    return folder / NAME


def _row(folder: Path, own: Path) -> Row:
    run = Run.open(own)
    metrics, path = run.measured(), own / "results.json"
    done = path.exists() and metrics and metrics[-1]["step"] >= run.config["steps"]
    began = (own / "config.json").stat().st_mtime
    return Row(own.relative_to(folder).as_posix(), run, metrics, run.results() if done else {}, began)


def html(folder: Path, runs: list[Row], damaged: list[str]) -> str:
    """The index of these runs, and what is wrong with others."""
    measured = [name for name in HEADLINES if any(name in row.results.get("test", {}) for row in runs)]
    heads = [_heading(name) for name in measured]
    columns = ["run", "model", "data", "seed", "steps", "options", *heads, "seconds", "begun", "commit"]
    head = "".join(f'<th scope="col" class="{column.split()[0]}">{escape(column)}</th>' for column in columns)
    body = "\n".join(_cells(folder, row, measured) for row in runs)
    most = min(PICTURE, PICTURES // (len(runs) * len(SHOWN)))
    data = json.dumps({row.name: _beside(row, most) for row in runs}).replace("<", "\\u003c")
    wrong = "".join(f"<li>{escape(line)}</li>" for line in damaged)
    wrong = f"<section><h2>Left out</h2><ul>{wrong}</ul></section>" if wrong else ""
    name = escape(folder.resolve().name)
    about = f"{len(runs)} runs. Results are on the whole test set, ± the standard error over its images."
    return page(
        f"Runs in {folder.resolve().name}",
        f"<header><h1>Runs in {name}</h1><p>{about}</p></header>\n"
        '<main id="content"><div id="choice" class="no-print"></div>'
        '<div class="wide" tabindex="0" role="region" aria-label="Runs">'
        f'<table id="runs"><caption>All runs below {name}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
        '<section id="beside" aria-labelledby="beside-title" hidden><h2 id="beside-title">Side by side</h2>'
        f'<div id="chosen"></div></section>{wrong}</main>\n'
        f'<script type="application/json" id="data">{data}</script>',
        ["curves.js", "index.js"],
    )


def _heading(name: str) -> str:
    """A figure and what it is measured in, of images and of points alike."""
    return with_unit(label(name), name, "image").removesuffix(" per image")


def _options(row: Row) -> str:
    """The options and settings that are not the usual ones, and how far a run is that is not done."""
    config = row.run.config
    usual = defaults(MODELS[config["model"]], tuple(config["shape"]))
    keys = (
        "elbo",
        "batch_size",
        "lr",
        "schedule",
        "lr_warmup",
        "warmup",
        "clip",
        "ema",
        "precision",
        "validation",
    )
    settings = {key: config[key] for key in keys} | config["options"]
    return ", ".join(f"{key} {plain(value)}" for key, value in settings.items() if value != usual[key])


def _cells(folder: Path, row: Row, measured: list[str]) -> str:
    """A run's line of the table; `data-value` is what a column is sorted by."""
    config, test = row.run.config, row.results.get("test", {})
    words = escape(row.name)
    if (row.run.folder / REPORT).exists():
        words = f'<a href="{escape(quote(row.name))}/{REPORT}">{words}</a>'
    last = row.metrics[-1] if row.metrics else {"step": 0, "seconds": 0.0}
    steps = config["steps"] if row.results else f"{last['step']} of {config['steps']}"
    data, seconds = Path(config["data"]).name, row.results.get("seconds", last["seconds"])
    figures = (
        (test[name]["value"], brief(name, test[name])) if name in test else ("", "") for name in measured
    )
    cells = [  # what is sorted by, where it is not the words themselves; and these
        ("", config["model"]),
        ("", data),
        (config["seed"], str(config["seed"])),
        (last["step"], str(steps)),
        ("", _options(row)),
        *figures,
        (seconds, f"{seconds:.0f}"),
        (row.began, time.strftime("%Y-%m-%d %H:%M", time.localtime(row.began))),
        ("", (config.get("commit") or "")[:7]),
    ]
    inside = "".join(
        f"<td>{escape(cell)}</td>" if key == "" else f'<td data-value="{key}">{escape(cell)}</td>'
        for key, cell in cells
    )
    marks = f'data-run="{escape(row.name)}" data-model="{escape(config["model"])}" data-data="{escape(data)}"'
    return f'<tr {marks}><th scope="row">{words}</th>{inside}</tr>'


def _beside(row: Row, most: int) -> dict[str, Any]:
    """What a run lays beside others: settings, results, curves on the test set, and pictures."""
    config, test = row.run.config, row.results.get("test", {})
    keys = ("model", "seed", "steps", "elbo", "batch_size", "lr", "precision")
    settings = {key: plain(config[key]) for key in keys} | {"data": Path(config["data"]).name}
    settings |= {key: plain(value) for key, value in config["options"].items()}
    lines = thinned([line for line in row.metrics if line["split"] == "test"], LINES)
    names = terms(lines)
    pictures = {}
    for words, names_of in SHOWN.items():
        found = [path for name in names_of if (path := row.run.figures / f"{name}.png").exists()]
        if found and most > 5_000:
            pictures[words] = thumbnail(found[0], most)
    return {
        "settings": settings,
        "results": {
            with_unit(label(name), name, row.what): brief(name, test[name]) for name in distinct(test)
        },
        "curves": {name: [[line["step"], line[name]] for line in lines if name in line] for name in names},
        "names": {name: with_unit(title(name), name, row.what) for name in names},
        "pictures": pictures,
    }
