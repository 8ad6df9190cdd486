"""Plate diagrams of a model and its guide, side by side, read off a run of the two Pyro programs.

Circles are random variables, shaded if observed. A double circle is deterministic; a dashed circle has no
term in the objective; dots are learned parameters outside of networks. A box is a plate with its name and
size. The label of an edge names the networks that it passes through. A diagram changes when its programs do.
"""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import one_hot

from inference.plots.canvas import subplots
from inference.plots.diagram import draw_graph, extent, group_by_plate, has_no_factor, node_places, symbol
from inference.plots.relations import Relations, relations
from ppl_models.base import LatentVariableModel

INCHES = 0.8  # per unit of length


class View(NamedTuple):
    """The graphs of a model and its guide for one choice of inputs."""

    title: str
    model: Relations
    guide: Relations


def views(model: LatentVariableModel, batch: int | None = None) -> list[View]:
    """Returns the views of a model: with its required inputs, with all inputs, and with its label observed.

    Models without optional inputs and without a latent label have a single view.

    Args:
        model: the model, in eval mode.
        batch: images per batch; by default the model's own.
    """
    optional = {
        name
        for name, parameter in inspect.signature(model.model).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    inputs = _inputs(model, batch or model.defaults["batch_size"])
    required = {name: value for name, value in inputs.items() if name not in optional}
    first = _view("", model, required)
    if "y" not in first.guide.nodes or "y" in model.inputs:
        return [first]
    found = [first._replace(title="y unobserved")]
    if optional & inputs.keys():
        names = ", ".join(name.removesuffix("_labelled") for name in inputs if name in optional)
        found.append(_view(f"some ({names}) observed", model, inputs))
    y = one_hot(torch.arange(len(inputs["x"])) % model.classes, model.classes).float()
    return [*found, _view("x and y observed", model, required, y)]


def _inputs(model: LatentVariableModel, batch: int) -> dict[str, Tensor]:
    """Returns random inputs of the sizes that training uses."""
    from inference.data.examples import example_inputs

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


def factorisation(graph: Relations, letter: str, guide: Relations | None = None) -> list[str]:
    """Returns the density of a program as products of one factor per variable.

    Args:
        graph: the graph of a model or a guide.
        letter: "p" for a model, "q" for a guide.
        guide: the guide of a model. If given, a plate of the model whose variables are densities of the guide
            gets the letter "q", as the labels of the semi-supervised model.

    Returns:
        One line of mathtext per outermost plate, as `$p(x, z) = p(z) p(x | z)$`; no line without random
        variables.
    """
    lines = []
    for group in group_by_plate(graph):
        free = [node.name for node in group if node.kind == "random" and not has_no_factor(node, letter)]
        joint = sorted(free, key=lambda name: name != "x")  # x first, the others in the program's order
        outside = [node.name for node in group if node.kind == "input" or has_no_factor(node, letter)]
        of_guide = guide is not None and all(_is_of_guide(name, graph, guide) for name in free)
        of = "q" if of_guide else letter
        factors = [f"{of}({_conditional([name], graph.parents(name))})" for name in free]
        whole = f"{of}({_conditional(joint, outside)})"
        if free:
            product = r"\,".join(factors)
            lines.append(f"${whole} = {product}$" if len(free) > 1 else f"${product}$")
    return lines


def _is_of_guide(name: str, graph: Relations, guide: Relations) -> bool:
    """Whether a model observes a variable under a density of its guide, which has inputs as parents alone."""
    edges = [edge for edge in graph.edges if edge.child == name]
    used = {network for edge in edges for network in edge.networks}
    of_inputs = all(graph.nodes[edge.parent].kind == "input" for edge in edges)
    of_guide = {network for edge in guide.edges for network in edge.networks}
    return graph.nodes[name].observed and of_inputs and bool(used) and used <= of_guide


def _conditional(names: Iterable[str], parents: Iterable[str]) -> str:
    head, tail = (", ".join(symbol(name) for name in part) for part in (names, parents))
    return rf"{head} \mid {tail}" if tail else head


def families(graph: Relations, letter: str) -> str:
    """Returns the distribution family of each variable, as mathtext: z ~ Normal, x ~ BernoulliImage."""
    random = (node for node in graph.nodes.values() if node.kind == "random")
    masked = {True: " (no term)", False: ""}
    return ",   ".join(
        rf"${symbol(node.name)} \sim$ {node.distribution}{masked[node.masked]}"
        for node in random
        if not has_no_factor(node, letter)
    )


def describe(shown: Iterable[View]) -> str:
    """Returns views as text. Files store it, so that a test can compare a diagram with the code."""
    lines = []
    for view in shown:
        for title, graph in (("model", view.model), ("guide", view.guide)):
            lines += [f"{title}: {view.title}".rstrip(": "), *map(str, graph.nodes.values())]
            lines += [*map(str, graph.edges), str(graph.plates)]
    return "\n".join(lines)


def draw(model: LatentVariableModel, path: Path, batch: int | None = None) -> None:
    """Draws every view of a model, one per row, with the model on the left and the guide on the right.

    Args:
        model: the model, in eval mode.
        path: where the figure goes; the ending is one of `canvas.FORMATS`.
        batch: images per batch; by default the model's own.
    """
    rows, shown = [], views(model, batch)
    for view in shown:
        places = node_places(view.model, {})
        rows.append(
            [("model", "p", view.model, places), ("guide", "q", view.guide, node_places(view.guide, places))]
        )
    boxes = [[extent(graph, places) for _, _, graph, places in row] for row in rows]
    wide = max(5.4, *(right - left for row in boxes for left, right, _, _ in row))
    lines = [max(len(factorisation(graph, letter)) for _, letter, graph, _ in row) for row in rows]
    below = [0.6 + 0.42 * count for count in lines]  # height of the formulae
    heights = [
        max(box[3] for box in row) - min(box[2] for box in row) + 0.6 + space
        for row, space in zip(boxes, below, strict=True)
    ]
    size, ratios = (2 * wide * INCHES, sum(heights) * INCHES), {"height_ratios": heights}
    figure, panels = subplots(len(rows), 2, figsize=size, squeeze=False, gridspec_kw=ratios)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0, hspace=0)
    for row, view, row_boxes, space, pair in zip(rows, shown, boxes, below, panels, strict=True):
        low, high = min(box[2] for box in row_boxes), max(box[3] for box in row_boxes)
        for (title, letter, graph, places), box, axes in zip(row, row_boxes, pair, strict=True):
            centre = (box[0] + box[1]) / 2
            axes.set_axis_off()
            axes.set_xlim(centre - wide / 2, centre + wide / 2)
            axes.set_ylim(low - space, high + 0.6)
            words = f"{type(model).__name__}, {title}" + f": {view.title}" * bool(view.title)
            axes.text(centre, high + 0.25, words, fontsize=12, ha="center", va="center")
            draw_graph(axes, graph, places, letter)
            formulae = factorisation(graph, letter, view.guide) or ["no latents: the guide is empty"]
            _write_formulae(axes, formulae, families(graph, letter), centre, low - 0.2)
    where = "Subject" if path.suffix.lower() == ".pdf" else "Description"
    figure.savefig(path, dpi=150, metadata={where: describe(shown)})


def _write_formulae(axes: Any, formulae: list[str], distributions: str, x: float, y: float) -> None:
    """Writes the factorisation and the families below a graph, from `y` downwards."""
    for i, line in enumerate(formulae):
        text = axes.text(x, y - 0.42 * i, line, fontsize=12.5, ha="center", va="center")
        share = text.get_window_extent().width / axes.get_window_extent().width
        text.set_fontsize(12.5 * min(1.0, 0.96 / share))
    small = {
        "fontsize": 9 if len(distributions) < 120 else 7,
        "color": "0.35",
        "ha": "center",
        "va": "center",
    }
    axes.text(x, y - 0.42 * len(formulae), distributions, **small)
