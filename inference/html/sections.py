"""The sections of a run's report: what was trained, diagram, figures, results, and how to repeat it."""

import copy
import inspect
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from inference import compare, graph
from inference.backend.device import double_precision
from inference.cli.options import defaults, plain
from inference.data.datasets import Dataset
from inference.html.page import (
    Figure,
    count,
    distinct,
    embedded,
    exact,
    label,
    numbers,
    part,
    table,
    unit,
)
from inference.rundir.run import Run
from ppl_models.base import LatentVariableModel
from tools.table import REFERENCES, parts

BATCH = 3  # images on which the bound by hand stands beside Pyro's
SMALLEST = 8.5 / 0.8  # points of a diagram that are one letter of the page wide: its small print is 0.8 of it
LARGEST = 50_000_000  # parameters of a model for which that takes seconds
PICTURE = 350_000  # bytes of a figure
INKS = {"#ffffff": "--bg", "#262626": "--fg", "#d1d1d1": "--shade", "#595959": "--muted"}  # of diagrams
ALT = {
    "training": "Training images as the model sees them",
    "samples": "Samples of the model",
    "samples_16": "16 samples, mean images",
    "sample_means": "Mean images of samples",
    "redrawn": "Rows of images drawn again, each row from the same latents",
    "reconstructions_5": "Five test images, and their reconstructions below",
    "reconstructions": "Test images, each with its reconstruction at its right",
    "interpolations": "Images decoded on the way between the codes of two test images, a pair a row",
    "latents": "Latents, in two dimensions",
    "density": "The density, as shades of the plane",
    "k_hat": "Histogram of the Pareto k-hat of the test images' importance weights",
}


class Material(NamedTuple):
    """What a report is made of."""

    run: Run
    metrics: list[dict[str, Any]]
    results: dict[str, Any] | None  # of a run that has come to its end
    model: LatentVariableModel
    untrained: str  # why `model` has not the run's parameters; empty where it has
    data: Dataset | None  # as the model takes them
    missing: str  # why there are no data

    @property
    def what(self) -> str:
        """What an observation is."""
        return "point" if self.model.observation == "points" else "image"


def what_was_trained(it: Material) -> Markup:
    """The data, the model's size, how it was trained, where, and how long."""
    config, usual = it.run.config, defaults(type(it.model), tuple(it.run.config["shape"]))
    keys = ("elbo", "particles", "schedule", "lr_warmup", "warmup", "clip", "ema", "precision", "validation")
    changed = {key: config[key] for key in keys if config[key] != usual.get(key, 1)}
    settings = ", ".join(
        f"{key} {plain(value)}" for key, value in ({"elbo": config["elbo"]} | changed).items()
    )
    options = []
    for key, value in config["options"].items():
        words, usually = f"{key} {plain(value)}", plain(usual[key])
        changed_words = Markup("<b>{}</b>, usually {}").format(words, usually)
        options.append(words if value == usual[key] else changed_words)
    seconds = it.results["seconds"] if it.results else it.metrics[-1]["seconds"]
    device = it.results["device"] if it.results else config["device"]
    machine = [device, config.get("gpu"), config.get("platform")]
    machine += [f"threads: {config['threads']}"] if "threads" in config else []
    skipped = it.results["skipped"] if it.results else 0
    parameters = f"{count(sum(p.numel() for p in it.model.parameters()))} parameters"
    commit = config.get("commit") or "none: not run from a checkout"
    return part(
        "facts",
        {
            "data": Markup("<b>{}</b>: {}").format(Path(config["data"]).name, _sizes(it)),
            "pixels" if it.what == "image" else "values": config["pixels"],
            "model": Markup("<b>{}</b>, {}").format(config["model"], parameters),
            "its options": Markup("; ").join(options),
            "labelled images": config.get("labelled_file") or "",
            "training": f"{count(config['steps'])} steps of {config['batch_size']} {it.what}s, Adam at "
            f"{plain(config['lr'])}; {settings}",
            "steps skipped": f"{skipped}, whose loss or gradient was not finite" if skipped else "",
            "seed": str(config["seed"]),
            "time": f"{seconds:.1f} s on {', '.join(filter(None, machine))}",
            "commit": Markup("<code>{}</code>").format(commit),
            "remark": it.model.note() or "",
            "not at hand": it.missing,
        },
    )


