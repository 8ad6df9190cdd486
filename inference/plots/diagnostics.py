"""Figures of the diagnostics: the gaps of each image, the latent dimensions, and the histograms of ranks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.backend.files import save_figure
from inference.metrics.codes import ACTIVE
from inference.metrics.diagnostics import Diagnostics
from inference.metrics.gaps import Gaps
from inference.metrics.rank_calibration import BINS, LEVEL, SAMPLES, Calibration, counts
from inference.plots.canvas import subplots

PREFIX = "diagnostics_"  # of the files, which the report shows in a section of their own
MOST_HISTOGRAMS = 12
MOST_BARS = 60  # dimensions that a figure shows one by one


def draw_diagnostics(found: Diagnostics, folder: Path) -> None:
    """Draws the figures of what has been measured; figures of an earlier call are removed.

    Args:
        found: the diagnostics.
        folder: of the figures.
    """
    folder.mkdir(exist_ok=True)
    for path in folder.glob(f"{PREFIX}*.png"):
        path.unlink()
    if found.gaps:
        draw_gaps(found.gaps, found.noun, folder / f"{PREFIX}gaps.png")
    if found.dimensions:
        draw_dimensions(found.dimensions, folder / f"{PREFIX}dimensions.png")
    if found.calibration:
        draw_ranks(found.calibration, folder / f"{PREFIX}ranks.png")


def draw_gaps(gaps: Gaps, noun: str, path: Path) -> None:
    """Draws both gaps of each image on top of each other, sorted by their sum.

    Args:
        gaps: the gaps.
        noun: one observation.
        path: where the figure goes.
    """
    order = (gaps.amortization + gaps.approximation).argsort()
    amortization, approximation = (part[order].numpy() for part in (gaps.amortization, gaps.approximation))
    at = np.arange(len(order))
    figure, axes = subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.bar(at, approximation, width=1.0, color="C0", label="approximation gap")
    above = np.where(approximation > 0, approximation, 0.0)
    axes.bar(at, amortization, width=1.0, bottom=above, color="C1", label="amortisation gap")
    axes.set_xlabel(f"{len(order)} test {noun}s, sorted")
    axes.set_ylabel(f"nats per {noun}")
    axes.set(xlim=(-0.5, len(order) - 0.5), xticks=[])
    axes.set_title("log p(x) - ELBO, split in two", fontsize=11)
    axes.legend(frameon=False, loc="upper left")
    save_figure(figure, path, dpi=150)


def draw_dimensions(dimensions: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draws the KL term and the variance of the means of each dimension, sorted by the latter.

    Args:
        dimensions: the quantities by name of the latent, see `Diagnostics`.
        path: where the figure goes.
    """
    shown = {name: of for name, of in dimensions.items() if "variance_of_means" in of}
    rows = max(len(shown), 1)
    figure, panels = subplots(rows, 2, figsize=(8.4, 2.6 * rows), squeeze=False, layout="constrained")
    for (left, right), (name, of) in zip(panels, shown.items(), strict=False):
        variances = np.array(of["variance_of_means"])
        order = np.argsort(-variances)
        colours = np.where(variances[order] > ACTIVE, "C0", "0.65")
        at = np.arange(len(order))
        width = 0.8 if len(order) <= MOST_BARS else 1.0
        right.bar(at, variances[order], width=width, color=colours)
        right.axhline(ACTIVE, color="C3", lw=1, label=f"active above {ACTIVE:g}")
        right.set(yscale="log", ylabel="variance of the means", xlabel=f"dimensions of {name}, sorted")
        right.legend(frameon=False)
        if "kl" in of:
            left.bar(at, np.array(of["kl"])[order], width=width, color=colours)
            left.set(ylabel="KL term, nats", xlabel=f"dimensions of {name}, the same order")
        else:
            left.text(0.5, 0.5, "The KL term is not a sum\nover dimensions.", ha="center", va="center")
            left.set_axis_off()
    save_figure(figure, path, dpi=150)


def draw_ranks(calibration: Calibration, path: Path) -> None:
    """Draws histograms of the ranks of single dimensions, with a band that contains 99 % of uniform counts.

    At most twelve dimensions are shown, those with the smallest p-values.

    Args:
        calibration: the ranks.
        path: where the figure goes.
    """
    every = [
        (float(p), f"{name}[{j}]" if len(ps) > 1 else name, calibration.ranks[name][:, j])
        for name, ps in calibration.p_values.items()
        for j, p in enumerate(ps)
    ]
    shown = sorted(every, key=lambda entry: entry[0])[:MOST_HISTOGRAMS]
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    size = (2.5 * columns + 0.6, 1.9 * rows + 0.7)
    figure, panels = subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for panel, (p, name, ranks) in zip(panels.flat, shown, strict=False):
        _draw_histogram(panel, ranks, f"{name}, p {p:.2g}")
    for panel in panels.flat[len(shown) :]:
        panel.set_axis_off()
    for panel in panels[:, 0]:
        panel.set_ylabel("simulations")
    left_out = "" if len(shown) == len(every) else f", the {len(shown)} least uniform of {len(every)}"
    figure.suptitle(f"Ranks of the true latent among {SAMPLES} samples of the guide{left_out}", fontsize=11)
    save_figure(figure, path, dpi=150)


def _draw_histogram(axes: Any, ranks: Tensor, title: str) -> None:
    """Draws one histogram, and the band of binomial counts."""
    low, high = binomial_interval(len(ranks), 1 / BINS, 1 - LEVEL)
    width = (SAMPLES + 1) / BINS
    at = np.arange(BINS) * width
    axes.axhspan(low, high, color="0.85", lw=0)
    axes.hlines((low, high), 0, SAMPLES + 1, color="0.5", lw=0.8, zorder=3)
    axes.bar(at, counts(ranks[:, None])[:, 0].numpy(), width=0.9 * width, align="edge", color="C0")
    axes.set_title(title, fontsize=9)
    axes.set_xlim(0, SAMPLES + 1)
    axes.set_xticks([0, 50, 100])


def binomial_interval(n: int, p: float, mass: float) -> tuple[int, int]:
    """Returns the central interval of a binomial count, with at most (1 - mass) / 2 below and above it.

    Args:
        n: the number of trials.
        p: the probability of each.
        mass: of the interval.
    """
    k = torch.arange(n + 1, dtype=torch.float64)
    log_ways = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    below = (log_ways + k * math.log(p) + (n - k) * math.log1p(-p)).exp().cumsum(0)
    low, high = (int((below < tail).sum()) for tail in ((1 - mass) / 2, (1 + mass) / 2))
    return low, high
