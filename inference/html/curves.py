"""The curves of a report: panels that can be read without a program, and by pointer and keys with one."""

from typing import Any

from markupsafe import Markup

from inference.html.page import count, part, table, unit, with_unit
from inference.plots.images import LABELS, SPLITS

WIDTH, HEIGHT = 400, 250  # of a panel, in its own units
LEFT, RIGHT, TOP, BOTTOM = 62, 26, 10, 44  # of the frame in it
LINES = 1_000  # of a split that are kept: a page has a size
Line = dict[str, Any]  # of metrics.jsonl


def curves(metrics: list[Line], what: str) -> Markup:
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
    panels = [_panel(number, name, series[name], what) for number, name in enumerate(names)]
    data = {"series": series, "names": {name: title(name) for name in names}}
    return part("curves", panels, data, len(lines), _values(lines, names, what))


def thinned(lines: list[Line], most: int = LINES) -> list[Line]:
    """Every n-th line, so that at most so many are left, with the last."""
    every = -(-len(lines) // most)
    return lines[::-1][:: max(every, 1)][::-1]


def terms(lines: list[Line]) -> list[str]:
    """The names of what was measured. The sum of divergences is left out where there is one alone."""
    names = list(dict.fromkeys(key for line in lines for key in line))
    names = [name for name in names if name not in ("step", "split", "seconds")]
    if sum(name.startswith("kl_") for name in names) == 1:
        names = [name for name in names if name != "kl"]
    return names


def title(name: str) -> str:
    """A term as a panel's heading."""
    if name == "bits_per_dim":
        return "bits per dimension"
    latent = name.removeprefix("kl_")
    return LABELS.get(name, f"KL of {latent}, q({latent} | x) from p({latent})" if latent != name else name)


def _panel(number: int, name: str, series: dict[str, list[list[float]]], what: str) -> dict[str, Any]:
    """One term for the template: the frame, ticks, a curve a split, and each one's last value."""
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

    ticks = MaxNLocator(5, steps=[1, 2, 5, 10])
    across = [tick for tick in ticks.tick_values(0, max(last, 1)) if 0 <= tick <= last]
    up = [tick for tick in ticks.tick_values(low, high) if low <= tick <= high]
    drawn = []
    for split, curve in series.items():
        if curve:
            at = (f"{x(step):.1f} {y(min(max(value, low - 9e9), 9e9)):.1f}" for step, value in curve)
            shown = {"split": split, "title": SPLITS[split][0], "value": f"{curve[-1][1]:.5g}"}
            drawn.append(shown | {"path": "L".join(at)})
    return {
        **{"number": number, "term": name, "title": title(name), "last": last, "low": low, "high": high},
        **{"left": LEFT, "right": right, "top": TOP, "bottom": bottom, "width": WIDTH, "height": HEIGHT},
        "unit": unit(name, what) if unit(name, what) != "%" else "share",
        "x": [(f"{x(tick):.1f}", count(tick)) for tick in across],
        "y": [(f"{y(tick):.1f}", f"{y(tick) + 4:.1f}", f"{round(tick, 12):g}") for tick in up],
        "curves": drawn,
    }


def _values(lines: list[Line], names: list[str], what: str) -> Markup:
    """The values behind the curves: the held-out sets first."""
    head = ["step", "set", "seconds", *(with_unit(title(name), name, what) for name in names)]
    head = [cell.replace(", %", ", share") for cell in head]
    rows = []
    for line in sorted(lines, key=lambda line: (line["split"] == "train", line["step"])):
        cells = [f"{line[name]:.6g}" if name in line else "" for name in names]
        seconds = f"{line['seconds']:.1f}" if "seconds" in line else ""
        rows.append([count(line["step"]), line["split"], seconds, *cells])
    return table("Measurements", head, rows, "numbers")
