"""Pictures of the pages about bounds: the gap, importance weights, labels, tails."""

import math
from typing import Any

import numpy as np

from tools.derivation_figures import GREY, canvas, figure_of
from tools.derivation_figures.densities import normal


@figure_of("04-elbo")
def gap() -> Any:
    """The bound of a linear model as a function of the guide's scale, below log p(x)."""
    figure, axes = canvas(height=2.3)
    noise, x = 0.5, 1.0  # z ~ N(0, 1), x ~ N(z, noise^2)
    log_p = -0.5 * math.log(2 * math.pi * (1 + noise**2)) - x**2 / (2 * (1 + noise**2))
    best = math.sqrt(noise**2 / (1 + noise**2))
    scale = np.geomspace(0.12, 1.6, 400)
    kl = scale**2 / (2 * best**2) - 0.5 - np.log(scale / best)
    axes.axhline(log_p, color="C1", label="log p(x)")
    axes.plot(scale, log_p - kl, color="C0", label="ELBO")
    axes.fill_between(scale, log_p - kl, log_p, color="0.6", alpha=0.3, linewidth=0)
    axes.plot(best, log_p, "o", color="C0")
    axes.annotate(
        "the guide is\nthe posterior", (best, log_p), (0.45, log_p + 0.18), ha="center", fontsize=7.5
    )
    axes.annotate("gap: KL(q || posterior)", (0.95, log_p - 0.42), fontsize=7.5)
    axes.set(
        xlabel="standard deviation of q(z | x)", ylabel="nats", ylim=(log_p - 2, log_p + 0.5), xlim=(0, 1.6)
    )
    axes.legend(loc="lower left")
    return figure


@figure_of("05-conditional-elbo")
def conditional() -> Any:
    """One curve of means per label, along which z moves."""
    figure, axes = canvas(height=2.3)
    z = np.linspace(-2, 2, 200)
    curves = {
        0: (z, 0.3 * z**2),
        1: (0.8 * z + 1, 2.4 + 0.5 * np.sin(1.6 * z)),
        2: (0.5 * z + 4, 1.2 + 0.8 * z),
    }
    random = np.random.RandomState(0)
    for y, (first, second) in curves.items():
        axes.plot(first, second, color=f"C{y}")
        chosen = random.choice(200, 60, p=normal(z) / normal(z).sum())
        points = np.stack([first[chosen], second[chosen]]) + 0.13 * random.normal(size=(2, 60))
        axes.scatter(*points, s=5, alpha=0.5, color=f"C{y}", linewidths=0)
        axes.plot(first[100], second[100], "o", color=f"C{y}", markeredgecolor="black", markersize=5)
        axes.annotate(f"y = {y}", (first[-1], second[-1]), (4, 2), textcoords="offset points", color=f"C{y}")
    axes.annotate("z = 0", (curves[0][0][100], 0), (4, -9), textcoords="offset points", fontsize=7.5)
    axes.set(xticks=[], yticks=[], xlabel="x 1", ylabel="x 2", xlim=(-2.4, 5.8))
    axes.set_title("the label picks the curve, z the place on it")
    return figure


@figure_of("06-importance-weighted-bound")
def importance_weighted() -> Any:
    """L_K of a guide that is a little too narrow, against the number of samples."""
    figure, axes = canvas(height=2.2)
    scale, ms = 0.75, 2 ** np.arange(11)
    v = np.random.RandomState(0).normal(size=(4_000, ms[-1]))
    w = scale * np.exp((1 - scale**2) / 2 * v**2)  # p(z | x) / q(z | x) of N(0, 1) and N(0, scale^2)
    values = [np.log(w[:, : (len(w[0]) // m) * m].reshape(-1, m).mean(1)).mean() for m in ms]
    variance = scale**2 / math.sqrt(2 * scale**2 - 1) - 1
    axes.axhline(0, color="C1", label="log p(x)")
    axes.plot(ms, values, "o-", color="C0", markersize=3, label="bound of K samples")
    axes.plot(ms, -variance / (2 * ms), "--", color=GREY, label="Var / 2K below")
    axes.set(xscale="log", xlabel="samples K", ylabel="nats below log p(x)", ylim=(-0.09, 0.012))
    axes.annotate("ELBO", (1, values[0]), (4, -9), textcoords="offset points", fontsize=7.5)
    axes.legend(loc="lower right")
    return figure


@figure_of("08-semi-supervised")
def labels() -> Any:
    """The bound given each label, and the classifier that fits these bounds best."""
    figure, panels = canvas(1, 2, height=2.0)
    bound = np.array([-104.0, -100.5, -99.2, -106.0])
    best = np.exp(bound - bound.max())
    best /= best.sum()
    panels[0].bar(range(4), bound + 110, bottom=-110, color="C0")
    panels[0].set(ylim=(-110, -97), title="bound given y, in nats", xlabel="label y", xticks=range(4))
    panels[1].bar(range(4), best, color="C1")
    panels[1].set(ylim=(0, 1), title="best q(y | x): its softmax", xlabel="label y", xticks=range(4))
    for y, value in enumerate(best):
        panels[1].annotate(f"{value:.2f}", (y, value + 0.02), ha="center", fontsize=7.5)
    return figure


@figure_of("16-pareto-k-hat")
def tails() -> Any:
    """How often a weight exceeds t, for guides that are too narrow."""
    figure, axes = canvas(height=2.4)
    t = np.geomspace(1, 1e3, 300)
    for scale, color in ((0.95, "C2"), (0.8, "C0"), (0.5, "C3")):
        root = np.sqrt(2 * np.log(t / scale) / (1 - scale**2))
        above = np.array([math.erfc(b / math.sqrt(2)) for b in root])
        axes.plot(t, above, color=color, label=f"guide's scale {scale}: k = {1 - scale**2:.2f}")
        last = np.argmax(above < 2e-6) or len(t) - 1
        power = above[last] * (t / t[last]) ** (-1 / (1 - scale**2))
        axes.plot(t, power, ":", color=color, linewidth=1)
    axes.set(xscale="log", yscale="log", xlim=(1, 1e3), ylim=(1e-6, 1))
    axes.set(xlabel="weight t, in units of p(x)", ylabel="probability of a larger weight")
    axes.legend(
        loc="upper right", title="dotted: a power of t, exponent -1 / k", title_fontsize=7.5, alignment="left"
    )
    return figure
