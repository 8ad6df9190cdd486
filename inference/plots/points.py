"""Figures of models of points: samples next to the data, latents, columns, and the density in the plane."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inference.backend.files import save_figure
from inference.data.dataset import Columns
from inference.data.tables import original_units
from inference.plots.canvas import subplots
from ppl_models.base import LatentVariableModel
from ppl_models.programs import latents_of, sample_latents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 1_000  # points of each kind
COLOURED = 4_000  # training points whose latents are shown
MAX_LABELS = 30  # labels that get colours of their own

MAX_COLUMNS = 12  # columns of a table with histograms
BINS = 24  # of a histogram

Box = tuple[float, float, float, float]  # left, right, bottom, top


@torch.no_grad()
def draw_samples(model: LatentVariableModel, x: Tensor, path: Path) -> None:
    """Draws data next to samples and, if the model has latents, the same samples without decoder noise.

    Points of more than two dimensions are projected on the first two principal components of the data.

    Args:
        model: the model, in eval mode.
        x: test points `(n, d)`.
        path: where the figure goes.
    """
    trace = model.generate(SHOWN)
    panels = {f"{len(x[:SHOWN])} test points": x[:SHOWN], f"{SHOWN} samples": trace.nodes["x"]["value"]}
    if latents_of(trace).keys() - {"x"}:
        panels["the same without noise"] = trace.nodes["x"]["fn"].mean
    figure, axes = subplots(
        1, len(panels), figsize=(4.4 * len(panels), 4.5), sharex=True, sharey=True, layout="constrained"
    )
    (first, second), project = _plane(x)
    for panel, (title, points) in zip(axes, panels.items(), strict=True):
        _scatter(panel, project(points), color="C0")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(first)
    (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
    half = max(right - left, top - bottom) / 2  # square panels, also if the points are a narrow cloud
    axes[0].set_xlim((left + right) / 2 - half, (left + right) / 2 + half)
    axes[0].set_ylim((bottom + top) / 2 - half, (bottom + top) / 2 + half)
    axes[0].set_ylabel(second)
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.08)


def _plane(x: Tensor) -> tuple[tuple[str, str], Callable[[Tensor], Tensor]]:
    """Returns the names of two axes, and a function that projects points `(n, d)` on them, `(n, 2)`.

    These are the first two principal components of x `(n, d)`, or x itself if it has at most two dimensions.
    A single dimension is drawn along a diagonal.
    """
    if x.shape[1] <= 2:
        return ("x 1", f"x {x.shape[1]}"), lambda points: points.expand(-1, 2)
    mean = x.mean(0)
    _, _, directions = torch.linalg.svd(x - mean, full_matrices=False)
    if len(directions) < 2:
        directions = torch.eye(x.shape[1]).to(x)
    names = "principal component 1", "principal component 2"
    return names, lambda points: (points - mean) @ directions[:2].T


@torch.no_grad()
def draw_columns(model: LatentVariableModel, x: Tensor, columns: Columns, path: Path) -> None:
    """Draws histograms of the columns of test data and of samples, in the units of the table.

    Of more than `MAX_COLUMNS` columns it shows the first ones. Samples beyond the range of the data, extended
    by a quarter on both sides, count in the outermost bins.

    Args:
        model: the model, in eval mode.
        x: test points `(n, d)`, as the model observes them.
        columns: the columns of the table.
        path: where the figure goes.
    """
    data, samples = (original_units(points, columns).numpy() for points in (x, model.sample(SHOWN)))
    names = columns.names[:MAX_COLUMNS]
    across = min(len(names), 4)
    down = -(-len(names) // across)
    figure, axes = subplots(
        down, across, figsize=(2.6 * across, 2.1 * down), layout="constrained", squeeze=False
    )
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    for i, (name, panel) in enumerate(zip(names, axes.flat, strict=False)):
        low, high = data[:, i].min(), data[:, i].max()
        more = (high - low) / 4 or columns.scale[i]
        bins = np.linspace(low - more, high + more, BINS + 1)
        for values, label, style in (
            (data, f"{len(data)} test rows", {"histtype": "stepfilled", "alpha": 0.35}),
            (samples, f"{SHOWN} samples", {"histtype": "step", "linewidth": 1.4}),
        ):
            panel.hist(values[:, i].clip(bins[0], bins[-1]), bins, density=True, label=label, **style)
        panel.set_title(name if len(name) <= 30 else f"{name[:29]}…", fontsize=8, parse_math=False)
        panel.set_yticks([])
        panel.tick_params(labelsize=7)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.08)


def draw_points(x: Tensor, path: Path, title: str) -> None:
    """Draws points in the plane.

    Args:
        x: points `(n, 2)`.
        path: where the figure goes.
        title: what the figure shows.
    """
    figure, axes = subplots(figsize=(4.4, 4.5), layout="constrained")
    _scatter(axes, x, color="C0")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("x 1")
    axes.set_ylabel("x 2")
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.08)


def draw_latents_of_data(model: LatentVariableModel, x: Tensor, y: Tensor | None, path: Path) -> None:
    """Draws training points next to samples of their z from the guide, in the same colours.

    Draws nothing unless the model's only latent is a two-dimensional z.

    Args:
        model: the model, in eval mode.
        x: training points `(n, d)`, projected as in `draw_samples`.
        y: labels `(n,)` that give the colours; without labels, or with more than `MAX_LABELS`, x 1 does.
        path: where the figure goes.
    """
    from matplotlib import colormaps

    x, y = x[:COLOURED], None if y is None else y[:COLOURED]
    if y is not None and len(y.unique()) > MAX_LABELS:
        y = None
    latents = sample_latents(model, x=x)
    if set(latents) != {"z"} or latents["z"].shape[-1] != 2:
        return
    figure, axes = subplots(1, 2, figsize=(10.2, 4.8), layout="constrained")
    names, project = _plane(x)
    seen = project(x)
    for panel, points, pair in zip(axes, (seen, latents["z"]), (names, ("z 1", "z 2")), strict=True):
        if y is None:
            shade = seen[:, 0].argsort().argsort().cpu().numpy()
            _scatter(panel, points, c=shade, cmap="viridis")
        else:
            for label in y.unique().tolist():
                _scatter(panel, points[y == label], color=colormaps["tab10"](label % 10), label=str(label))
        panel.set_xlabel(pair[0])
        panel.set_ylabel(pair[1])
    by = "label" if y is not None else f"{names[0]}, from left to right"
    axes[0].set_title(f"{len(x)} training points, coloured by {by}", fontsize=10)
    axes[1].set_title("one sample of z from q(z | x) per point", fontsize=10)
    if y is not None:
        axes[1].legend(
            title="label", markerscale=4, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
        )
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.08)


def draw_density(log_density: Tensor, box: Box, path: Path) -> None:
    """Draws a density over a box as a heat map.

    Args:
        log_density: log p(x) at the points of a grid, `(rows, columns)`, rows from the bottom.
        box: left, right, bottom and top of the grid.
        path: where the figure goes.
    """
    figure, axes = subplots(figsize=(5.6, 4.8), layout="constrained")
    image = axes.imshow(
        np.exp(log_density.cpu().numpy()), extent=box, origin="lower", cmap="viridis", aspect="equal"
    )
    figure.colorbar(image, ax=axes, label="p(x)")
    axes.set_xlabel("x 1")
    axes.set_ylabel("x 2")
    axes.set_title("density p(x) of the model", fontsize=10)
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.08)


def _scatter(axes: "Axes", points: Tensor, **style: Any) -> None:
    first, second = points.cpu().numpy().T
    axes.scatter(first, second, s=5, alpha=0.5, linewidths=0, **style)
    axes.set_aspect("equal", adjustable="box")
    axes.grid(alpha=0.25)


def box_around(x: Tensor, margin: float = 0.1) -> Box:
    """Returns left, right, bottom and top of a box around all points `(n, 2)`.

    The box has `margin` of the data's extent on each side. Along an axis on which all points are equal it is
    one unit wide, or a fifth of the value if that is more.
    """
    low, high = x.amin(0), x.amax(0)
    least = low.abs().clamp(min=5.0) / 10
    more = torch.where(high > low, margin * (high - low), least)
    (left, bottom), (right, top) = (low - more).tolist(), (high + more).tolist()
    return left, right, bottom, top


def grid_points(box: Box, n: int) -> Tensor:
    """Returns the points of an n x n grid over a box, rows from the bottom: `(n * n, 2)`."""
    left, right, bottom, top = box
    ys, xs = torch.meshgrid(torch.linspace(bottom, top, n), torch.linspace(left, right, n), indexing="ij")
    return torch.stack([xs, ys], dim=-1).flatten(0, 1)
