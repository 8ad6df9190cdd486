"""The curves of a report: panels that can be read without a program, and by pointer and keys with one."""

import json
from html import escape
from typing import Any

from inference.figures import LABELS, SPLITS
from inference.report_page import count, table, unit, with_unit

WIDTH, HEIGHT = 400, 250  # of a panel, in its own units
LEFT, RIGHT, TOP, BOTTOM = 62, 26, 10, 44  # of the frame in it
LINES = 1_000  # of a split that are kept: a page has a size
Line = dict[str, Any]  # of metrics.jsonl


def curves(metrics: list[Line], what: str) -> str:
    """Every term over training, a panel each, with a table of the values behind them; `what`: image, point.

    Panels hold what curves.js needs to read values at a step.
    """
    lines = [line for split in SPLITS for line in thinned([m for m in metrics if m["split"] == split])]
    names = terms(lines)
    splits = [split for split in SPLITS if any(line["split"] == split for line in lines)]
    series = {
        name: {
            split: [[line["step"], line[name]] for line in lines if line["split"] == split and name in line]
            for split in splits
        }
        for name in names
    }
    panels = [_panel(name, series[name], what) for name in names]
    data = json.dumps({"series": series, "names": {name: title(name) for name in names}})
    return (
        f'<div class="curves"><div class="panels">{"".join(panels)}</div>'
        f'<script type="application/json">{data}</script></div>\n{_values(lines, names, what)}'
    )


def thinned(lines: list[Line], most: int = LINES) -> list[Line]:
    """Every n-th line, so that at most so many are left, with the last."""
    every = -(-len(lines) // most)
    return lines[::-1][:: max(every, 1)][::-1]


def terms(lines: list[Line]) -> list[str]:
    """The names of what was measured. The sum of divergences is left out where there is one alone."""
    names = list(dict.fromkeys(key for line in lines for key in line))
    names = [name for name in names if name not in ("step", "split", "seconds")]
    if sum(name.startswith("kl_") for name in names) == 1:
        names.remove("kl")
    return names


def title(name: str) -> str:
    """A term as a panel's heading."""
    if name == "bits_per_dim":
        return "bits per dimension"
    latent = name.removeprefix("kl_")
    return LABELS.get(name, f"KL of {latent}, q({latent} | x) from p({latent})" if latent != name else name)


def _panel(name: str, series: dict[str, list[list[float]]], what: str) -> str:
    """One term: axes, a curve a split, and a legend with each one's last value."""
    from matplotlib.ticker import MaxNLocator  # imported late: matplotlib takes a second

    points = [point for curve in series.values() for point in curve]
    last = max(step for step, _ in points)
    # The first steps fall from far above: without them in the vertical range the rest can be read.
    late = [value for step, value in points if step >= 0.03 * last]
    margin = max(0.06 * (max(late) - min(late)), 1e-3 * abs(max(late))) or 0.1
    low, high = min(late) - margin, max(late) + margin
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(step: float) -> float:
        return LEFT + (right - LEFT) * step / max(last, 1)

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (value - low) / (high - low)

    grid = []
    for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, max(last, 1)):
        if 0 <= tick <= last:
            grid.append(f'<path class="grid" d="M{x(tick):.1f} {TOP}V{bottom}"/>')
            at = f'x="{x(tick):.1f}" y="{bottom + 16}"'
            grid.append(f'<text {at} text-anchor="middle">{count(tick)}</text>')
    for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high):
        if low <= tick <= high:
            grid.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{right}"/>')
            at = f'x="{LEFT - 6}" y="{y(tick) + 4:.1f}"'
            grid.append(f'<text {at} text-anchor="end">{round(tick, 12):g}</text>')
    middle = (TOP + bottom) / 2
    measured = unit(name, what) if unit(name, what) != "%" else "share"
    grid.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>')
    grid.append(
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(measured)}</text>'
    )
    drawn, legend = [], []
    for split, curve in series.items():
        if curve:
            path = "L".join(
                f"{x(step):.1f} {y(min(max(value, low - 9e9), 9e9)):.1f}" for step, value in curve
            )
            drawn.append(f'<path class="line {split}" d="M{path}"/>')
            legend.append(
                f'<li class="{split}" data-series="{split}">{escape(SPLITS[split][0])} '
                f"<output>{curve[-1][1]:.5g}</output></li>"
            )
    frame = f'x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"'
    heading = escape(title(name))
    box = f'data-left="{LEFT}" data-right="{right}" data-top="{TOP}" data-bottom="{bottom}"'
    return (
        f'<figure class="panel" data-term="{name}" data-last="{last}" data-low="{low}" data-high="{high}" '
        f'{box}><figcaption>{heading}</figcaption><ul class="legend">{"".join(legend)}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{heading} over training, in '
        f'{escape(measured)}; its values are in the table below"><clipPath id="in-{name}"><rect {frame}/>'
        f'</clipPath>{"".join(grid)}<rect class="frame" {frame}/>'
        f'<g clip-path="url(#in-{name})">{"".join(drawn)}</g></svg></figure>'
    )


def _values(lines: list[Line], names: list[str], what: str) -> str:
    """The values behind the curves, folded away: the held-out sets first."""
    head = ["step", "set", "seconds", *(with_unit(title(name), name, what) for name in names)]
    head = [cell.replace(", %", ", share") for cell in head]
    rows = []
    for line in sorted(lines, key=lambda line: (line["split"] == "train", line["step"])):
        cells = [f"{line[name]:.6g}" if name in line else "" for name in names]
        seconds = f"{line['seconds']:.1f}" if "seconds" in line else ""
        every = "".join(f"<td>{cell}</td>" for cell in (line["split"], seconds, *cells))
        rows.append(f'<th scope="row">{count(line["step"])}</th>{every}')
    return (
        f"<details><summary>The {len(lines)} measurements behind the curves</summary>"
        f"{table('Measurements', head, rows, 'numbers')}</details>"
    )
