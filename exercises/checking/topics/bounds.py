"""Exercises 4 to 13 that write a bound: each term against Pyro."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from exercises.checking.bounds import answered, bound_rows
from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import NO_LOG_DET, REVERSED, VARIANCE, WRONG_LOG_DET
from inference.elbo.importance_weighted import ImportanceWeighted
from ppl_models import densities
from ppl_models.nets.heads import loc_scale

SIZES = {"dimensions of x": 6, "dimensions of z": 3}
PRIOR = "The log density of the prior is missing."
GUIDE = "The log density of the guide is missing."
EXCHANGED = "log q and log p are exchanged. The KL term is log q - log p."
IN_WEIGHT = (
    "A weight needs both densities, log q(z | x) and log p(z), at the same sample z. You gave the "
    "closed form of the "
    "KL divergence."
)
UNWEIGHTED = "Each label must be weighted with q(y | x), its probability under the classifier."
PRIOR_WEIGHTS = "You weighted the labels evenly, as p(y) does. The expectation is under q(y | x)."


def binary() -> Tensor:
    """Returns seven data points of six zeros and ones."""
    return torch.randint(2, (7, 6), generator=torch.Generator().manual_seed(3)).double()


def real() -> Tensor:
    """Returns seven data points of six numbers."""
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def head(model: Any, x: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    """Returns loc and scale of the guide."""
    return loc_scale(model.encoder(x, *more))


def of_guide(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Returns a wrong term of model, inputs and latents from a function of z, loc and scale."""

    def term(model: Any, inputs: dict[str, Tensor], latents: dict[str, Tensor]) -> Tensor:
        label = [torch.nn.functional.one_hot(inputs["y"], 4).to(inputs["x"])] if "y" in inputs else []
        return function(latents["z"], *head(model, inputs["x"], *label))

    return term


def standard(z: Tensor) -> Tensor:
    """Returns log N(z; 0, I)."""
    return densities.normal(z, 0.0, 1.0)


KL_Z = {
    REVERSED: of_guide(
        lambda z, loc, scale: densities.kl_normals(torch.zeros_like(loc), torch.ones_like(scale), loc, scale)
    ),
    VARIANCE: of_guide(lambda z, loc, scale: densities.kl_normal_standard(loc, scale**2)),
    "scale is a standard deviation. Square it where the formula has a variance.": of_guide(
        lambda z, loc, scale: densities.kl_normal_standard(loc, scale.sqrt())
    ),
    PRIOR: of_guide(lambda z, loc, scale: densities.normal(z, loc, scale)),
    GUIDE: of_guide(lambda z, loc, scale: -standard(z)),
    "You squared the scale: densities and formulas use it as a standard deviation.": of_guide(
        lambda z, loc, scale: densities.normal(z, loc, scale**2) - standard(z)
    ),
    "The square of loc is missing.": of_guide(
        lambda z, loc, scale: densities.kl_normal_standard(0 * loc, scale)
    ),
    "log q must be at the sample z, not at loc.": of_guide(
        lambda z, loc, scale: densities.normal(loc, loc, scale) - standard(z)
    ),
}


@exercise("04", "the evidence lower bound of a VAE", "04-elbo.md", "bound")
def elbo(given: Any) -> Iterator[Row]:
    """A VAE of binary data."""
    reconstruction = {
        "You exchanged the pixels 0 and 1.": lambda m, i, z: -densities.bernoulli(i["x"], -m.decoder(z["z"])),
        "You left out the pixels that are 0. Both values have a probability.": lambda m, i, z: (
            i["x"] * torch.nn.functional.softplus(-m.decoder(z["z"]))
        ).sum(-1),
        "The decoder needs the sample z, not loc.": lambda m, i, z: (
            -densities.bernoulli(i["x"], m.decoder(head(m, i["x"])[0]))
        ),
    }
    yield from bound_rows(given, {"x": binary()}, {"reconstruction": reconstruction, "kl_z": KL_Z}, SIZES)


