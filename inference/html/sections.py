"""The sections of a report about a run: training, plate diagrams, figures, and how to reproduce it."""

import inspect
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from inference.backend.files import read_regular
from inference.data.dataset import Dataset
from inference.data.labels import listed
from inference.data.observations import OBSERVATIONS, POINTS
from inference.html.formatting import count
from inference.html.page import part
from inference.html.pictures import embedded
from inference.plots import graph
from inference.plots.diagnostics import PREFIX
from inference.plots.labels import format_setting
from inference.rundir.config import defaults
from inference.rundir.run import Run
from inference.rundir.run_config import RunConfig
from ppl_models.base import LatentVariableModel

LETTER = 8.5 / 0.8  # points of a diagram per rem of the page: its 8.5 pt letters are 0.8 rem high
PICTURE = 350_000  # bytes of a figure
# Colours of diagrams, and the variables of the style that replace them.
COLOURS = {"#ffffff": "--bg", "#262626": "--fg", "#d1d1d1": "--shade", "#595959": "--muted"}
# Captions of figures, in the order in which a report shows them.
CAPTIONS = {
    "training": "Training images as the model sees them",
    "samples": "Samples of the model",
    "samples_16": "Mean images of 16 samples",
    "sample_means": "Mean images of samples",
    "redrawn": "Samples of x, each row from the same latents",
    "reconstructions_5": "Five test images, and their reconstructions below",
    "reconstructions": "Test images, each with its reconstruction to the right",
    "interpolations": "Decoded interpolations between the codes of two test images, one pair per row",
    "latents": "Latents, in two dimensions",
    "columns": "Histograms of the columns: test data and samples, in the units of the table",
    "density": "Density of the model over the plane",
    "k_hat": "Histogram of the Pareto k-hat of the test images' importance weights",
}
# The same of texts.
TEXTS = {
    "samples": "Samples of the model",
    "reconstructions": "Test lines, each with its reconstruction below",
    "interpolations": "Decoded interpolations between two test lines",
}
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW"}


class ReportData(NamedTuple):
    """The data of a run that its report shows."""

    run: Run
    metrics: list[dict[str, Any]]
    results: dict[str, Any] | None  # None if the run is not finished
    model: LatentVariableModel
    untrained: str  # why `model` does not have the parameters of the run; empty if it has them
    data: Dataset | None  # as the model takes them
    missing: str  # why the data are unavailable

    @property
    def what(self) -> str:
        """The name of one observation."""
        return OBSERVATIONS[self.model.observation].data.noun


def training(it: ReportData) -> Markup:
    """Returns the data, the size of the model, the training settings, the machine and the duration."""
    config = it.run.config
    usual = defaults(type(it.model), tuple(config.shape)) | {"particles": 1}
    keys = ["particles", "schedule", "lr_warmup", "kl_warmup", "clip", "ema", "precision", "validation"]
    keys += ["weight_decay", "accumulate", "early_stopping"]
    settings = {"elbo": config.elbo}
    settings |= {key: value for key, value in config.values(*keys).items() if value != usual[key]}
    options = []
    for key, value in config.options.items():
        words, default = f"{key} {format_setting(value)}", format_setting(usual[key])
        options.append(
            words if value == usual[key] else Markup("<b>{}</b> (default {})").format(words, default)
        )
    results = it.results or {}
    stopped = results.get("stopped_early")
    seconds = it.results["seconds"] if it.results else it.metrics[-1]["seconds"]
    device = it.results["device"] if it.results else config.device
    machine = [device, config.gpu, config.platform]
    machine += [f"threads: {config.threads}"] if config.threads else []
    skipped = it.results["skipped"] if it.results else 0
    parameters = f"{count(sum(p.numel() for p in it.model.parameters()))} parameters"
    return part(
        "facts",
        {
            "data": Markup("<b>{}</b>: {}").format(Path(config.data).name, _sizes(it)),
            "pixels" if it.what == "image" else "values": _observation(config),
            "model": Markup("<b>{}</b>, {}").format(config.model, parameters),
            "options": Markup("; ").join(options),
            "labelled images": config.labelled_file or "",
            "training": f"{count(config.steps)} steps of {config.batch_size} {it.what}s, "
            f"{OPTIMIZERS[config.optimizer]} with learning rate {format_setting(config.lr)}; "
            + ", ".join(f"{key} {format_setting(value)}" for key, value in settings.items()),
            "stopped early": f"after step {count(stopped)}" if stopped else "",
            "parameters": _selected(config, results),
            "skipped steps": f"{skipped}, because the loss or the gradient was not finite" if skipped else "",
            "seed": str(config.seed),
            "time": f"{seconds:.1f} s on {', '.join(filter(None, machine))}",
            "commit": Markup("<code>{}</code>").format(config.commit or "unknown: not run from a checkout"),
            "note": it.model.note() or "",
            "unavailable": it.missing,
        },
    )


