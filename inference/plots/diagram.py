"""Layout and drawing of the graph of a program: places of nodes, circles, arrows and boxes."""

from typing import TYPE_CHECKING, Any

from inference.plots.relations import Edge, Node, Relations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADIUS = 0.42
ACROSS, DOWN = 2.3, 1.8  # between the centres of two nodes
SHADE, LINE = "0.82", "0.15"

Places = dict[str, tuple[float, float]]


def node_places(graph: Relations, fixed: Places) -> Places:
    """Returns the centre of each node: plates side by side, and parents above their children.

    Args:
        graph: the graph of a program.
        fixed: nodes that already have a place, and keep it.

    Returns:
        A place for every node. A parameter is to the left of the node that depends on it.
    """
    found: Places = {name: fixed[name] for name in graph.nodes if name in fixed}
    left = max((x for x, _ in found.values()), default=-ACROSS) + ACROSS
    for group in ([node for node in group if node.name not in found] for group in group_by_plate(graph)):
        levels: dict[str, int] = {}
        for node in group:  # in the order of the program, in which parents come first
            above = [levels[name] for name in graph.parents(node.name) if name in levels]
            levels[node.name] = max(above, default=-1) + 1
        deepest = max(levels.values(), default=-1)
        rows = [[name for name, level in levels.items() if level == row] for row in range(deepest + 1)]
        width = max(map(len, rows), default=0)
        aside = (
            ACROSS / 2 if deepest > 1 else 0.0
        )  # the first and last rows move aside for edges that skip a row
        for row, names in enumerate(rows):
            start = left + ACROSS * (width - len(names)) / 2 + aside * (row in (0, deepest))
            found |= {name: (start + ACROSS * i, -DOWN * row) for i, name in enumerate(names)}
        left += ACROSS * width + aside + 0.6
    edge = min((x for x, _ in found.values()), default=0.0)
    stacked: dict[str, int] = {}  # number of parameters that are placed next to a node
    for node in graph.nodes.values():
        if node.kind == "parameter":
            child = next(edge.child for edge in graph.edges if edge.parent == node.name)
            order = stacked[child] = stacked.get(child, -1) + 1
            found[node.name] = (edge - ACROSS, found[child][1] + 0.6 * order)
    return found


def group_by_plate(graph: Relations) -> list[list[Node]]:
    """Returns the nodes except parameters, grouped by outermost plate; the plate of x comes first."""
    groups: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        if node.kind != "parameter":
            groups.setdefault(node.plates[0] if node.plates else "", []).append(node)
    return sorted(groups.values(), key=lambda group: all(node.name != "x" for node in group))


def has_no_factor(node: Node, letter: str) -> bool:
    """Returns whether the node is an input of a guide ("q"): observed variables have no factor there."""
    return letter == "q" and node.observed


def extent(graph: Relations, at: Places) -> tuple[float, float, float, float]:
    """Returns left, right, bottom and top of the drawing of a graph with its nodes at these places."""
    x, y = zip(*at.values() or [(0.0, 0.0)], strict=True)
    nested = max((len(node.plates) - 1 for node in graph.nodes.values()), default=0)  # depth of nested plates
    side = 1.0 + 0.12 * nested
    return min(x) - side, max(x) + side, min(y) - 1.1 - 0.37 * nested, max(y) + 0.8 + 0.12 * nested


def draw_graph(axes: "Axes", graph: Relations, at: Places, letter: str) -> None:
    """Draws the graph of a model (letter "p") or a guide ("q") with its nodes at these places."""
    for plate, size in graph.plates.items():
        inside = [node for node in graph.nodes.values() if plate in node.plates]
        within = max(len(node.plates) - 1 - node.plates.index(plate) for node in inside)  # plates inside it
        _draw_plate(axes, [at[node.name] for node in inside], f"{plate}, n = {size}", within)
    between: dict[tuple[str, str], list[Edge]] = {}
    for edge in graph.edges:
        if not has_no_factor(graph.nodes[edge.child], letter):  # inputs of a guide have no incoming edges
            between.setdefault((edge.parent, edge.child), []).append(edge)
    for edges in between.values():
        _draw_edges(axes, edges, graph, at)
    for name, node in graph.nodes.items():
        _draw_node(axes, node, at[name])