@exercise("05", "the bound of a conditional likelihood", "05-conditional-elbo.md", "bound")
def conditional(given: Any) -> Iterator[Row]:
    """A conditional VAE of real data."""
    inputs = {"x": real(), "y": torch.tensor([0, 1, 2, 3, 0, 1, 2])}

    def decoded(m: Any, i: Any, z: Any) -> Tensor:
        return m.decoder(z["z"], torch.nn.functional.one_hot(i["y"], 4).to(i["x"]))

    joint = (
        "Your term is larger by log 4, the cost of the label. The label is given: bound log "
        "p(x | y), not log p(x, y)."
    )
    reconstruction = {
        "1/10 is the variance of x. densities.normal takes the standard deviation.": lambda m, i, z: (
            -densities.normal(i["x"], decoded(m, i, z), 0.1)
        ),
        "The scale of x is missing: you took a variance of 1.": lambda m, i, z: (
            -densities.normal(i["x"], decoded(m, i, z), 1.0)
        ),
        "The constant of the normal density is missing.": lambda m, i, z: (
            5 * ((i["x"] - decoded(m, i, z)) ** 2).sum(-1)
        ),
        joint: lambda m, i, z: -densities.normal(i["x"], decoded(m, i, z), math.sqrt(0.1)) + math.log(4),
    }
    yield from bound_rows(given, inputs, {"reconstruction": reconstruction, "kl_z": KL_Z}, SIZES)


def log_weight_row(given: Any, closed: str = IN_WEIGHT) -> Row:
    """Returns the row of `log_weights`, five samples for each data point, against Pyro's.

    Args:
        given: the student's answers.
        closed: the hint if the weight has the closed form of the KL divergence.
    """
    model, x = answered(given, "log_weights"), real()
    torch.manual_seed(1)
    samples = ImportanceWeighted(5).sample(model.model, model.guide, x)
    z, log_p = samples.latents["z"], samples.log_likelihood
    loc, scale = head(model, x)
    return Row(
        "log w",
        lambda: model.log_weights(x, z),
        lambda: samples.log_weights,
        list(model.parameters()),
        {
            closed: lambda: log_p - densities.kl_normal_standard(loc, scale),
            PRIOR: lambda: log_p - densities.normal(z, loc, scale),
            GUIDE: lambda: log_p + standard(z),
            "The log density of x is missing.": lambda: standard(z) - densities.normal(z, loc, scale),
            "The sign of log q - log p is wrong. The guide is in the denominator of the weight.": lambda: (
                log_p + densities.normal(z, loc, scale) - standard(z)
            ),
            "log q is added. It is in the denominator of the weight.": lambda: (
                log_p + standard(z) + densities.normal(z, loc, scale)
            ),
            "The prior has the wrong sign. It is in the numerator of the weight.": lambda: (
                log_p - standard(z) - densities.normal(z, loc, scale)
            ),
        },
        {"dimensions of x": 6},
    )


@exercise(
    "06",
    "the importance-weighted bound",
    "06-importance-weighted-bound.md",
    "log_weights",
    "importance_weighted_bound",
)
def importance_weighted(given: Any) -> Iterator[Row]:
    """The weights against Pyro's, and the bound where the weights themselves overflow."""
    yield log_weight_row(given)
    log_w = (torch.randn(5, 7) + 800).requires_grad_()
    yield row(
        "L_K",
        given.importance_weighted_bound,
        (log_w,),
        lambda log_w: (log_w - 800).exp().mean(0).log() + 800,
        {
            "This is a mean of logarithms, which is the ELBO. The mean of the weights must be "
            "inside the logarithm.": (lambda log_w: log_w.mean(0)),
            "You divided by the number of samples outside of the logarithm.": lambda log_w: (
                log_w.logsumexp(0) / 5
            ),
            "You took the largest weight instead of the mean.": lambda log_w: log_w.amax(0),
        },
    )


