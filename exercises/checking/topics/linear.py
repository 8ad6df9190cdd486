"""Exercises 24 and 29: PPCA and linear auto-encoders."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import VARIANCE, leaf, positive
from ppl_models import PPCA, densities

LATENTS = 2  # d
HALF = "The factor 1/2 is missing."
INVERTED = "The ratio is inverted."


def eigenvalues() -> Tensor:
    """Returns the eigenvalues of a covariance in five dimensions, the largest first."""
    return torch.tensor([6.0, 3.0, 1.5, 0.8, 0.4]).requires_grad_()


def points(values: Tensor) -> Tensor:
    """Returns points with mean zero and the covariance diag values, `(2 D, D)`."""
    axes = (len(values) * values).sqrt().diag()
    return torch.cat([axes, -axes])


def solved(values: Tensor) -> Any:
    """Returns PPCA at the maximum of the likelihood of `points`; the envelope theorem gives the gradient."""
    model = PPCA((1, 1, len(values)), z_dim=LATENTS).double().requires_grad_(False)
    model.solve(points(values.detach()))
    return model


@exercise(
    "24",
    "the maximum likelihood of probabilistic PCA",
    "18-ppca-maximum-likelihood.md",
    "noise_variance",
    "squared_lengths",
    "log_likelihood",
    "direction_kl",
)
def ppca(given: Any) -> Iterator[Row]:
    """The parameters, the likelihood and the KL terms of `PPCA.solve`; the lengths by a search."""
    values = eigenvalues()
    model = solved(values)
    variance = (2 * model.log_scale).exp()
    yield row(
        "noise variance",
        lambda v: given.noise_variance(v, LATENTS),
        (values.detach(),),
        lambda v: variance,
        {
            "These are the eigenvalues of the latents. The noise gets the others.": lambda v: v[:2].mean(),
            "The noise has one variance, the mean of the eigenvalues, not the sum.": lambda v: v[2:].sum(),
            "Divide by D - d, the number of directions without a latent.": lambda v: v[2:].sum() / 5,
            "d directions have a latent: the last d are not the noise.": lambda v: v[-2:].mean(),
            "This is the first eigenvalue without a latent. The mean of all of them is best.": lambda v: v[2],
        },
    )
    yield lengths_row(given)
    yield row(
        "log-likelihood",
        lambda v: given.log_likelihood(v, LATENTS),
        (values,),
        lambda v: model.log_likelihood(points(v)).mean(),
        {
            "The trace is missing. At the maximum it is D.": lambda v: likelihood(v) + 2.5,
            "The noise's part of the determinant is missing.": lambda v: (
                likelihood(v) + 1.5 * v[2:].mean().log()
            ),
            "The noise has D - d directions with the same variance.": lambda v: (
                likelihood(v) + v[2:].mean().log()
            ),
            "Outside of the latents the model has one variance, not the eigenvalues.": lambda v: (
                likelihood(v) + 1.5 * v[2:].mean().log() - 0.5 * v[2:].log().sum()
            ),
            "The constant of the normal density is missing.": lambda v: (
                likelihood(v) + 2.5 * math.log(2 * math.pi)
            ),
            "The constant of the normal density is needed in D dimensions.": lambda v: (
                likelihood(v) + 2 * math.log(2 * math.pi)
            ),
        },
    )
    yield kl_row(given, values.detach(), model)


def likelihood(values: Tensor) -> Tensor:
    """Returns the largest mean log-likelihood, from torch's density."""
    gamma = torch.cat([values[:LATENTS], values[LATENTS:].mean().expand(3)])
    return MultivariateNormal(torch.zeros(5), gamma.diag()).log_prob(points(values)).mean()


def lengths_row(given: Any) -> Row:
    """Returns the row of the squared lengths; the truth is found by bisection of the likelihood's slope."""
    values, variance = eigenvalues().detach(), torch.tensor(1.2)

    def search(values: Tensor, variance: Tensor) -> Tensor:
        low, high = variance.expand(4).clone(), torch.full((4,), 20.0)
        for _ in range(100):
            gamma = (0.5 * (low + high)).requires_grad_()
            log_p = Normal(torch.zeros(4), gamma.sqrt()).log_prob(values[:4].sqrt()).sum()
            rises = torch.autograd.grad(log_p, gamma)[0] > 0
            low, high = torch.where(rises, gamma.detach(), low), torch.where(rises, high, gamma.detach())
        return low - variance

    return row(
        "squared lengths",
        lambda values, variance: given.squared_lengths(values, variance, 4),
        (values, variance),
        search,
        {
            "A squared length is never negative. Below the threshold the column is zero.": lambda v, s: (
                v[:4] - s
            ),
            "This is the model's variance in the direction. The noise has a part of it.": lambda v, s: v[
                :4
            ].clamp(min=float(s)),
            "These are the lengths, not their squares.": lambda v, s: (v[:4] - s).clamp(min=0).sqrt(),
            "The noise is not subtracted.": lambda v, s: v[:4] * (v[:4] > s),
            "You used the variance of the noise as a standard deviation.": lambda v, s: (v[:4] - s**2).clamp(
                min=0
            ),
        },
    )


