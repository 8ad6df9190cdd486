"""Figures of the masks of a MADE: numbered units, connections, and which output sees which input."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inference.plots.canvas import subplots
from inference.plots.diagram import LINE, SHADE
from ppl_models.nets.masked import MaskedMLP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADIUS, ACROSS = 0.3, 2.6  # of a unit; between two layers


def visible_inputs(connections: Sequence[Tensor]) -> Tensor:
    """Returns which outputs are connected to which inputs, through all layers.

    Args:
        connections: the masks of the layers, `(out, in)` each.

    Returns:
        Booleans `(outputs, inputs)`.
    """
    reached = torch.eye(connections[0].shape[1])
    for layer in connections:
        reached = (layer.to(reached) @ reached).clamp(max=1)
    return reached > 0


def conditional(output: int, visible: Tensor) -> str:
    """Returns the conditional of an output in mathtext, p(x3 | x1, x2), from its visible inputs `(in,)`."""
    names = [f"x_{{{i + 1}}}" for i, is_visible in enumerate(visible.tolist()) if is_visible]
    return f"$p(x_{{{output + 1}}}" + r" \mid " * bool(names) + f"{', '.join(names)})$"


def draw(network: MaskedMLP, path: Path) -> None:
    """Draws every set of masks, one per row: the network, and which output sees which input."""
    widest = max(len(numbers) for numbers in network.degrees())
    wide, square = ACROSS * (len(network.layers) + 2), len(network.degrees()[0]) + 1.5
    inches = 0.62
    figure, panels = subplots(
        network.masks,
        2,
        figsize=((wide + square + 1) * inches, (widest + 1.6) * inches * network.masks),
        squeeze=False,
        gridspec_kw={"width_ratios": [wide, square]},
        layout="constrained",
    )
    for index, (left, right) in enumerate(panels):
        visible = visible_inputs(network.connections(index))
        _draw_network(left, network.degrees(index), network.connections(index), visible)
        _draw_matrix(right, visible)
        which = f", masks {index + 1} of {network.masks}" if network.masks > 1 else ""
        title = (
            f"position of each pixel in the ordering, and the last position that a hidden unit sees{which}"
        )
        left.set_title(title, fontsize=10)
        right.set_title("which output sees which input", fontsize=10)
    figure.savefig(path, dpi=150)


def _draw_network(axes: "Axes", units: list[Tensor], connections: list[Tensor], visible: Tensor) -> None:
    """Draws layers from left to right, with the first unit on top."""
    from matplotlib.patches import Circle

    places = [
        [(ACROSS * layer, (len(numbers) - 1) / 2 - i) for i in range(len(numbers))]
        for layer, numbers in enumerate(units)
    ]
    for (starts, ends), mask in zip(itertools.pairwise(places), connections, strict=True):
        for output, inp in mask.nonzero().tolist():
            axes.plot(*zip(starts[inp], ends[output], strict=True), color=LINE, lw=0.8, zorder=1)
    for layer, (numbers, column) in enumerate(zip(units, places, strict=True)):
        for number, at in zip(numbers.tolist(), column, strict=True):
            face = SHADE if layer in (0, len(units) - 1) else "white"
            axes.add_patch(Circle(at, RADIUS, facecolor=face, edgecolor=LINE, lw=1.2, zorder=2))
            axes.text(*at, str(number), ha="center", va="center", fontsize=10, zorder=3)
    style: dict[str, Any] = {"va": "center", "fontsize": 11}
    for i, (x, y) in enumerate(places[0]):
        axes.text(x - 0.45, y, f"$x_{{{i + 1}}}$", ha="right", **style)
    for i, (x, y) in enumerate(places[-1]):
        axes.text(x + 0.45, y, conditional(i, visible[i]), ha="left", **style)
    axes.set_xlim(-1.2, ACROSS * (len(units) + 0.6))
    axes.set_aspect("equal")
    axes.set_axis_off()


def _draw_matrix(axes: "Axes", visible: Tensor) -> None:
    """Draws a square per output and input, filled if the output sees the input."""
    n = len(visible)
    axes.imshow(visible, cmap="Greys", vmin=0, vmax=1.4)
    names = [f"$x_{{{i + 1}}}$" for i in range(n)]
    axes.set_xticks(range(n), names)
    axes.set_yticks(range(n), names)
    axes.set_xticks([i + 0.5 for i in range(n - 1)], minor=True)
    axes.set_yticks([i + 0.5 for i in range(n - 1)], minor=True)
    axes.grid(which="minor", color="0.6", lw=0.6)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("input")
    axes.set_ylabel("output")
