"""Figures of models of points in the plane: samples next to the data, latents, and the density."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inference.backend.files import save_figure
from inference.plots.canvas import subplots
from ppl_models.base import LatentVariableModel
from ppl_models.programs import latents_of, sample_latents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 1_000  # points of each kind
COLOURED = 4_000  # training points whose latents are shown
MAX_LABELS = 30  # labels that get colours of their own

Box = tuple[float, float, float, float]  # left, right, bottom, top


@torch.no_grad()
def draw_samples(model: LatentVariableModel, x: Tensor, path: Path) -> None:
    """Draws data next to samples and, if the model has latents, the same samples without decoder noise.

    Args:
        model: the model, in eval mode.
        x: test points `(n, 2)`.
        path: where the figure goes.
    """
    from matplotlib.ticker import MaxNLocator

    trace = model.generate(SHOWN)
    panels = {f"{len(x[:SHOWN])} test points": x[:SHOWN], f"{SHOWN} samples": trace.nodes["x"]["value"]}
    if latents_of(trace).keys() - {"x"}:
        panels["the same without noise"] = trace.nodes["x"]["fn"].mean
    figure, axes = subplots(
        1, len(panels), figsize=(4.4 * len(panels), 4.5), sharex=True, sharey=True, layout="constrained"
    )
    for panel, (title, points) in zip(axes, panels.items(), strict=True):
        _scatter(panel, points, color="C0")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("x 1")
    (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
    ticks = min(max(round(7 * (right - left) / (top - bottom)), 2), 7)  # fewer if the panel is narrow
    axes[0].xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 4, 5, 10]))
    axes[0].set_ylabel("x 2")
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
        x: training points `(n, 2)`.
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
    for panel, points, name in zip(axes, (x, latents["z"]), ("x", "z"), strict=True):
        if y is None:
            shade = x[:, 0].argsort().argsort().cpu().numpy()
            _scatter(panel, points, c=shade, cmap="viridis")
        else:
            for label in y.unique().tolist():
                _scatter(panel, points[y == label], color=colormaps["tab10"](label % 10), label=str(label))
        panel.set_xlabel(f"{name} 1")
        panel.set_ylabel(f"{name} 2")
    by = "label" if y is not None else "x 1, from left to right"
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
