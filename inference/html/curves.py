"""The curves of a report: panels that are readable without JavaScript, and show values at a step with it."""

from typing import Any

from markupsafe import Markup

from inference.html.formatting import count, unit, with_unit
from inference.html.page import part, table
from inference.plots.curves import curve_metrics, value_range
from inference.plots.labels import SPLITS, metric_title

WIDTH, HEIGHT = 400, 250  # of a panel, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 62, 26, 10, 44  # margins of the frame
MAX_LINES = 1_000  # measurements of a split that a page holds
Line = dict[str, Any]  # of metrics.jsonl


def curves(metrics: list[Line], what: str) -> Markup:
    """Returns every metric over training, one panel each, and a table of the values.

    Args:
        metrics: the lines of metrics.jsonl.
        what: one observation, for the units: image or point.
    """
    lines = [line for split in SPLITS for line in thinned([m for m in metrics if m["split"] == split])]
    names = curve_metrics(lines)
    splits = [split for split in SPLITS if any(line["split"] == split for line in lines)]
    series = {
        name: {
            split: [[line["step"], line[name]] for line in lines if line["split"] == split and name in line]
            for split in splits
        }
        for name in names
    }
    panels = [_panel(number, name, series[name], what) for number, name in enumerate(names)]
    data = {"series": series, "names": {name: title(name) for name in names}}
    return part("curves", panels, data, len(lines), _values(lines, names, what))


def thinned(lines: list[Line], most: int = MAX_LINES) -> list[Line]:
    """Returns every n-th line, the last one included, with the smallest n that leaves at most `most`."""
    every = -(-len(lines) // most)
    return lines[::-1][:: max(every, 1)][::-1]


def title(name: str) -> str:
    """Returns the heading of a metric's panel."""
    return "bits per dimension" if name == "bits_per_dim" else metric_title(name)


def _panel(number: int, name: str, series: dict[str, list[list[float]]], what: str) -> dict[str, Any]:
    """Returns the values that the template `panel` needs: frame, ticks, and a curve per split."""
    from matplotlib.ticker import MaxNLocator  # imported late: matplotlib takes a second

    points = [point for curve in series.values() for point in curve]
    last = max(step for step, _ in points)
    # The range ignores the first 3 % of the steps, whose values are far off.
    low, high = value_range([value for step, value in points if step >= 0.03 * last])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(step: float) -> float:
        return LEFT + (right - LEFT) * step / max(last, 1)

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (value - low) / (high - low)

    ticks = MaxNLocator(5, steps=[1, 2, 5, 10])
    x_ticks = [tick for tick in ticks.tick_values(0, max(last, 1)) if 0 <= tick <= last]
    y_ticks = [tick for tick in ticks.tick_values(low, high) if low <= tick <= high]
    shown = []
    for split, curve in series.items():
        if curve:
            path = (f"{x(step):.1f} {y(min(max(value, low - 9e9), 9e9)):.1f}" for step, value in curve)
            legend = {"split": split, "title": SPLITS[split][0], "value": f"{curve[-1][1]:.5g}"}
            shown.append(legend | {"path": "L".join(path)})
    return {
        **{"number": number, "term": name, "title": title(name), "last": last, "low": low, "high": high},
        **{"left": LEFT, "right": right, "top": TOP, "bottom": bottom, "width": WIDTH, "height": HEIGHT},
        "unit": _unit(name, what),
        "x": [(f"{x(tick):.1f}", count(tick)) for tick in x_ticks],
        "y": [(f"{y(tick):.1f}", f"{y(tick) + 4:.1f}", f"{round(tick, 12):g}") for tick in y_ticks],
        "curves": shown,
    }


def _unit(name: str, what: str) -> str:
    """Returns the unit of a curve, which shows fractions and not percentages."""
    measured = unit(name, what)
    return "fraction" if measured == "%" else measured


def _values(lines: list[Line], names: list[str], what: str) -> Markup:
    """Returns the table of the values behind the curves, training last."""
    head = ["step", "set", "seconds", *(with_unit(title(name), name, what) for name in names)]
    head = [cell.replace(", %", ", fraction") for cell in head]
    rows = []
    for line in sorted(lines, key=lambda line: (line["split"] == "train", line["step"])):
        cells = [f"{line[name]:.6g}" if name in line else "" for name in names]
        seconds = f"{line['seconds']:.1f}" if "seconds" in line else ""
        rows.append([count(line["step"]), line["split"], seconds, *cells])
    return table("Measurements", head, rows, "numbers")
