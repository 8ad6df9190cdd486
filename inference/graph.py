"""Plate diagrams of a model and its guide, side by side, drawn from a run of both.

python -m inference.graph --model ssvae                    writes ssvae.png
python -m inference.graph --model ssvae --out ssvae.svg    or .pdf

Circles are random variables, shaded where observed. A double circle takes one value for sure, a broken one
has no term in the objective; dots are learned parameters outside of networks. A box is a plate, with its name
and size; an edge's label names the networks that it passes through. Nothing is described twice: the diagram
is read off the two Pyro programs, and changes when they do.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import one_hot

from inference.cli.options import Parser
from inference.compare import example_inputs
from inference.errors import UserError, run_command, unknown
from inference.plots.canvas import subplots
from inference.plots.diagram import apart, draw_graph, extent, given, places, symbol
from inference.plots.relations import Relations, relations
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

FORMATS = (".png", ".svg", ".pdf")
INCHES = 0.8  # of a unit of length


def main(arguments: list[str]) -> int:
    """Draw a model's diagram into a file. Raises UserError where that cannot be."""
    parser = Parser(prog="python -m inference.graph", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, metavar="NAME", help=f"one of {', '.join(MODELS)}")
    about = f"where to, with one of {', '.join(FORMATS)} (default: NAME.png)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=about)
    asked = parser.parse_args(arguments)
    if asked.model not in MODELS:
        raise unknown("model", asked.model, MODELS)
    out = asked.out or Path(f"{asked.model}.png")
    if out.suffix.lower() not in FORMATS:
        raise UserError(
            f"{out}: a diagram is written as {', '.join(FORMATS)}; give the file one of these endings"
        )
    cls = MODELS[asked.model]
    model = cls(cls.padded(cls.example_shape), 10).eval()
    try:
        draw(model, out)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error}): name another with --out") from None
    print(out)
    return 0


class View(NamedTuple):
    """A pair of programs as they are run on some of their inputs."""

    title: str
    model: Relations
    guide: Relations