def kl_row(given: Any, values: Tensor, model: Any) -> Row:
    """Returns the row of the KL terms, from the posterior of `PPCA` at each point."""
    variance = (2 * model.log_scale).exp()

    def kl(kept: Tensor, variance: Tensor) -> Tensor:
        loc, covariance = model.exact_posterior(points(values))
        scale = covariance.diagonal().sqrt().expand_as(loc)
        return densities.kl_normal_standard(loc[..., None], scale[..., None]).mean(0).flip(0)

    return row(
        "KL of a direction",
        given.direction_kl,
        (values[:LATENTS], variance),
        kl,
        {
            HALF: lambda v, s: (v / s).log(),
            "The ratio is that of the whole variance to the noise, noise included.": lambda v, s: (
                0.5 * ((v - s) / s).log()
            ),
            "This is a part of the KL term only: the square of the posterior mean is missing.": lambda v, s: (
                0.5 * ((v / s).log() + s / v - 1)
            ),
            "This is how much the likelihood gains. The KL term is a logarithm alone.": lambda v, s: (
                0.5 * (v / s - 1 - (v / s).log())
            ),
            "The eigenvalue has the noise already. You added it again.": lambda v, s: (
                0.5 * ((v + s) / s).log()
            ),
        },
    )


@exercise(
    "29",
    "what an auto-encoder learns",
    "23-auto-encoders.md",
    "least_error",
    "shrinkage",
    "same_reconstructions",
    "narrow_kl",
)
def auto_encoder(given: Any) -> Iterator[Row]:
    """The error against a singular value decomposition, the shrinkage against the mode of p(z, x)."""
    values = eigenvalues()
    directions = torch.linalg.svd(points(values.detach())).Vh[:LATENTS]

    def error(values: Tensor) -> Tensor:
        x = points(values)
        return ((x - x @ directions.T @ directions) ** 2).sum(-1).mean()

    yield row(
        "least error",
        lambda v: given.least_error(v, LATENTS),
        (values,),
        error,
        {
            "This is the variance that the codes keep. The error is the rest.": lambda v: v[:2].sum(),
            "The error is the sum over the directions without a code.": lambda v: v[2:].mean(),
            "d directions have a code: the last d are not the rest.": lambda v: v[-2:].sum(),
            "Eigenvalues are variances: do not square them.": lambda v: (v[2:] ** 2).sum(),
            "This is the whole variance, the error without codes.": lambda v: v.sum(),
        },
    )
    yield from code_rows(given)


def code_rows(given: Any) -> Iterator[Row]:
    """Yields the rows of the shrinkage, of a change of the codes and of a narrow guide."""
    noise = positive(7)
    v = (noise + positive(7)).detach().requires_grad_()

    def mode(v: Tensor, noise: Tensor) -> Tensor:
        """The reconstruction of x = 1 from the mode of p(z, x), one step of Newton's method from z = 0."""
        z, w = torch.zeros(7, requires_grad=True), (v - noise).sqrt()
        log_p = Normal(0.0, 1.0).log_prob(z) + Normal(w * z, noise.sqrt()).log_prob(torch.ones(7))
        slope = torch.autograd.grad(log_p.sum(), z, create_graph=True)[0]
        return -w * slope / torch.autograd.grad(slope.sum(), z, create_graph=True)[0]

    yield row(
        "shrinkage",
        given.shrinkage,
        (v, noise),
        mode,
        {
            "v has the noise already. You added it again.": lambda v, s: v / (v + s),
            "This is the share of the noise. The reconstruction keeps the rest.": lambda v, s: s / v,
            "PCA projects. `ppca` shrinks a direction in which a part of the variance is noise.": (
                lambda v, s: torch.ones(7)
            ),
            "This factor takes x to z. The decoder multiplies once more.": lambda v, s: (v - s).sqrt() / v,
            INVERTED: lambda v, s: v / (v - s),
        },
    )
    yield row(
        "decoder of new codes",
        given.same_reconstructions,
        (leaf(5, 2), torch.tensor([[1.5, 0.4], [-0.3, 0.8]]).requires_grad_()),
        lambda b, a: torch.linalg.solve(a.T, b.T).T,
        {
            "The decoder must undo a: its inverse is needed.": lambda b, a: b @ a,
            "This is the transpose of a, which is its inverse for a rotation only.": lambda b, a: b @ a.T,
            "The inverse is transposed.": lambda b, a: b @ torch.linalg.inv(a).T,
            "The old decoder reads the old codes. It cannot have the new ones.": lambda b, a: b + 0 * a.sum(),
        },
    )

    def kl(codes: Tensor, t: Tensor) -> Tensor:
        return kl_divergence(Normal(codes, t), Normal(torch.zeros(()), 1.0)).sum(-1)

    yield row(
        "KL, narrow guide",
        given.narrow_kl,
        (leaf(7, 3), torch.tensor(0.3).requires_grad_()),
        kl,
        {
            "The scale t is that of each of the d dimensions.": lambda e, t: (
                kl(e, t) - 2 * kl(0 * e[:, :1], t)
            ),
            VARIANCE: lambda e, t: kl(e, t.sqrt()),
            "The square of the code is missing.": lambda e, t: kl(0 * e, t),
            "The logarithm has the wrong sign.": lambda e, t: kl(e, t) + 6 * t.log(),
            "log t is needed d times.": lambda e, t: kl(e, t) + 2 * t.log(),
            HALF: lambda e, t: 2 * kl(e, t),
        },
    )
