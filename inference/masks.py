"""A small MADE drawn from its masks: units with their numbers, connections that survive, who sees whom.

python -m inference.masks                                         writes masks.png: 4 pixels, two layers of 6
python -m inference.masks --order random --masks 3 --out masks.svg

The network drawn is the one that `python -m inference.svi --model made` trains at this size with the same
`--seed`, and the masks are read from it.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from inference.cli.options import Parser, positive, seed
from inference.errors import UserError, run_command, unknown
from inference.graph import FORMATS
from inference.plots.canvas import subplots
from inference.plots.diagram import LINE, SHADE
from ppl_models import MADE
from ppl_models.nets.masked import MaskedMLP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADIUS, ACROSS = 0.3, 2.6  # of a unit; between two layers


def main(arguments: list[str]) -> int:
    """Draw a MADE's masks into a file. Raises UserError where that cannot be."""
    parser = Parser(prog="python -m inference.masks", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    for name, default, about in (
        ("pixels", 4, "inputs, and outputs"),
        ("hidden", 6, "width of each hidden layer"),
        ("layers", 2, "hidden layers"),
        ("masks", 1, "sets of masks, a row each"),
    ):
        words = f"{about} (default: {default})"
        add(f"--{name}", type=positive(int), default=default, metavar="N", help=words)
    orders = get_args(get_args(MADE.options()["order"].annotation)[0])
    words = f"of the pixels: {', '.join(orders)} (default: {orders[0]})"
    add("--order", default=orders[0], metavar="NAME", help=words)
    words = "of the orders and of the hidden units' numbers (default: 0)"
    add("--seed", type=seed, default=0, metavar="N", help=words)
    words = f"where to, with one of {', '.join(FORMATS)} (default: masks.png)"
    add("--out", type=Path, default=Path("masks.png"), metavar="FILE", help=words)
    asked = parser.parse_args(arguments)
    if asked.order not in orders:
        raise unknown("order", asked.order, orders)
    if asked.out.suffix.lower() not in FORMATS:
        raise UserError(f"{asked.out}: give the file one of the endings {', '.join(FORMATS)}")
    size = {"hidden": asked.hidden, "layers": asked.layers, "order": asked.order, "masks": asked.masks}
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(asked.seed)
            network = MADE((1, 1, asked.observation), **size).network
        draw(network, asked.out)
    except OSError as error:
        raise UserError(
            f"cannot write {asked.out} ({error.strerror or error}): name another with --out"
        ) from None
    print(asked.out)
    return 0


def sees(connections: Sequence[Tensor]) -> Tensor:
    """Which output a path leads to from which input, along the connections of every layer: (out, in)."""
    reached = torch.eye(connections[0].shape[1])
    for layer in connections:
        reached = (layer.to(reached) @ reached).clamp(max=1)
    return reached > 0


def conditional(output: int, seen: Tensor) -> str:
    """p(x3 | x1, x2) in mathtext, of an output and which inputs it sees: (in,), true or false."""
    names = [f"x_{{{i + 1}}}" for i, is_seen in enumerate(seen.tolist()) if is_seen]
    return f"$p(x_{{{output + 1}}}" + r" \mid " * bool(names) + f"{', '.join(names)})$"


def draw(network: MaskedMLP, path: Path) -> None:
    """Draw every set of masks, a row each: the network, and beside it which output sees which input."""
    widest = max(len(numbers) for numbers in network.units())
    wide, square = ACROSS * (len(network.layers) + 2), len(network.units()[0]) + 1.5
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
        seen = sees(network.connections(index))
        _draw_network(left, network.units(index), network.connections(index), seen)
        _draw_seen(right, seen)
        which = f", masks {index + 1} of {network.masks}" if network.masks > 1 else ""
        left.set_title(
            f"a pixel's place in the ordering, and up to which place a hidden unit sees{which}", fontsize=10
        )
        right.set_title("which output sees which input", fontsize=10)
    figure.savefig(path, dpi=150)


def _draw_network(axes: "Axes", units: list[Tensor], connections: list[Tensor], seen: Tensor) -> None:
    """Layers from left to right, the first unit on top."""
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
    beside: dict[str, Any] = {"va": "center", "fontsize": 11}
    for i, (x, y) in enumerate(places[0]):
        axes.text(x - 0.45, y, f"$x_{{{i + 1}}}$", ha="right", **beside)
    for i, (x, y) in enumerate(places[-1]):
        axes.text(x + 0.45, y, conditional(i, seen[i]), ha="left", **beside)
    axes.set_xlim(-1.2, ACROSS * (len(units) + 0.6))
    axes.set_aspect("equal")
    axes.set_axis_off()


def _draw_seen(axes: "Axes", seen: Tensor) -> None:
    """A square for every output and input, filled where a path leads from the one to the other."""
    n = len(seen)
    axes.imshow(seen, cmap="Greys", vmin=0, vmax=1.4)
    names = [f"$x_{{{i + 1}}}$" for i in range(n)]
    axes.set_xticks(range(n), names)
    axes.set_yticks(range(n), names)
    axes.set_xticks([i + 0.5 for i in range(n - 1)], minor=True)
    axes.set_yticks([i + 0.5 for i in range(n - 1)], minor=True)
    axes.grid(which="minor", color="0.6", lw=0.6)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("input")
    axes.set_ylabel("output")


if __name__ == "__main__":
    run_command(main)
