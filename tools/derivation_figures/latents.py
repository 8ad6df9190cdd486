"""Pictures of the pages about latents: priors, KL weights, thresholds, codes."""

from typing import Any

import numpy as np
import torch

from ppl_models import PPCA
from tools.derivation_figures import GREY, canvas, figure_of
from tools.derivation_figures.densities import normal


@figure_of("09-mixture-priors")
def mixture() -> Any:
    """A mixture prior, its components and the standard normal."""
    figure, axes = canvas(height=2.1)
    z = np.linspace(-4, 4, 600)
    parts = [normal(z, -2, 0.5) / 3, normal(z, 0.1, 0.8) / 3, normal(z, 2.1, 0.45) / 3]
    for i, part in enumerate(parts):
        axes.fill_between(z, part, color=f"C{i}", alpha=0.3, linewidth=0)
    axes.plot(z, sum(parts), color="0.2", label="mixture: the sum")
    axes.plot(z, normal(z), "--", color=GREY, label="N(0, 1)")
    axes.set(xlabel="z", yticks=[], xlim=(-4, 4), ylim=(0, 0.47))
    axes.legend(loc="upper right")
    return figure


@figure_of("10-beta-as-a-variance")
def best_scale() -> Any:
    """-log p(x | z) per value at one mean squared error, against the decoder's variance."""
    figure, axes = canvas(height=2.3)
    error, variance = 0.0084, np.geomspace(1.5e-3, 0.6, 300)

    def cost(s2: Any) -> Any:
        return error / (2 * s2) + 0.5 * np.log(2 * np.pi * s2)

    axes.plot(variance, cost(variance), color="C0")
    axes.plot(error, cost(error), "o", color="C2")
    axes.annotate(
        "best: σ² is the mean\nsquared error, 0.0084",
        (error, cost(error)),
        (-12, -24),
        textcoords="offset points",
        fontsize=7.5,
    )
    chosen = 1e-4 * 784 / 2
    axes.plot(chosen, cost(chosen), "s", color="C3")
    axes.annotate(
        "beta = 1e-4\nstands for 0.039",
        (chosen, cost(chosen)),
        (6, -14),
        textcoords="offset points",
        fontsize=7.5,
    )
    axes.set(
        xscale="log",
        xlabel="variance σ² of the decoder",
        ylabel="reconstruction,\nnats per pixel",
        ylim=(-1.75, 1.2),
    )
    axes.set(xticks=[0.01, 0.1], xticklabels=["0.01", "0.1"])
    return figure


@figure_of("11-residual-normal")
def residual() -> Any:
    """Two means of the prior, and a guide with the same residual from each."""
    figure, axes = canvas(height=2.0)
    z = np.linspace(-6, 7, 600)
    for mean, name in ((-2.4, "first z1"), (2.2, "second z1")):
        axes.fill_between(
            z,
            normal(z, mean),
            color="C1",
            alpha=0.35,
            linewidth=0,
            label="prior p(z2 | z1)" if mean < 0 else None,
        )
        axes.plot(z, normal(z, mean + 1, 0.6), color="C0", label="guide q(z2 | x, z1)" if mean < 0 else None)
        axes.annotate(name, (mean - 0.1, -0.1), ha="center", fontsize=7.5)
    axes.set(yticks=[], xticks=[], xlabel="z2", ylim=(-0.14, 0.98), xlim=(-6, 6.5))
    axes.set_title("the same residual: the same KL divergence")
    axes.legend(loc="upper center", ncols=2)
    return figure


@figure_of("17-free-bits")
def free_bits() -> Any:
    """The page's example: variance 4, noise 1, floor 1.5."""
    figure, axes = canvas(height=2.3)
    c, floor = np.linspace(0, 3, 3_001), 1.5
    reconstruction = 2 * np.exp(-2 * c)
    for objective, label, color in (
        (reconstruction + c, "without", "C0"),
        (reconstruction + np.maximum(c, floor), "with 1.5 free bits", "C3"),
    ):
        axes.plot(c, objective, color=color, label=label)
        at = objective.argmin()
        axes.plot(c[at], objective[at], "o", color=color)
        axes.annotate(
            f"{c[at]:.2f}",
            (c[at], objective[at]),
            (0, -11),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )
    axes.set(xlabel="KL term G, in nats", ylabel="objective, nats", ylim=(0.85, 3.6), xlim=(0, 3))
    axes.legend(loc="upper right")
    return figure


