"""The index of a folder of runs: a page that sorts, filters and compares them."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from inference.backend.files import write_whole
from inference.errors import UserError
from inference.html.curves import thinned, title
from inference.html.formatting import HEADLINES, brief, distinct, label, with_unit
from inference.html.page import page, part
from inference.html.pictures import thumbnail
from inference.plots.curves import curve_metrics
from inference.plots.labels import format_setting
from inference.rundir.config import defaults
from inference.rundir.run import Run
from inference.rundir.schema import other_version
from ppl_models import MODELS

NAME, REPORT = "index.html", "report.html"
FIGURES = {  # that a comparison shows: the first file that exists
    "samples": ("sample_means", "samples"),
    "reconstructions": ("reconstructions_5",),
}
MAX_FIGURE, MAX_FIGURES = 60_000, 3_000_000  # bytes of one figure, and of all
MAX_LINES = 60  # measurements of a run on the test set


class Row(NamedTuple):
    """A run in the index."""

    name: str  # path of its folder, relative to the index
    run: Run
    metrics: list[dict[str, Any]]
    results: dict[str, Any]  # empty if the run is not finished
    start: float  # seconds since 1970

    @property
    def what(self) -> str:
        """The name of one observation."""
        return self.run.config.data_kind.noun


def write(folder: Path) -> Path:
    """Writes index.html with all runs in a folder and below, and returns its path.

    The page names the runs that cannot be read, with the reason. Writes nothing into the run folders.

    Args:
        folder: the folder that is searched and gets the index.

    Raises:
        UserError: no run can be read.
        OSError: the folder cannot be written to.
    """
    found, runs, left_out = sorted(folder.rglob("config.json")), [], []
    most = min(MAX_FIGURE, MAX_FIGURES // (max(len(found), 1) * len(FIGURES)))
    for path in found:
        try:
            row = _row(folder, path.parent)
            runs.append((row, _compared(row, most)))
        except (UserError, OSError) as error:
            name = path.parent.relative_to(folder).as_posix()
            reason = error if isinstance(error, UserError) else error.strerror or type(error).__name__
            left_out.append(f"{name}: {reason}")
    if not runs:
        raise UserError(
            left_out[0] if left_out else f"{folder} contains no runs. Give a run folder or its parent."
        )
    write_whole(folder / NAME, html(folder, runs, left_out).encode(errors="replace"))
    return folder / NAME


def _row(folder: Path, own: Path) -> Row:
    run = Run.open(own)
    if not run.config.shape:
        raise other_version(f"{own / 'config.json'} has no 'shape'", run.config)
    metrics = run.read_metrics()
    finished = metrics and run.finished(metrics[-1]["step"])
    start = (own / "config.json").stat().st_mtime
    return Row(
        own.relative_to(folder).as_posix(),
        run,
        metrics,
        run.results() if finished else {},
        start,
    )


def html(folder: Path, runs: list[tuple[Row, dict[str, Any]]], left_out: list[str]) -> str:
    """Returns the index as an HTML page.

    Args:
        folder: the folder of the index.
        runs: the runs, each with the data that a comparison shows.
        left_out: messages about runs that cannot be read.
    """
    measured = [name for name in HEADLINES if any(name in row.results.get("test", {}) for row, _ in runs)]
    heads = [_heading(name) for name in measured]
    name = folder.resolve().name
    body = part(
        "index",
        name=name,
        about=f"{len(runs)} run{'s' * (len(runs) != 1)}. Results are on the whole test set, ± the standard "
        "error over its images or points.",
        columns=["run", "model", "data", "seed", "steps", "options", *heads, "seconds", "started", "commit"],
        rows=[_cells(row, measured) for row, _ in runs],
        left_out=left_out,
        data={row.name: compared for row, compared in runs},
    )
    return page(f"Runs in {name}", body, ["curves.js", "index.js"])


def _heading(name: str) -> str:
    """Returns a metric and its unit, which are the same for images and points."""
    return with_unit(label(name), name, "image").removesuffix(" per image")


def _options(row: Row) -> str:
    """Returns the options and settings that differ from the defaults."""
    config = row.run.config
    usual = defaults(MODELS[config.model], tuple(config.shape))
    keys = (
        "elbo",
        "batch_size",
        "lr",
        "schedule",
        "lr_warmup",
        "kl_warmup",
        "clip",
        "ema",
        "precision",
        "validation",
    )
    settings = config.values(*keys) | config.options
    return ", ".join(
        f"{key} {format_setting(value)}" for key, value in settings.items() if value != usual[key]
    )


def _cells(row: Row, measured: list[str]) -> dict[str, Any]:
    """Returns a row of the table: name, link, and cells with their sort key, None if that is the text."""
    config, test = row.run.config, row.results.get("test", {})
    last = row.metrics[-1] if row.metrics else {"step": 0, "seconds": 0.0}
    steps = config.steps if row.results else f"{last['step']} of {config.steps}"
    data, seconds = Path(config.data).name, row.results.get("seconds", last["seconds"])
    cells = [
        (None, config.model),
        (None, data),
        (config.seed, str(config.seed)),
        (last["step"], str(steps)),
        (None, _options(row)),
        *(
            (test[name]["value"], brief(name, test[name])) if name in test else (None, "")
            for name in measured
        ),
        (seconds, f"{seconds:.0f}"),
        (row.start, time.strftime("%Y-%m-%d %H:%M", time.localtime(row.start))),
        (None, (config.commit or "")[:7]),
    ]
    link = f"./{quote(os.fsencode(row.name))}/{REPORT}" if (row.run.folder / REPORT).exists() else ""
    return {"name": row.name, "link": link, "model": config.model, "data": data, "cells": cells}


def _compared(row: Row, most: int) -> dict[str, Any]:
    """Returns the data of a run that a comparison shows: settings, results, test curves and figures."""
    config, test = row.run.config, row.results.get("test", {})
    keys = ("model", "seed", "steps", "elbo", "batch_size", "lr", "precision")
    settings = {key: format_setting(value) for key, value in config.values(*keys).items()} | {
        "data": Path(config.data).name
    }
    settings |= {key: format_setting(value) for key, value in config.options.items()}
    lines = thinned([line for line in row.metrics if line["split"] == "test"], MAX_LINES)
    names = curve_metrics(lines)
    figures = {}
    for words, names_of in FIGURES.items():
        found = [path for name in names_of if os.path.lexists(path := row.run.figures / f"{name}.png")]
        if found and most > 5_000:
            figures[words] = thumbnail(found[0], most)
    return {
        "settings": settings,
        "results": {
            with_unit(label(name), name, row.what): brief(name, test[name]) for name in distinct(test)
        },
        "curves": {name: [[line["step"], line[name]] for line in lines if name in line] for name in names},
        "names": {name: with_unit(title(name), name, row.what) for name in names},
        "figures": figures,
    }
