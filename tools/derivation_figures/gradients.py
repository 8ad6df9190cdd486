"""Pictures of the pages about gradients and their noise."""

from typing import Any

import numpy as np

from tools.derivation_figures import GREY, canvas, figure_of


@figure_of("07-doubly-reparameterised-gradients")
def signal_to_noise() -> Any:
    """Signal over noise of both gradients for a guide's mean, against the number of samples."""
    figure, axes = canvas(height=2.2)
    loc, ms = 0.6, 2 ** np.arange(8)  # posterior N(0, 1), guide N(loc, 1)
    e = np.random.RandomState(0).normal(size=(20_000, ms[-1]))
    z = loc + e
    log_w = -(z**2) / 2 + e**2 / 2
    ratios: dict[str, list[float]] = {"plain": [], "doubly reparameterised": []}
    for m in ms:
        w = np.exp(log_w[:, :m] - log_w[:, :m].max(1, keepdims=True))
        v = w / w.sum(1, keepdims=True)
        path = e[:, :m] - z[:, :m]  # d log w / d z
        estimates = ((v * (path - e[:, :m])).sum(1), (v**2 * path).sum(1))
        for values, estimate in zip(ratios.values(), estimates, strict=True):
            values.append(abs(estimate.mean()) / max(estimate.std(), 1e-9))
    # at m = 1 the path's gradient is -loc for every sample: no noise
    axes.plot(ms, ratios["plain"], "o-", color="C3", markersize=3, label="plain")
    axes.plot(
        ms[1:],
        ratios["doubly reparameterised"][1:],
        "o-",
        color="C0",
        markersize=3,
        label="doubly reparameterised",
    )
    axes.plot(ms, 0.9 / np.sqrt(ms), ":", color=GREY)
    axes.plot(ms, 1.1 * np.sqrt(ms), ":", color=GREY)
    axes.set(xscale="log", yscale="log", xlabel="samples K", ylabel="signal / noise", ylim=(0.02, 20))
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.52))
    axes.annotate("dotted: slopes ½ and -½", (1, 0.03), fontsize=7.5)
    return figure


@figure_of("19-score-function-gradients")
def variances() -> Any:
    """The variances that the page derives, at mu = 1."""
    figure, axes = canvas(height=2.3)
    s = np.geomspace(0.05, 2, 200)
    axes.plot(s, 1 / s**2 + 14 + 15 * s**2, color="C3", label="score function")
    axes.plot(s, 8 + 6 * s**2, color="C1", label="with the best baseline")
    axes.plot(s, 4 * s**2, color="C0", label="reparameterised")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="standard deviation of the guide",
        ylabel="variance of the gradient",
    )
    axes.set(xlim=(0.05, 2), ylim=(5e-3, 2e3), xticks=[0.1, 1], xticklabels=["0.1", "1"])
    axes.legend(loc="lower right")
    return figure


@figure_of("12-vq-vae")
def codebook() -> Any:
    """Entries with the regions that choose them, and the encoder's outputs with their nearest entries."""
    figure, axes = canvas(height=2.4)
    entries = np.array([[0.8, 0.6], [2.2, 1.5], [3.6, 0.7], [1.0, 2.1], [3.3, 2.2]])
    grid = np.stack(np.meshgrid(np.linspace(0, 4.4, 441), np.linspace(0, 2.8, 281)), -1)
    region = ((grid[..., None, :] - entries) ** 2).sum(-1).argmin(-1)
    axes.contour(grid[..., 0], grid[..., 1], region, levels=np.arange(5) + 0.5, colors="0.7", linewidths=0.8)
    outputs = np.array([[0.35, 1.0], [1.85, 1.95], [2.75, 1.3], [3.9, 1.15], [0.7, 1.75], [3.75, 2.5]])
    nearest = entries[((outputs[:, None] - entries) ** 2).sum(-1).argmin(-1)]
    for e, c in zip(outputs, nearest, strict=True):
        axes.annotate(
            "",
            c,
            e,
            arrowprops={"arrowstyle": "->", "color": "0.3", "linewidth": 0.9, "shrinkA": 2, "shrinkB": 4},
        )
    axes.scatter(*outputs.T, s=16, color="C0", label="encoder output e", zorder=3)
    axes.scatter(*entries.T, s=45, color="C1", marker="s", label="codebook entry c", zorder=3)
    axes.set(xticks=[], yticks=[], xlim=(0, 4.4), ylim=(0, 2.8))
    axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.17), handletextpad=0.1)
    return figure


@figure_of("25-posterior-regularization")
def adversarial_steps() -> Any:
    """Points of two classes, the boundary between these, and the step of each point that changes q most."""
    figure, axes = canvas(height=2.4)

    def logit(x: Any) -> Any:
        return 3 * (x[..., 1] - 0.8 * np.sin(1.4 * x[..., 0]))

    grid = np.stack(np.meshgrid(np.linspace(-3, 3, 301), np.linspace(-2, 2, 201)), -1)
    levels = [0.01, 0.1, 0.5, 0.9, 0.99]
    q = 1 / (1 + np.exp(-logit(grid)))
    axes.contourf(grid[..., 0], grid[..., 1], q, levels=[0, *levels, 1], cmap="RdBu", alpha=0.35)
    axes.contour(grid[..., 0], grid[..., 1], q, levels=[0.5], colors="0.3", linewidths=1)
    random = np.random.RandomState(3)
    points = np.stack([random.uniform(-2.7, 2.7, 14), random.uniform(-1.6, 1.6, 14)], -1)
    # One class is all but certain where the contours are far apart; the direction is known there too.
    slope = np.stack([-3 * 0.8 * 1.4 * np.cos(1.4 * points[:, 0]), np.full(len(points), 3.0)], -1)
    start = np.roll(points, 1, 0) - points
    towards = np.sign((start * slope).sum(-1, keepdims=True))
    steps = 0.5 * towards * slope / np.linalg.norm(slope, axis=-1, keepdims=True)
    for x, r in zip(points, steps, strict=True):
        axes.annotate(
            "", x + r, x, arrowprops={"arrowstyle": "->", "color": "0.2", "shrinkA": 0, "shrinkB": 0}
        )
    axes.scatter(*points.T, s=14, c=np.where(logit(points) > 0, "C0", "C3"), zorder=3)
    axes.set(xlim=(-3, 3), ylim=(-2, 2), xticks=[], yticks=[])
    axes.set_title("arrows: r(x), of one length; shades: q(y | x), line: 1/2")
    return figure
