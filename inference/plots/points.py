"""The pictures of a model of points in the plane: samples beside the data, and where the latents are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inference.plots.canvas import subplots
from inference.rundir.files import save_figure
from ppl_models.base import LatentVariableModel, draw_latents, latents_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 1_000  # points of each kind
COLOURED = 4_000  # training points whose latents are shown
MOST_LABELS = 30  # labels that a picture can tell apart


@torch.no_grad()
def draw_samples(model: LatentVariableModel, x: Tensor, path: Path) -> None:
    """Data (n, 2) beside samples and, where there are latents, the same without the decoder's noise."""
    from matplotlib.ticker import MaxNLocator

    trace = model.generate(SHOWN)
    panels = {f"{len(x[:SHOWN])} test points": x[:SHOWN], f"{SHOWN} samples": trace.nodes["x"]["value"]}
    if latents_of(trace).keys() - {"x"}:
        panels["the same without noise: means of p(x | z)"] = trace.nodes["x"]["fn"].mean
    figure, axes = subplots(
        1, len(panels), figsize=(4.4 * len(panels), 4.5), sharex=True, sharey=True, layout="constrained"
    )
    for panel, (title, points) in zip(axes, panels.items(), strict=True):
        _scatter(panel, points, color="C0")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("x 1")
    (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
    ticks = min(max(round(7 * (right - left) / (top - bottom)), 2), 7)  # fewer where the panel is narrow
    axes[0].xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 4, 5, 10]))
    axes[0].set_ylabel("x 2")
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.08)


def draw_latents_of_data(model: LatentVariableModel, x: Tensor, y: Tensor | None, path: Path) -> None:
    """Training points beside draws of their z from the guide, coloured by label, or from left to right."""
    from matplotlib import colormaps

    x, y = x[:COLOURED], None if y is None else y[:COLOURED]
    if y is not None and len(y.unique()) > MOST_LABELS:
        y = None
    latents = draw_latents(model, x=x)
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
    axes[1].set_title("a draw of z from q(z | x) for each", fontsize=10)
    if y is not None:
        axes[1].legend(
            title="label", markerscale=4, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
        )
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.08)


def draw_density(log_density: Tensor, box: tuple[float, float, float, float], path: Path) -> None:
    """p(x) as shades over a box (left, right, bottom, top), from its logarithm (rows, columns)."""
    figure, axes = subplots(figsize=(5.6, 4.8), layout="constrained")
    image = axes.imshow(
        np.exp(log_density.cpu().numpy()), extent=box, origin="lower", cmap="viridis", aspect="equal"
    )
    figure.colorbar(image, ax=axes, label="p(x)")
    axes.set_xlabel("x 1")
    axes.set_ylabel("x 2")
    axes.set_title("the density itself", fontsize=10)
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.08)


def _scatter(axes: "Axes", points: Tensor, **style: Any) -> None:
    across, up = points.cpu().numpy().T
    axes.scatter(across, up, s=5, alpha=0.5, linewidths=0, **style)
    axes.set_aspect("equal", adjustable="box")
    axes.grid(alpha=0.25)


def box_around(x: Tensor, margin: float = 0.1) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a box that holds all points (n, 2), and somewhat more on each side.

    Along an axis on which all points are equal it is one unit wide, or a fifth of the value if that is more.
    """
    low, high = x.amin(0), x.amax(0)
    least = low.abs().clamp(min=5.0) / 10
    more = torch.where(high > low, margin * (high - low), least)
    (left, bottom), (right, top) = (low - more).tolist(), (high + more).tolist()
    return left, right, bottom, top


def on_a_grid(box: tuple[float, float, float, float], points: int) -> Tensor:
    """Points of a grid over a box, rows from the bottom: (points * points, 2)."""
    left, right, bottom, top = box
    ys, xs = torch.meshgrid(
        torch.linspace(bottom, top, points), torch.linspace(left, right, points), indexing="ij"
    )
    return torch.stack([xs, ys], dim=-1).flatten(0, 1)