def _draw_plate(axes: "Axes", inside: list[tuple[float, float]], words: str, within: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    margin = 0.75 + 0.12 * within
    x, y = zip(*inside, strict=True)
    low, left = min(y) - margin - 0.2 - 0.25 * within, min(x) - margin
    box = FancyBboxPatch(
        (left, low),
        max(x) + margin - left,
        max(y) + margin - low,
        boxstyle="round,pad=0,rounding_size=0.12",
        fill=False,
        edgecolor=LINE,
        linewidth=1.0,
    )
    axes.add_patch(box)
    axes.text(max(x) + margin - 0.1, low + 0.09, words, ha="right", va="bottom", fontsize=8.5)


def _draw_node(axes: "Axes", node: Node, at: tuple[float, float]) -> None:
    from matplotlib.patches import Circle

    if node.kind == "parameter":
        axes.add_patch(Circle(at, 0.07, color=LINE, zorder=3))
        axes.text(at[0], at[1] + 0.14, f"${symbol(node.name)}$", ha="center", va="bottom", fontsize=11)
        return
    style: dict[str, Any] = {"facecolor": SHADE if node.observed else "white", "edgecolor": LINE, "zorder": 3}
    axes.add_patch(Circle(at, RADIUS, linewidth=1.2, linestyle="--" if node.masked else "-", **style))
    if node.is_deterministic:
        axes.add_patch(Circle(at, RADIUS - 0.06, linewidth=1.0, **style))
    label = f"${symbol(node.name)}$"
    axes.text(*at, label, ha="center", va="center", fontsize=17 if len(node.name) < 4 else 12, zorder=4)


def symbol(name: str) -> str:
    """Returns a name in mathtext: the index of z1 and the word of x_labelled become subscripts."""
    head, _, word = name.partition("_")
    letter = head.rstrip("0123456789")
    if len(letter) > 1:  # a word, not a letter
        return rf"\mathrm{{{name.replace('_', ' ')}}}".replace(" ", r"\ ")
    below = ",".join(filter(None, [head.removeprefix(letter), word.replace("_", r"\ ")]))
    return rf"{letter}_{{\mathrm{{{below}}}}}" if below else letter


def _draw_edges(axes: "Axes", edges: list[Edge], graph: Relations, at: Places) -> None:
    """Draws one arrow for all edges between two nodes, with one line of text per edge."""
    from matplotlib.patches import FancyArrowPatch

    edge = edges[0]
    start, end = at[edge.parent], at[edge.child]
    bend = _bend(edge, at)
    shrink = 0.07 if graph.nodes[edge.parent].kind == "parameter" else RADIUS
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx**2 + dy**2) ** 0.5
    tail = (start[0] + dx / length * shrink, start[1] + dy / length * shrink)
    head = (end[0] - dx / length * (RADIUS + 0.02), end[1] - dy / length * (RADIUS + 0.02))
    arrow = FancyArrowPatch(
        tail,
        head,
        arrowstyle="-|>",
        mutation_scale=13,
        linewidth=1.1,
        color=LINE,
        shrinkA=0,
        shrinkB=0,
        connectionstyle=f"arc3,rad={bend}",
        zorder=2,
    )
    axes.add_patch(arrow)
    paths = [", ".join(network.replace("_", " ") for network in edge.networks) for edge in edges]
    if any(paths):
        middle = ((start[0] + end[0]) / 2 + bend * dy / 2, (start[1] + end[1]) / 2 - bend * dx / 2)
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        axes.text(
            *middle,
            "\n".join(filter(None, paths)),
            ha="center",
            va="center",
            fontsize=8.5,
            style="italic",
            bbox=paper,
            zorder=2.5,
        )


def _bend(edge: Edge, at: Places) -> float:
    """Returns the curvature that an edge needs to avoid a node on the straight line between its ends."""
    (x0, y0), (x1, y1) = at[edge.parent], at[edge.child]
    dx, dy = x1 - x0, y1 - y0
    length = (dx**2 + dy**2) ** 0.5
    for name, (x, y) in at.items():
        along = ((x - x0) * dx + (y - y0) * dy) / length**2
        across = ((x - x0) * dy - (y - y0) * dx) / length
        if name not in (edge.parent, edge.child) and 0 < along < 1 and abs(across) < RADIUS + 0.3:
            return -0.3 if across > 0 else 0.3
    return 0.0