@exercise("08", "the semi-supervised bound", "08-semi-supervised.md", "bound")
def semi_supervised(given: Any) -> Iterator[Row]:
    """The sum over the label, and the classification penalty."""

    def q(m: Any, i: Any) -> Tensor:
        return m.classifier(i["x"]).softmax(-1).T

    def fit(m: Any, i: Any, z: Any) -> Tensor:
        return -densities.bernoulli(i["x"], m.decoder(z["z"], z["y"]))

    def ratio(m: Any, i: Any, z: Any) -> Tensor:
        loc, scale = head(m, i["x"], z["y"])
        return densities.normal(z["z"], loc, scale) - standard(z["z"])

    def log_q(m: Any, i: Any) -> Tensor:
        return m.classifier(i["x"]).log_softmax(-1)

    def labelled(m: Any, i: Any) -> Tensor:
        return -m.classifier(i["x_labelled"]).log_softmax(-1).gather(-1, i["y_labelled"][:, None])

    inputs = {"x": binary(), "x_labelled": binary().flip(0)[:5], "y_labelled": torch.tensor([0, 1, 2, 3, 0])}
    mistakes = {
        "reconstruction": {
            UNWEIGHTED: lambda m, i, z: fit(m, i, z).sum(0),
            PRIOR_WEIGHTS: lambda m, i, z: fit(m, i, z).mean(0),
        },
        "kl_z": {
            UNWEIGHTED: lambda m, i, z: ratio(m, i, z).sum(0),
            PRIOR_WEIGHTS: lambda m, i, z: ratio(m, i, z).mean(0),
        },
        "kl_y": {
            "The prior of y is missing. KL is E_q [log q(y | x) - log p(y)].": lambda m, i, z: (
                log_q(m, i).exp() * log_q(m, i)
            ).sum(-1),
            "This is the entropy of q(y | x). KL is log 4 minus the entropy.": lambda m, i, z: (
                -(log_q(m, i).exp() * log_q(m, i)).sum(-1)
            ),
            REVERSED: lambda m, i, z: -(log_q(m, i) + math.log(4)).mean(-1),
        },
        "classification": {
            "This is a sum over the labelled images, and the mean is needed.": lambda m, i, z: labelled(
                m, i
            ).sum(),
        },
    }
    yield from bound_rows(given, inputs, mistakes, SIZES)


@exercise("09", "a mixture of Gaussians as the prior", "09-mixture-priors.md", "bound")
def mixture_prior(given: Any) -> Iterator[Row]:
    """A VAE with a prior of five components."""

    def parts(m: Any, i: Any, z: Any) -> tuple[Tensor, Tensor]:
        log_q = densities.normal(z["z"], *head(m, i["x"]))
        return log_q, densities.normal(z["z"][:, None], *loc_scale(m.components))

    kl_z = {
        "This is a mean of log densities. The mean of the densities must be inside the "
        "logarithm.": lambda m, i, z: parts(m, i, z)[0] - parts(m, i, z)[1].mean(-1),
        "The weights 1/k of the components are missing.": lambda m, i, z: (
            parts(m, i, z)[0] - parts(m, i, z)[1].logsumexp(-1)
        ),
        "You took only the nearest component.": lambda m, i, z: (
            parts(m, i, z)[0] - parts(m, i, z)[1].amax(-1) + math.log(5)
        ),
        "This is the KL term of a standard normal prior. The prior is the mixture.": lambda m, i, z: (
            parts(m, i, z)[0] - standard(z["z"])
        ),
        PRIOR: lambda m, i, z: parts(m, i, z)[0],
        GUIDE: lambda m, i, z: math.log(5) - parts(m, i, z)[1].logsumexp(-1),
    }
    yield from bound_rows(given, {"x": real()}, {"kl_z": kl_z}, SIZES)


@exercise("13", "an autoregressive flow as the prior", "13-autoregressive-flow-prior.md", "bound")
def flow_prior(given: Any) -> Iterator[Row]:
    """A VAE with a flow from z to noise."""

    def kl(m: Any, i: Any, z: Any, sign: float = 1.0, inverse: bool = False) -> Tensor:
        shift, s = m.flow.arn(z["z"])
        e = (z["z"] - shift) * (-s).exp() if inverse else z["z"] * s.exp() + shift
        return densities.normal(z["z"], *head(m, i["x"])) - standard(e) - sign * s.sum(-1)

    kl_z = {
        NO_LOG_DET: lambda m, i, z: kl(m, i, z, 0.0),
        "You summed the log-determinant over the batch. Sum over the dimensions of z only.": lambda m, i, z: (
            kl(m, i, z, 0.0) - m.flow.arn(z["z"])[1].sum()
        ),
        WRONG_LOG_DET: lambda m, i, z: kl(m, i, z, -1.0),
        "This is the inverse of the flow. Here the flow goes from z to e.": lambda m, i, z: kl(
            m, i, z, 1.0, True
        ),
        "This is the KL term of a standard normal prior of z. Send z through the flow "
        "first.": lambda m, i, z: densities.normal(z["z"], *head(m, i["x"])) - standard(z["z"]),
        GUIDE: lambda m, i, z: kl(m, i, z) - densities.normal(z["z"], *head(m, i["x"])),
    }
    yield from bound_rows(given, {"x": real()}, {"kl_z": kl_z}, SIZES)
