"""Pictures of the pages about densities: masks, maps, levels, receptive fields."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ppl_models.nets.pixelcnn import PixelCNN
from tools.derivation_figures import GREY, canvas, figure_of


def normal(x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
    """Returns the density of a normal distribution."""
    return np.exp(-0.5 * ((x - loc) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))


@figure_of("01-chain-rule-and-made")
def made() -> Any:
    """The layers of a small MADE with the connections that the masks keep."""
    figure, axes = canvas(height=2.3)
    layers = [[1, 2, 3, 4], [1, 1, 2, 2, 3, 3], [1, 2, 3, 4]]
    places = [np.linspace(0.1, 0.9, len(numbers)) for numbers in layers]
    wanted = {0: {0, 1}, 1: {0, 1, 2, 3}, 2: {2}}  # what output 3 depends on
    for i, (before, after) in enumerate(pairwise(layers)):
        for j, a in enumerate(before):
            for k, b in enumerate(after):
                if b > a or (i == 0 and b == a):
                    strong = j in wanted[i] and k in wanted[i + 1]
                    axes.plot(
                        [places[i][j], places[i + 1][k]],
                        [i, i + 1],
                        color="C0" if strong else "0.8",
                        linewidth=1.5 if strong else 0.8,
                        zorder=2 if strong else 1,
                    )
    for i, numbers in enumerate(layers):
        for j, number in enumerate(numbers):
            face = "C0" if j in wanted[i] else "white"
            axes.scatter(places[i][j], i, s=210, color=face, edgecolors="C0", zorder=3)
            axes.annotate(
                str(number),
                (places[i][j], i),
                ha="center",
                va="center",
                color="white" if face == "C0" else "black",
                zorder=4,
            )
    for i, name in enumerate(("inputs", "hidden", "outputs")):
        axes.annotate(name, (-0.03, i), ha="right", va="center")
    axes.set(xlim=(-0.2, 0.97), ylim=(-0.35, 2.35))
    axes.set_title("output 3 depends on inputs 1 and 2 only")
    axes.set_axis_off()
    return figure


@figure_of("02-kl-between-gaussians")
def kl() -> Any:
    """The integrand of a KL divergence, in both orders."""
    figure, panels = canvas(1, 2, height=2.1, sharey=True)
    x = np.linspace(-4, 4, 801)
    p, q = normal(x), normal(x, 1.0, 0.5)
    for axes, (a, b), name in zip(panels, ((q, p), (p, q)), ("q || p", "p || q"), strict=True):
        integrand = a * np.log(a / b)
        axes.fill_between(x, integrand, where=integrand > 0, color="C1", alpha=0.5, linewidth=0)
        axes.fill_between(x, integrand, where=integrand < 0, color="C2", alpha=0.6, linewidth=0)
        axes.plot(x, p, color=GREY, label="p = N(0, 1)")
        axes.plot(x, q, color="C0", label="q = N(1, 0.5²)")
        axes.set_title(f"KL({name}) = {integrand.sum() / 100:.2f} nats")
        axes.set(xlabel="z", xlim=(-4, 4), ylim=(-0.35, 2))
    panels[0].legend(loc="upper left", handlelength=1, borderaxespad=0)
    panels[0].set_yticks([0, 0.5, 1])
    return figure


@figure_of("03-change-of-variables")
def change_of_variables() -> Any:
    """Cells of equal probability under a map, and the densities before and after."""
    figure, axes = canvas(height=2.5)

    def g(e: Any) -> Any:
        return e + 0.75 * np.tanh(2 * (e - 0.3)) + 0.1

    e = np.linspace(-2.6, 2.6, 1_001)
    slope = np.gradient(g(e), e)
    before, after = normal(e), normal(e) / slope
    axes.plot(e, -0.5 - before, color="C0")
    axes.fill_between(e, -0.5 - before, -0.5, color="C0", alpha=0.25, linewidth=0)
    axes.plot(g(e), 0.5 + after, color="C1")
    axes.fill_between(g(e), 0.5 + after, 0.5, color="C1", alpha=0.25, linewidth=0)
    for edge in np.linspace(-2, 2, 17):
        axes.plot([edge, g(edge)], [-0.5, 0.5], color="0.6", linewidth=0.8)
    axes.annotate(r"noise ε, density $p_\varepsilon(\varepsilon)$", (-3.3, -1.0), ha="left", color="C0")
    axes.annotate("x = g(ε), density p(x)", (-3.3, 0.86), ha="left", color="C1")
    axes.annotate("where g spreads out\nthe density is lower", (1.0, -1.0), fontsize=7.5)
    axes.set(ylim=(-1.12, 1.0), xlim=(-3.4, 3.5))
    axes.set_axis_off()
    return figure


@figure_of("13-autoregressive-flow-prior")
def flow_prior() -> Any:
    """A curved density of z that an autoregressive map turns into a standard normal one."""
    figure, panels = canvas(1, 2, height=2.1)
    e = np.random.RandomState(0).normal(size=(700, 2))
    z = np.stack([e[:, 0], (e[:, 1] + 1.6 * (e[:, 0] ** 2 - 1)) * 0.5], axis=1)
    for axes, points, name, color in zip(panels, (z, e), "zε", ("C0", "C1"), strict=True):
        axes.scatter(*points.T, s=4, alpha=0.5, linewidths=0, color=color)
        axes.set(xlabel=f"{name} 1", ylabel=f"{name} 2", xlim=(-3.4, 3.4), ylim=(-3.4, 4.2))
        axes.set_xticks([-2, 0, 2])
        axes.set_yticks([-2, 0, 2, 4])
    panels[0].set_title("z: the learned prior")
    panels[1].set_title("ε = f(z): standard normal")
    return figure


@figure_of("14-discretised-logistic-mixture")
def logistic_bins() -> Any:
    """A logistic density cut into the bins of eight levels, with the outer ones open."""
    figure, axes = canvas(height=2.2)
    x = np.linspace(-1.7, 1.7, 801)
    loc, scale, levels = 0.45, 0.22, np.linspace(-1, 1, 8)
    edges = np.concatenate([[-1.7], (levels[1:] + levels[:-1]) / 2, [1.7]])

    def cdf(t: Any) -> Any:
        return 1 / (1 + np.exp(-(t - loc) / scale))

    density = cdf(x) * (1 - cdf(x)) / scale
    for k, (left, right) in enumerate(pairwise(edges)):
        inside = (x >= left) & (x <= right)
        axes.fill_between(x[inside], density[inside], color=f"C{k % 2}", alpha=0.4, linewidth=0)
        low = 0 if k == 0 else cdf(left)
        mass = (1 if k == 7 else cdf(right)) - low
        axes.annotate(f"{mass:.2f}", (levels[k], -0.13), ha="center", va="center", fontsize=7)
    axes.plot(x, density, color="0.2")
    axes.vlines(edges[1:-1], 0, 1.2, color="0.7", linewidth=0.8)
    axes.annotate("all below", (-1.66, 0.12), fontsize=7.5)
    axes.annotate("all above", (1.24, 0.42), fontsize=7.5)
    axes.set(ylim=(-0.22, 1.25), xlim=(-1.7, 1.7), yticks=[], xticks=[])
    axes.set_title("eight levels: the mass of each bin is a probability, sum 1")
    axes.spines["left"].set_visible(False)
    return figure


@figure_of("15-bits-per-dimension")
def dequantised() -> Any:
    """A density over noisy levels, and the probabilities that it stands for."""
    figure, axes = canvas(height=2.2)
    y = np.linspace(0, 8, 1_601)
    density = 0.6 * normal(y, 2.7, 0.8) + 0.4 * normal(y, 5.6, 0.5)
    mass = [density[(y >= k) & (y < k + 1)].mean() for k in range(8)]
    axes.bar(np.arange(8) + 0.5, mass, width=1, color="C0", alpha=0.25, edgecolor="white")
    axes.plot(y, density, color="C1", label="density of y = k + a")
    inside = (y >= 5) & (y <= 6)
    axes.fill_between(y[inside], density[inside], color="C1", alpha=0.4, linewidth=0)
    axes.annotate("P(5): the area\nabove the cell", (6.1, 0.3), fontsize=7.5)
    axes.set(xlabel="level k, and noise a from 0 to 1", xlim=(0, 8), yticks=[], ylim=(0, 0.42))
    axes.legend(loc="upper left")
    return figure


@figure_of("24-causal-networks")
def receptive_fields() -> Any:
    """Positions that an output sees: with two stacks after 1, 2 and 3 layers, and with a single stack."""
    figure, panels = canvas(1, 2, height=2.25)
    side, row, column = 9, 5, 3
    field = np.full((side, side), np.nan)
    for r in (3, 2, 1):
        torch.manual_seed(0)
        x = torch.randn(1, 1, side, side, requires_grad=True)
        PixelCNN(1, 4, 1, r)(x)[0, 0, row, column].backward()
        assert x.grad is not None
        field[x.grad[0, 0].numpy() != 0] = r
    rows, columns = np.mgrid[:side, :side]
    before = (rows < row) | ((rows == row) & (columns < column))
    single = before & (columns - column <= row - rows)
    blind = np.where(single, 3.0, np.where(before, 5.0, np.nan))
    for axes, values, title in zip(
        panels, (field, blind), ("two stacks, 1 to 3 layers", "one stack, any depth"), strict=True
    ):
        for a in range(side):
            for b in range(side):
                value = values[a, b]
                face = {1: "#08519c", 2: "#4292c6", 3: "#9ecae1", 5: "#fc9272"}.get(value, "white")
                axes.add_patch(_square(b, a, face))
        axes.add_patch(_square(column, row, "black"))
        axes.set(xlim=(-0.1, side + 0.1), ylim=(side + 0.1, -0.1), aspect="equal", title=title)
        axes.set_axis_off()
    panels[0].annotate("seen after so\nmany layers:", (1.0, 7.2), fontsize=7, va="center")
    for r, face in ((1, "#08519c"), (2, "#4292c6"), (3, "#9ecae1")):
        panels[0].add_patch(_square(5.0 + r, 6.7, face))
        panels[0].annotate(
            str(r),
            (5.5 + r, 7.22),
            color="white" if r < 3 else "black",
            ha="center",
            va="center",
            fontsize=7,
        )
    panels[1].annotate(
        "red: the blind spot", (4.5, 7.2), fontsize=7.5, ha="center", va="center", backgroundcolor="white"
    )
    return figure


def _square(x: float, y: float, face: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, facecolor=face, edgecolor="0.75", linewidth=0.6)
