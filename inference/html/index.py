"""The index of a folder of runs: one page that sorts and filters them, and lays chosen ones side by side."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from inference.cli.options import defaults, plain
from inference.errors import UserError
from inference.html.curves import terms, thinned, title
from inference.html.page import HEADLINES, brief, distinct, label, page, part, thumbnail, with_unit
from inference.rundir.files import write_whole
from inference.rundir.run import Run
from inference.rundir.schema import other_version
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
        return "point" if MODELS[self.run.config["model"]].observation == "points" else "image"


def write(folder: Path) -> Path:
    """Write index.html into a folder, of all runs in it and below; returns its path.

    A run that cannot be read is left out and named with the reason. Nothing is written into the runs
    themselves. Raises UserError if there is none to list, and OSError if the folder cannot be written to.
    """
    found, runs, left_out = sorted(folder.rglob("config.json")), [], []
    most = min(PICTURE, PICTURES // (max(len(found), 1) * len(SHOWN)))
    for path in found:
        try:
            row = _row(folder, path.parent)
            runs.append((row, _beside(row, most)))
        except (UserError, OSError) as error:
            name = path.parent.relative_to(folder).as_posix()
            reason = error if isinstance(error, UserError) else error.strerror or type(error).__name__
            left_out.append(f"{name}: {reason}")
    if not runs:
        raise UserError(
            left_out[0] if left_out else f"{folder} has no runs in it: name a run, or what runs are in"
        )
    write_whole(folder / NAME, html(folder, runs, left_out).encode(errors="replace"))
    return folder / NAME


def _row(folder: Path, own: Path) -> Row:
    run = Run.open(own)
    if "shape" not in run.config:
        raise other_version(f"{own / 'config.json'} has no 'shape'", run.config)
    metrics, path = run.read_metrics(), own / "results.json"
    done = os.path.lexists(path) and metrics and metrics[-1]["step"] >= run.config["steps"]
    began = (own / "config.json").stat().st_mtime
    return Row(own.relative_to(folder).as_posix(), run, metrics, run.results() if done else {}, began)


def html(folder: Path, runs: list[tuple[Row, dict[str, Any]]], left_out: list[str]) -> str:
    """The index of these runs, each with what it lays beside others, and why further ones are left out."""
    measured = [name for name in HEADLINES if any(name in row.results.get("test", {}) for row, _ in runs)]
    heads = [_heading(name) for name in measured]
    name = folder.resolve().name
    body = part(
        "index",
        name=name,
        about=f"{len(runs)} runs. Results are on the whole test set, ± the standard error over its images.",
        columns=["run", "model", "data", "seed", "steps", "options", *heads, "seconds", "begun", "commit"],
        rows=[_cells(row, measured) for row, _ in runs],
        left_out=left_out,
        data={row.name: beside for row, beside in runs},
    )
    return page(f"Runs in {name}", body, ["curves.js", "index.js"])


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


def _cells(row: Row, measured: list[str]) -> dict[str, Any]:
    """A run's line of the table: its name, its report, and cells with what a column is sorted by.

    That is None where it is the words themselves.
    """
    config, test = row.run.config, row.results.get("test", {})
    last = row.metrics[-1] if row.metrics else {"step": 0, "seconds": 0.0}
    steps = config["steps"] if row.results else f"{last['step']} of {config['steps']}"
    data, seconds = Path(config["data"]).name, row.results.get("seconds", last["seconds"])
    cells = [
        (None, config["model"]),
        (None, data),
        (config["seed"], str(config["seed"])),
        (last["step"], str(steps)),
        (None, _options(row)),
        *(
            (test[name]["value"], brief(name, test[name])) if name in test else (None, "")
            for name in measured
        ),
        (seconds, f"{seconds:.0f}"),
        (row.began, time.strftime("%Y-%m-%d %H:%M", time.localtime(row.began))),
        (None, (config.get("commit") or "")[:7]),
    ]
    link = f"./{quote(os.fsencode(row.name))}/{REPORT}" if (row.run.folder / REPORT).exists() else ""
    return {"name": row.name, "link": link, "model": config["model"], "data": data, "cells": cells}


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
        found = [path for name in names_of if os.path.lexists(path := row.run.figures / f"{name}.png")]
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
