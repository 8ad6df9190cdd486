"""Figures of numbers: training curves and the histogram of Pareto k-hat."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from inference.backend.files import save_figure
from inference.plots.canvas import subplots
from inference.plots.labels import REPLACED_BY, SPLITS, UNITS, metric_title

Line = dict[str, Any]  # of metrics.jsonl


def curve_metrics(lines: list[Line]) -> list[str]:
    """Returns the names of the metrics in lines of metrics.jsonl.

    Leaves out `kl` if the model has a single KL term, because the two are equal.
    """
    names = dict.fromkeys(key for line in lines for key in line)
    single_kl = sum(name.startswith("kl_") for name in names) == 1
    left_out = {"step", "split", "seconds", *(["kl"] if single_kl else [])}
    return [name for name in names if name not in left_out]


def figure_metrics(lines: list[Line], dims: int | None = None) -> list[str]:
    """Returns the names of the metrics that a figure shows: without constant KL terms and repeated curves.

    Args:
        lines: lines of metrics.jsonl.
        dims: see `draw_curves`; if given, an axis in bits takes the place of the metric in bits.
    """
    names = curve_metrics(lines)
    if dims and "bits_per_dim" in names:
        names.remove("bits_per_dim")
    values = {name: {line[name] for line in lines if name in line} for name in names}
    constant = {name for name in names if name.startswith("kl") and len(values[name]) == 1}
    repeated = {name for name in names if any(other in names for other in REPLACED_BY.get(name, ()))}
    return [name for name in names if name not in constant | repeated] or names


def value_range(values: list[float]) -> tuple[float, float]:
    """Returns the vertical range of a panel: all values and a margin, which is positive for constants too."""
    margin = max(0.06 * (max(values) - min(values)), 1e-3 * abs(max(values))) or 0.1
    return min(values) - margin, max(values) + margin


def draw_curves(metrics: list[Line], path: Path, what: str = "image", dims: int | None = None) -> None:
    """Draws the metrics over training, one panel per metric and one line per split.

    Args:
        metrics: the lines of metrics.jsonl.
        path: where the figure goes.
        what: one observation, for the units: image or point.
        dims: dimensions per observation; if given, panels in nats have a second axis in bits per dimension.
    """
    from matplotlib.lines import Line2D  # imported late: matplotlib takes a second

    lines = {split: [line for line in metrics if line["split"] == split] for split in SPLITS}
    names = figure_metrics([line for split in SPLITS for line in lines[split]], dims)
    rows = -(-len(names) // 4)
    columns = -(-len(names) // rows)
    figure, panels = subplots(
        rows, columns, figsize=(4.0 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels.flat, names, strict=False):
        _draw_panel(panel, name, lines, metrics, what, dims)
    if dims:
        figure.get_layout_engine().set(wspace=0.06)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    shown = [Line2D([], [], label=label, **style) for split, (label, style) in SPLITS.items() if lines[split]]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), frameon=False)
    save_figure(figure, path, dpi=150)


def _draw_panel(
    panel: Any, name: str, lines: dict[str, list[Line]], metrics: list[Line], what: str, dims: int | None
) -> None:
    """Draws one metric, with a range that ignores the first 3 % of the steps, whose values are far off.

    A first value outside of the range is written into the panel.
    """
    from matplotlib.ticker import MaxNLocator

    for split, (_, style) in SPLITS.items():
        points = [(line["step"], line[name]) for line in lines[split] if name in line]
        if points:
            panel.plot(*zip(*points, strict=True), **style)
    first = 0.03 * metrics[-1]["step"]
    low, high = value_range([line[name] for line in metrics if name in line and line["step"] >= first])
    panel.set_ylim(low, high)
    start = next(line for line in metrics if name in line)
    if not low <= start[name] <= high:
        words = f"step {start['step']}: {start[name]:.4g}"
        # on the side that the curve comes from
        y, va = (0.95, "top") if start[name] > high else (0.05, "bottom")
        panel.text(0.97, y, words, transform=panel.transAxes, ha="right", va=va, fontsize=8, color="0.35")
    panel.set_title(metric_title(name), fontsize=10)
    panel.set_xlabel("step")
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.set_ylabel(UNITS.get(name, f"nats per {what}"))
    if dims and name not in UNITS:
        bit = math.log(2) * dims
        axis = panel.secondary_yaxis("right", functions=(lambda v, b=bit: v / b, lambda v, b=bit: v * b))
        axis.set_ylabel("bits per dimension")
    panel.grid(alpha=0.3)


def draw_pareto_k(k_hat: np.ndarray, threshold: float, path: Path) -> None:
    """Draws a histogram of the Pareto k-hat of each test image, with the threshold as a line.

    Args:
        k_hat: shape parameters `(images,)`; -inf marks an image whose weights are all equal.
        threshold: k-hat above which an estimate is unreliable (Vehtari et al. 2024, arXiv 1507.02646).
        path: where the figure goes.
    """
    finite, equal = k_hat[np.isfinite(k_hat)], np.mean(k_hat == -np.inf)
    figure, axes = subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.hist(finite, bins=60, color="C0")
    axes.axvline(
        threshold, color="C3", label=f"{threshold}: {np.mean(k_hat > threshold):.1%} of images above"
    )
    left_out = f"; {equal:.1%} of images have equal weights and no k-hat" if equal else ""
    axes.set_xlabel(f"Pareto k-hat of the importance weights{left_out}")
    axes.set_ylabel("test images")
    axes.set_title("Reliability of the importance weights of each test image", fontsize=11)
    axes.legend(frameon=False)
    save_figure(figure, path, dpi=150)