@figure_of("18-ppca-maximum-likelihood")
def eigenvalues() -> Any:
    """Eigenvalues of scikit-learn's digits, the noise of ten latents, and what the latents carry."""
    from sklearn.datasets import load_digits

    figure, axes = canvas(height=2.3)
    x = torch.from_numpy(load_digits().images / 16)
    model = PPCA((1, 8, 8), z_dim=10).double()
    model.solve(x[:, None])
    values = torch.linalg.eigvalsh(x.flatten(1).T.cov(correction=0)).flip(0).numpy()[:30]
    noise = (2 * model.log_scale).exp().item()
    place = np.arange(1, 31)
    left = np.where(place <= 10, noise, values)
    axes.bar(place, left, color="0.75", label="left to the noise")
    axes.bar(place[:10], values[:10] - noise, bottom=noise, color="C0", label="carried by a latent")
    axes.axhline(noise, color="C3", linewidth=1)
    axes.annotate(
        f"σ² = {noise:.3f}: the mean of the others", (30, 0.13), color="C3", fontsize=7.5, ha="right"
    )
    axes.set(xlabel="eigenvalue of the covariance of 8 x 8 digits", ylabel="variance", xlim=(0.3, 30.7))
    axes.legend(loc="upper right")
    return figure


@figure_of("20-aggregate-posterior")
def aggregate() -> Any:
    """Five guides, their mean and the prior."""
    figure, axes = canvas(height=2.2)
    z = np.linspace(-3.5, 3.5, 700)
    guides = [
        normal(z, loc, scale)
        for loc, scale in ((-1.7, 0.25), (-1.1, 0.3), (0.9, 0.25), (1.3, 0.22), (2.0, 0.3))
    ]
    for i, guide in enumerate(guides):
        axes.fill_between(
            z, guide / 5, color="C0", alpha=0.3, linewidth=0, label="q of each image, / 5" if i == 0 else None
        )
    axes.plot(z, sum(guides) / 5, color="C0", label="aggregate posterior")
    axes.plot(z, normal(z), "--", color="C1", label="prior N(0, 1)")
    axes.annotate(
        "a hole: the prior samples here,\nbut no image is encoded here",
        (0, 0.02),
        (0.15, 0.53),
        ha="left",
        fontsize=7.5,
        arrowprops={"arrowstyle": "->", "color": "0.3", "linewidth": 0.9, "relpos": (0, 0)},
    )
    axes.set(xlabel="z", yticks=[], ylim=(0, 0.85), xlim=(-3.5, 3.5))
    axes.legend(loc="upper left", ncols=1)
    return figure


@figure_of("21-posterior-collapse")
def collapse() -> Any:
    """The best KL term of a direction, for three weights."""
    figure, axes = canvas(height=2.2)
    ratio = np.geomspace(0.1, 20, 400)
    for beta, color in ((0.25, "C2"), (1, "C0"), (4, "C3")):
        axes.plot(ratio, np.maximum(0.5 * np.log(ratio / beta), 0), color=color, label=f"KL weight {beta:g}")
    axes.annotate("collapsed", (0.13, 0.1), fontsize=7.5)
    axes.set(xscale="log", xlabel="variance of the direction / σ²", ylabel="KL term, nats", ylim=(-0.05, 2.3))
    axes.set(xticks=[0.25, 1, 4], xticklabels=["0.25", "1", "4"], xlim=(0.1, 20))
    axes.minorticks_off()
    axes.legend(loc="upper left")
    return figure


@figure_of("22-what-the-decoder-cannot-say")
def shape() -> Any:
    """Correlated points, and the circles of a decoder whose means lie on the long axis."""
    from matplotlib.patches import Circle

    figure, axes = canvas(height=2.5)
    random, v = np.random.RandomState(0), np.sqrt([0.5, 0.5])
    z = random.normal(size=(900, 1))
    x = 24**0.5 * z * v + random.normal(size=(900, 2))
    axes.scatter(*x.T, s=3, alpha=0.4, linewidths=0, color="0.5")
    for value in (-2, -1, 0, 1, 2):
        centre = (12**0.5 * value, 12**0.5 * value)
        axes.add_patch(Circle(centre, 1, fill=False, edgecolor="C0", linewidth=1.4))
        axes.annotate(
            f"z = {value}",
            centre,
            (11, -12),
            textcoords="offset points",
            fontsize=7.5,
            color="C0",
        )
    axes.set(aspect="equal", xlim=(-13, 13), ylim=(-9.5, 9.5), xlabel="x 1", ylabel="x 2")
    return figure