def views(model: LatentVariableModel, batch: int | None = None) -> list[View]:
    """The pair with what it must be given; with all that it may be given; with its label observed.

    `batch` is how many images a batch has, the model's own default where it is not given.
    """
    optional = {
        name
        for name, parameter in inspect.signature(model.model).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    inputs = _inputs(model, batch or model.defaults["batch_size"])
    least = {name: value for name, value in inputs.items() if name not in optional}
    first = _view("", model, least)
    if "y" not in first.guide.nodes or "y" in model.inputs:
        return [first]
    found = [first._replace(title="y unobserved")]
    if optional & inputs.keys():
        names = ", ".join(name.removesuffix("_labelled") for name in inputs if name in optional)
        found.append(_view(f"some ({names}) observed", model, inputs))
    y = one_hot(torch.arange(len(inputs["x"])) % model.classes, model.classes).float()
    return [*found, _view("x and y observed", model, least, y)]


def _inputs(model: LatentVariableModel, batch: int) -> dict[str, Tensor]:
    """Inputs of the sizes that training gives."""
    inputs = example_inputs(model, batch)
    labels = getattr(model, "labels", None)
    if labels and "x_labelled" in inputs:
        times = -(-labels // len(inputs["x_labelled"]))
        for name in ("x_labelled", "y_labelled"):
            inputs[name] = torch.cat([inputs[name]] * times)[:labels]
    return inputs


def _view(title: str, model: LatentVariableModel, inputs: dict[str, Tensor], y: Tensor | None = None) -> View:
    data: dict[str, Any] = {} if y is None else {"y": y}
    programs = {name: poutine.condition(getattr(model, name), data=data) for name in ("model", "guide")}
    everything = set(inputs)
    return View(
        title,
        relations(programs["model"], model, inputs, everything - {"x"}),
        relations(programs["guide"], model, inputs, everything),
    )


def factorisation(graph: Relations, letter: str) -> list[str]:
    """The density of a program as a product, one factor a variable, one line for what shares no plate.

    As mathtext: $p(x, z) = p(z) p(x | z)$. Nothing where nothing is random.
    """
    lines = []
    for group in apart(graph):
        free = [node.name for node in group if node.kind == "random" and not given(node, letter)]
        joint = sorted(free, key=lambda name: name != "x")  # x first, the others in the program's order
        outside = [node.name for node in group if node.kind == "input" or given(node, letter)]
        factors = [f"{letter}({_conditional([name], graph.parents(name))})" for name in free]
        whole = f"{letter}({_conditional(joint, outside)})"
        if free:
            product = r"\,".join(factors)
            lines.append(f"${whole} = {product}$" if len(free) > 1 else f"${product}$")
    return lines


def _conditional(names: Iterable[str], parents: Iterable[str]) -> str:
    head, tail = (", ".join(symbol(name) for name in part) for part in (names, parents))
    return rf"{head} \mid {tail}" if tail else head


def families(graph: Relations, letter: str) -> str:
    """The family of every variable, as mathtext: z ~ Normal, x ~ BernoulliImage."""
    free = [node for node in graph.nodes.values() if node.kind == "random" and not given(node, letter)]
    masked = {True: " (no term)", False: ""}
    return ",   ".join(
        rf"${symbol(node.name)} \sim$ {node.distribution}{masked[node.masked]}" for node in free
    )


def describe(shown: Iterable[View]) -> str:
    """What a diagram shows, in words: they are kept in its file, so that it can be held against the code."""
    lines = []
    for view in shown:
        for title, graph in (("model", view.model), ("guide", view.guide)):
            lines += [f"{title}: {view.title}".rstrip(": "), *map(str, graph.nodes.values())]
            lines += [*map(str, graph.edges), str(graph.plates)]
    return "\n".join(lines)


def draw(model: LatentVariableModel, path: Path, batch: int | None = None) -> None:
    """Draw every view of a model, a row each, the model at the left and the guide at the right."""
    rows, shown = [], views(model, batch)
    for view in shown:
        here = places(view.model, {})
        rows.append([("model", "p", view.model, here), ("guide", "q", view.guide, places(view.guide, here))])
    boxes = [[extent(graph, at) for _, _, graph, at in row] for row in rows]
    wide = max(5.4, *(right - left for row in boxes for left, right, _, _ in row))
    lines = [max(len(factorisation(graph, letter)) for _, letter, graph, _ in row) for row in rows]
    below = [0.6 + 0.42 * count for count in lines]  # for the formulae
    heights = [
        max(box[3] for box in row) - min(box[2] for box in row) + 0.6 + room
        for row, room in zip(boxes, below, strict=True)
    ]
    size, ratios = (2 * wide * INCHES, sum(heights) * INCHES), {"height_ratios": heights}
    figure, panels = subplots(len(rows), 2, figsize=size, squeeze=False, gridspec_kw=ratios)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0, hspace=0)
    for row, view, row_boxes, room, pair in zip(rows, shown, boxes, below, panels, strict=True):
        low, high = min(box[2] for box in row_boxes), max(box[3] for box in row_boxes)
        for (title, letter, graph, at), box, axes in zip(row, row_boxes, pair, strict=True):
            centre = (box[0] + box[1]) / 2
            axes.set_axis_off()
            axes.set_xlim(centre - wide / 2, centre + wide / 2)
            axes.set_ylim(low - room, high + 0.6)
            words = f"{type(model).__name__}, {title}" + f": {view.title}" * bool(view.title)
            middle = {"ha": "center", "va": "center"}
            axes.text(centre, high + 0.25, words, fontsize=12, **middle)
            draw_graph(axes, graph, at, letter)
            formulae = factorisation(graph, letter) or ["no latents: the guide is empty"]
            for i, line in enumerate(formulae):
                axes.text(centre, low - 0.2 - 0.42 * i, line, fontsize=12.5, **middle)
            small = {"fontsize": 9, "color": "0.35", **middle}
            axes.text(centre, low - 0.2 - 0.42 * len(formulae), families(graph, letter), **small)
    where = "Subject" if path.suffix.lower() == ".pdf" else "Description"
    figure.savefig(path, dpi=150, metadata={where: describe(shown)})


if __name__ == "__main__":
    run_command(main)