def _observation(config: RunConfig) -> str:
    """Returns what the model observes. The points of a table are standardised, unless they are 0 and 1."""
    columns = config.columns or {"location": [], "scale": []}
    standardised = any(columns["location"]) or any(scale != 1 for scale in columns["scale"])
    return "points, each column standardised" if standardised else config.observation


def _selected(config: RunConfig, results: Mapping[str, Any]) -> str:
    """Returns which parameters the report is about, if the run selects them by a metric."""
    if not config.select:
        return ""
    if "best" not in results:
        return f"the best so far by {config.select} on the validation set"
    best = results["best"]
    at = f"of step {count(best['step'])}, the best by {best['metric']} on the validation set"
    return f"{at} ({best['value']:.4f})"


def _sizes(it: ReportData) -> str:
    """Returns the number and size of the observations, and the number of classes."""
    shape, classes, data = it.run.config.shape, it.run.config.classes, it.data
    words = f"images of {'x'.join(map(str, shape))}"
    kind, tokens = OBSERVATIONS[it.model.observation].data, it.run.config.tokens
    if kind is POINTS:
        words = "points in the plane" if shape == [2] else f"points of {shape[0]} dimensions"
    elif tokens:
        words = f"lines of at most {shape[0]} {tokens.unit}, {count(len(tokens))} of them different"
    elif it.what != "image":
        words = f"{kind.name} of {'x'.join(map(str, shape))}"
    if data:
        sets = {"training": data.x_train, "test": data.x_test}
        held_out = {"validation": data.x_valid, "independent": data.x_independent}
        sets |= {name: x for name, x in held_out.items() if x is not None}
        counts = [f"{count(len(x))} {name}" for name, x in sets.items()]
        words = f"{', '.join(counts)} {words}"
    names = it.run.config.class_names
    words += f", {classes} classes" if classes else ""
    words += f" ({listed(names)})" if names else ""
    size = it.run.config.image_size
    return words + (f", resized and cropped to {size}x{size}" if size else "")


def diagram(it: ReportData) -> Markup:
    """Returns the docstring of the model's class, and plate diagrams of the two programs as SVG."""
    batch = it.run.config.batch_size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "diagram.svg"
        graph.draw(it.model, path, batch)
        svg = path.read_text("utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    about = f"Plate diagrams of the model and the guide of {it.run.config.model}"
    points = float(re.findall(r'width="([\d.]+)pt"', svg)[0])
    wide = f"--wide: {points / LETTER:.1f}rem"
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{about}" style="{wide}"', 1)
    words = graph.describe(graph.views(it.model, batch))
    docstring = inspect.cleandoc(type(it.model).__doc__ or "")
    return part(
        "diagram", docstring, about, Markup(svg), words
    )  # nothing in the SVG comes from the run folder


def figures(folder: Path, max_bytes: int) -> Markup:
    """Returns the texts of a run in the order of `TEXTS`, and the figures without curves and diagnostics.

    The figures are in the order of `CAPTIONS` and then by name.

    Args:
        folder: the folder of the figures.
        max_bytes: maximum size of all figures in bytes.

    Raises:
        UserError: a figure cannot be shown.
    """
    shown = Markup()
    for name, words in TEXTS.items():
        path = folder / f"{name}.txt"
        if path.exists():
            shown += part("text", read_regular(path, PICTURE).decode(errors="replace"), words)
    found = [path for path in folder.glob("*.png") if path.stem != "curves"]
    found = [path for path in found if not path.stem.startswith(PREFIX)]
    order = {name: place for place, name in enumerate(CAPTIONS)}
    found.sort(key=lambda path: (order.get(path.stem, len(order)), path.stem))
    most = min(PICTURE, max_bytes // max(len(found), 1) * 3 // 4 - 300)  # base64 turns three bytes into four
    for path in found:
        words = CAPTIONS.get(path.stem, path.stem.replace("_", " "))
        shown += part("picture", *embedded(path, most), words)
    return Markup('<div class="figures">{}</div>').format(shown) if shown else shown


def reproduction(it: ReportData) -> Markup:
    """Returns commands, versions and checksum to reproduce the run, and commands for further analysis."""
    config, folder = it.run.config, shlex.quote(str(it.run.folder))
    versions = config.versions or {}
    names = {"torch": "torch", "pyro": "pyro-ppl", "numpy": "numpy"}
    pins = " ".join(f"{names[key]}=={versions[key].partition('+')[0]}" for key in names if key in versions)
    commit = config.commit or ""
    commands = [f"git checkout {commit.removesuffix('-modified')}"] if commit else []
    commands += [f"pip install -e . {pins}".rstrip(), config.command or ""]
    facts = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "data": Markup("checksum <code>{}</code> of all values and labels").format(config.checksum),
        "seed": f"{config.seed}, which fixes all random numbers; the same machine gives the same bits",
        "note": "The code differed from that commit." if commit.endswith("-modified") else "",
    }
    further = [f"python -m inference.{name} {folder}" for name in ("evaluate", "exact", "diagnose", "report")]
    return part("reproduction", [command for command in commands if command], facts, further)