@figure_of("23-auto-encoders")
def codes() -> Any:
    """Codes of digits by a linear auto-encoder, and the same codes after an invertible map."""
    from sklearn.datasets import load_digits

    figure, panels = canvas(1, 2, height=2.1)
    digits = load_digits()
    x = digits.images.reshape(len(digits.images), -1) / 16
    x, y = (x - x.mean(0))[:800], digits.target[:800]
    z = x @ np.linalg.eigh(x.T @ x)[1][:, -2:]
    z *= np.sign(z[0])
    mapped = z @ np.array([[30.0, 4.0], [18.0, -6.0]]) + np.array([400, -50])
    for axes, points, title in zip(
        panels, (z, mapped), ("codes enc(x)", "f(enc(x)): the same loss"), strict=True
    ):
        axes.scatter(*points.T, s=4, c=y, cmap="tab10", alpha=0.7, linewidths=0)
        axes.set_title(title)
        axes.locator_params(nbins=4)
    return figure


@figure_of("26-two-stochastic-layers")
def two_layers() -> Any:
    """The posterior of a chain of two normals, and the product of its marginals."""
    figure, panels = canvas(1, 2, height=2.35, sharey=True)
    z1, z2 = np.meshgrid(np.linspace(-2.6, 2.6, 200), np.linspace(-2.6, 2.6, 200))
    slope, scale2, scale1 = 0.9, 0.45, 0.8
    dependent = normal(z1, 0.3, scale1) * normal(z2, slope * z1, scale2)
    marginal = np.hypot(slope * scale1, scale2)
    independent = normal(z1, 0.3, scale1) * normal(z2, slope * 0.3, marginal)
    titles = ("guide: q(z1 | x) q(z2 | z1)", "mean field: independent")
    for axes, density, title, color in zip(
        panels, (dependent, independent), titles, ("C0", "C3"), strict=True
    ):
        axes.contour(z1, z2, density / density.max(), levels=[0.05, 0.2, 0.5, 0.8], colors=color)
        axes.set(xlabel="z1", xticks=[-2, 0, 2], yticks=[-2, 0, 2], aspect="equal")
        axes.set_title(title)
    panels[0].set_ylabel("z2")
    return figure


@figure_of("27-vampprior")
def vampprior() -> Any:
    """The aggregate posterior of 60 images, and the guide at four pseudo-inputs with their mean."""
    figure, axes = canvas(height=2.2)
    z, rng = np.linspace(-3.5, 3.5, 700), np.random.RandomState(1)
    locs = np.concatenate(
        [rng.normal(m, s, n) for m, s, n in ((-1.9, 0.3, 20), (0.2, 0.45, 25), (2, 0.25, 15))]
    )
    guides = [normal(z, loc, 0.22) / len(locs) for loc in locs]
    axes.plot(z, sum(guides), color=GREY, label="mean of q over 60 images")
    pseudo = [normal(z, loc, 0.4) / 4 for loc in (-1.9, -0.1, 0.5, 2.0)]
    for i, part in enumerate(pseudo):
        axes.fill_between(
            z, part, color="C0", alpha=0.3, linewidth=0, label=None if i else "q at each pseudo-input, / 4"
        )
    axes.plot(z, sum(pseudo), color="C0", label="VampPrior: their sum")
    axes.plot(z, normal(z), "--", color="C1", label="N(0, 1)")
    axes.set(xlabel="z", yticks=[], ylim=(0, 0.66), xlim=(-3.5, 3.5))
    axes.legend(loc="upper center", ncols=2)
    return figure


@figure_of("28-auxiliary-latents")
def auxiliary() -> Any:
    """A posterior with two modes, the best normal guide, and a guide that is a mixture over a."""
    figure, axes = canvas(height=2.2)
    z, a = np.linspace(-4, 4, 700), np.linspace(-6, 6, 1_201)
    mass = normal(a) / normal(a).sum()
    axes.fill_between(
        z,
        (normal(z, -1.5, 0.5) + normal(z, 1.5, 0.5)) / 2,
        color="0.8",
        linewidth=0,
        label="posterior p(z | x)",
    )
    axes.plot(z, normal(z, 1.5, 0.5), "--", color="C3", label="best normal guide")
    marginal = (mass[:, None] * normal(z, 1.5 * np.tanh(20 * a)[:, None], 0.5)).sum(0)
    axes.plot(z, marginal, color="C0", label="mean of q(z | x, a) over a")
    for value in (-0.1, 0, 0.1):
        part = normal(z, 1.5 * np.tanh(20 * value), 0.5) / 8
        axes.plot(z, part, color="C0", linewidth=0.8, alpha=0.6)
        axes.annotate(f"a = {value:g}", (1.5 * np.tanh(20 * value), 0.105), ha="center", fontsize=7.5)
    axes.set(xlabel="z", yticks=[], ylim=(0, 0.86), xlim=(-4, 4))
    axes.legend(loc="upper left")
    return figure