def _sizes(it: Material) -> str:
    """How many images or points of what size, and how many classes."""
    shape, classes, data = it.run.config["shape"], it.run.config["classes"], it.data
    words = "points of the plane" if it.what == "point" else f"images of {'x'.join(map(str, shape))}"
    if data:
        sets = {"training": data.x_train, "test": data.x_test}
        held_out = {"validation": data.x_valid, "independent": data.x_independent}
        sets |= {name: x for name, x in held_out.items() if x is not None}
        counts = [f"{count(len(x))} {name}" for name, x in sets.items()]
        words = f"{', '.join(counts)} {words}"
    return words + (f", {classes} classes" if classes else "")


def diagram(it: Material) -> Markup:
    """The model on paper, as its docstring has it, and the plate diagrams drawn from the two programs."""
    batch = it.run.config["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "diagram.svg"
        graph.draw(it.model, path, batch)
        svg = path.read_text("utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for ink, variable in INKS.items():
        svg = svg.replace(ink, f"var({variable})")
    about = f"Plate diagrams of the model and the guide of {it.run.config['model']}"
    points = float(re.findall(r'width="([\d.]+)pt"', svg)[0])
    wide = f"--wide: {points / SMALLEST:.1f}rem"
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{about}" style="{wide}"', 1)
    words = graph.describe(graph.views(it.model, batch))
    paper = inspect.cleandoc(type(it.model).__doc__ or "")
    return part("diagram", paper, about, Markup(svg), words)  # drawn from the model's class, not from the run


def pictures(folder: Path, room: int) -> Markup:
    """The pictures of a run, but its curves, in the order of `ALT` and then by name; in so many bytes.

    Raises UserError if one of them cannot be shown.
    """
    found = [path for path in folder.glob("*.png") if path.stem != "curves"]
    order = {name: place for place, name in enumerate(ALT)}
    found.sort(key=lambda path: (order.get(path.stem, len(order)), path.stem))
    most = min(PICTURE, room // max(len(found), 1) * 3 // 4 - 300)  # base64 takes four letters for three
    shown = Markup()
    for path in found:
        words = ALT.get(path.stem, path.stem.replace("_", " "))
        shown += part("picture", *embedded(path, most), words)
    return Markup('<div class="figures">{}</div>').format(shown) if shown else shown


def results_beside(it: Material) -> Markup:
    """Every figure with its errors and unit, and what stands beside it elsewhere."""
    if it.results is None:
        return Markup()
    groups = list(_grouped(it))
    beside = any(words for _, words in groups)
    head = ["figure", "value", "± s.e.", "± Monte Carlo", "unit", *["beside it"] * beside]
    rows = []
    for figures, words in groups:
        cell = Markup('<td class="beside" rowspan="{}">{}</td>').format(len(figures), words)
        for name, figure in figures.items():
            rows.append(_row(name, figure, it.what) + ([cell] if beside else []))
            cell = Markup()
    tables = [table("On the whole test set", head, rows, "results")]
    for name_of_part in ("validation", "independent"):
        if name_of_part in it.results:
            rows = [_row(name, figure, it.what) for name, figure in it.results[name_of_part].items()]
            tables.append(table(f"On the {name_of_part} set", head[:5], rows, "results"))
    known = it.results.get("exact")
    if known and known["test"]:
        rows = [_row(name, figure, it.what) for name, figure in known["test"].items()]
        tables.append(
            table(f"log p(x) itself, by {known['how']}, and bounds of it", head[:5], rows, "results")
        )
    about = (
        "s.e. is the standard error over test images; Monte Carlo, the part of it that more draws of the "
        "latents would take away. Bounds are negated: smaller is better."
    )
    words = Markup('<p class="muted">{}</p>').format(about.replace("images", f"{it.what}s"))
    return Markup().join(tables) + words


def _grouped(it: Material) -> Iterator[tuple[dict[str, Figure], str]]:
    """The test set's figures by the tables of `tools.table`, with what these put beside; the rest."""
    results = (it.results or {}) | {"config": it.run.config}  # which has been checked
    left = distinct(results["test"])
    if "active_units" in results:
        left["active_units"] = {"value": results["active_units"]}
    for title, columns, groups in parts([results]):
        own = {column.figure: left.pop(column.figure) for column in columns.values() if column.figure in left}
        for key in groups:
            if own:
                yield own, REFERENCES.get(title, {}).get(key, "")
    if left:
        yield left, ""


def _row(name: str, figure: Figure, what: str) -> list[str]:
    value, se, mc_se = numbers(name, figure)
    errors = [exact(text, figure[key]) if text else "" for key, text in (("se", se), ("mc_se", mc_se))]
    cells = (exact(value, figure["value"]), *errors)
    return [label(name), *(Markup('<td class="n">{}</td>').format(cell) for cell in cells), unit(name, what)]


def comparison(it: Material) -> Markup:
    """The bound by hand beside Pyro's, with this run's parameters on its first test images."""
    size = sum(p.numel() for p in it.model.parameters())
    by_itself = f"python -m inference.compare --run {shlex.quote(str(it.run.folder))}"
    why, results = it.untrained or it.missing, []
    if size > LARGEST:
        why = why or f"it has {count(size)} parameters, which takes a while"
    if not why and it.data is not None:
        try:
            with double_precision():
                model = copy.deepcopy(it.model).double()
                results = compare.of_trained(model, it.run.config, it.data, BATCH, 0)
        except (ArithmeticError, IndexError, RuntimeError, ValueError) as error:  # of weights without sense
            why = " ".join(str(error).split())[:200] or type(error).__name__
    if why:
        return Markup("<p>Not worked out here: {}. By itself: <code>{}</code></p>").format(why, by_itself)
    shown = []
    for result in results:
        rows = [
            [
                label(name) if name != "objective" else name,
                f"{term['by_hand']:.12g}",
                f"{term['pyro']:.12g}",
                f"{abs(term['by_hand'] - term['pyro']):.1e}",
            ]
            for name, term in result["terms"].items()
        ]
        words = (
            f"Relative difference of the value {result['value_difference']:.1e}, at most "
            f"{compare.VALUE_TOLERANCE:.0e}; of the gradient {result['gradient_difference']:.1e}, at most "
            f"{compare.GRADIENT_TOLERANCE:.0e}."
        )
        verdict = "agrees" if result["agrees"] else "DOES NOT AGREE"
        shown.append({"caption": f"{result['elbo']}: {verdict}", "rows": rows, "words": words})
    about = (
        f"The bound derived by hand and Pyro's estimator on the first {BATCH} test {it.what}s, with this "
        f"run's parameters and the same noise; nats per {it.what}, in float64. Of more:"
    )
    return part("comparison", about, by_itself, shown)


def how_to_repeat(it: Material) -> Markup:
    """The commands, versions and checksum with which to have the run again, and what can be asked of it."""
    config, folder = it.run.config, shlex.quote(str(it.run.folder))
    versions = config.get("versions", {})
    names = {"torch": "torch", "pyro": "pyro-ppl", "numpy": "numpy"}
    pins = " ".join(f"{names[key]}=={versions[key].partition('+')[0]}" for key in names if key in versions)
    commit = config.get("commit") or ""
    commands = [f"git checkout {commit.removesuffix('-modified')}"] if commit else []
    commands += [f"pip install -e . {pins}".rstrip(), config.get("command", "")]
    facts = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "data": Markup("checksum <code>{}</code>, of every pixel and label").format(config["checksum"]),
        "seed": f"{config['seed']} decides every random draw; the same machine gives the same bits",
        "note": "The code differed from that commit." if commit.endswith("-modified") else "",
    }
    further = [f"python -m inference.{name} {folder}" for name in ("evaluate", "exact", "report")]
    return part("repeat", [command for command in commands if command], facts, further)
