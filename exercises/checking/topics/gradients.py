"""Exercises 7 and 10: gradients of the importance-weighted bound, and the weight of a KL term."""

import math
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Normal

from exercises.checking.bounds import original
from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.bounds import head, real, standard
from inference.elbo.importance_weighted import ImportanceWeighted
from ppl_models import BetaVAE, densities
from ppl_models.programs import sample_latents

PIXELS = 28 * 28


@exercise(
    "07",
    "doubly reparameterised gradients",
    "07-doubly-reparameterised-gradients.md",
    "normalised_weights",
    "gradient_at_samples",
    "model_gradient",
)
def doubly_reparameterised(given: Any) -> Iterator[Row]:
    """The gradients of encoder and decoder against those of `ImportanceWeighted(doubly=True)`."""
    yield weights_row(given)
    pyro.set_rng_seed(0)
    model, x = original("06")().double(), real()
    torch.manual_seed(1)
    loss = ImportanceWeighted(5, doubly=True).differentiable_loss(model.model, model.guide, x)
    truths = [
        -gradient for gradient in torch.autograd.grad(loss, [model.encoder.weight, model.decoder.weight])
    ]
    torch.manual_seed(1)
    samples = ImportanceWeighted(5).sample(model.model, model.guide, x).latents["z"]
    z = samples.detach().requires_grad_()
    loc, scale = head(model, x)
    log_p = densities.normal(x, model.decoder(z), 1.0) + standard(z)
    log_w = log_p - densities.normal(z, loc, scale)
    v = log_w.detach().softmax(0)

    def down(at_samples: Tensor) -> Tensor:
        """The gradient of the encoder, which gets it through the samples."""
        if at_samples.isnan().all():
            return at_samples
        if at_samples.shape != samples.shape:
            raise ValueError(f"the shape is {tuple(at_samples.shape)}, and {tuple(samples.shape)} is needed.")
        return torch.autograd.grad(samples, model.encoder.weight, at_samples, retain_graph=True)[0]

    def at_samples(weights: Tensor) -> Tensor:
        return torch.autograd.grad((weights * log_w).sum(), z, retain_graph=True)[0]

    yield Row(
        "gradient, guide",
        lambda: down(given.gradient_at_samples(log_w, z)),
        lambda: truths[0],
        (),
        {
            "The factor is v. That is the path of the plain gradient, without its score; the score "
            "adds a part.": (lambda: down(at_samples(v))),
            "The samples are weighted evenly. That is the gradient of the ELBO.": lambda: down(
                at_samples(torch.full_like(v, 1 / 5))
            ),
            "The factor v - v^2 is the score's part. Add the path's part.": lambda: down(
                at_samples(v - v**2)
            ),
            "The weights are missing.": lambda: down(at_samples(torch.ones_like(v))),
        },
        {"samples": 5},
    )
    yield model_row(given, model, log_w, log_p, truths[1])


def model_row(given: Any, model: Any, log_w: Tensor, log_p: Tensor, truth: Tensor) -> Row:
    """Returns the row of the gradient of the decoder."""
    v = log_w.detach().softmax(0)

    def of_model(weights: Tensor) -> Tensor:
        return torch.autograd.grad((weights * log_p).sum(), model.decoder.weight, retain_graph=True)[0]

    return Row(
        "gradient, model",
        lambda: given.model_gradient(log_w, log_p, model.decoder.weight),
        lambda: truth,
        (),
        {
            "The square belongs to the guide. For the model there is no score.": lambda: of_model(v**2),
            "The samples are weighted evenly. That is the gradient of the ELBO.": lambda: of_model(
                torch.full_like(v, 1 / 5)
            ),
            "The weights are missing.": lambda: of_model(torch.ones_like(v)),
        },
        {"samples": 5},
    )


def weights_row(given: Any) -> Row:
    """Returns the row of the normalised weights."""
    log_w = (3 * torch.randn(5, 7) + 800).requires_grad_()
    return row(
        "v",
        given.normalised_weights,
        (log_w,),
        lambda log_w: (log_w - 800).exp() / (log_w - 800).exp().sum(0),
        {
            "You normalised over the data points. The samples are the first axis.": lambda log_w: (
                log_w.softmax(1)
            ),
            "These are the logarithms of v.": lambda log_w: log_w.log_softmax(0),
            "You normalised the logarithms. Normalise the weights.": lambda log_w: log_w / log_w.sum(0),
        },
        {"samples": 5},
    )


@exercise(
    "10",
    "beta-VAE, a weight that is a variance",
    "10-beta-as-a-variance.md",
    "decoder_variance",
    "negative_log_likelihood",
    "course_loss",
    "best_variance",
)
def beta_as_a_variance(given: Any) -> Iterator[Row]:
    """The variance and the loss of the suite's `BetaVAE`, and torch's normal density."""
    betas = torch.tensor([1e-4, 0.1, 2.0])
    models = [BetaVAE((1, 28, 28), z_dim=2, beta=beta.item()) for beta in betas]

    def variances(function: Any) -> Tensor:
        return torch.stack([torch.as_tensor(function(beta, PIXELS)) for beta in betas])

    yield Row(
        "s^2",
        lambda: variances(given.decoder_variance),
        lambda: torch.tensor([model.scale**2 for model in models]),
        (),
        {
            "This is s, the standard deviation. The variance is needed.": lambda: variances(
                lambda beta, d: (beta * d / 2).sqrt()
            ),
            "That holds for the sum of the squares. J has their mean over D pixels.": lambda: variances(
                lambda beta, d: beta / 2
            ),
            "This is the inverse of the variance.": lambda: variances(lambda beta, d: 2 / (beta * d)),
        },
    )
    yield from _likelihood_rows(given)
    yield from _loss_rows(given, models[1])


def _likelihood_rows(given: Any) -> Iterator[Row]:
    """Yields the rows of the normal density, and of the variance with the largest density."""
    x, mean, variance = (
        torch.rand(7, 6),
        torch.rand(7, 6).requires_grad_(),
        torch.tensor(0.3).requires_grad_(),
    )

    def nll(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return -Normal(mean, variance.sqrt()).log_prob(x).sum(-1)

    yield row(
        "-log N(x; mean, s^2 I)",
        given.negative_log_likelihood,
        (x, mean, variance),
        nll,
        {
            "The constant of the density is missing: it depends on s^2.": lambda x, mean, variance: (
                ((x - mean) ** 2).sum(-1) / (2 * variance)
            ),
            "You used the variance as a standard deviation.": lambda x, mean, variance: nll(
                x, mean, variance**2
            ),
            "The constant belongs to each of the D pixels.": lambda x, mean, variance: (
                nll(x, mean, variance) - 2.5 * torch.log(2 * math.pi * variance)
            ),
            "The squared error is divided by twice the variance.": lambda x, mean, variance: (
                nll(x, mean, variance) + ((x - mean) ** 2).sum(-1) / (2 * variance)
            ),
        },
        {"pixels": 6},
    )
    yield row(
        "best s^2",
        given.best_variance,
        (x, mean),
        lambda x, mean: ((x - mean) ** 2).mean(),
        {
            "This is s, the standard deviation. The variance is needed.": lambda x, mean: (
                ((x - mean) ** 2).mean().sqrt()
            ),
            "It is a mean over all pixels and images: you took the sum over the pixels.": lambda x, mean: (
                ((x - mean) ** 2).sum(-1).mean()
            ),
        },
        {"images": 7},
    )


def _loss_rows(given: Any, model: BetaVAE) -> Iterator[Row]:
    """Yields the row of the course's loss, the mean squared error and the weighted KL term of `BetaVAE`."""
    images = torch.rand(7, 1, 28, 28)
    with torch.no_grad():
        terms = model.bound(images, sample_latents(model, x=images))
    bound, beta = terms.negative_elbo, torch.tensor(float(model.beta))
    assert bound is not None
    bound = bound.requires_grad_()
    constant = beta * PIXELS / 2 * torch.log(math.pi * beta * PIXELS)
    offset = (terms.metrics["mean_squared_error"] + beta * terms.terms["kl_z"] - beta * bound).detach()
    yield row(
        "J",
        lambda bound: given.course_loss(bound, beta, PIXELS),
        (bound,),
        lambda bound: beta * bound + offset,
        {
            "The constant is missing: J and beta (-ELBO) are not equal.": lambda bound: beta * bound,
            "The constant has the wrong sign.": lambda bound: beta * bound + constant,
            "The constant needs the factor beta too.": lambda bound: beta * bound - constant / beta,
            "-ELBO needs the factor beta too.": lambda bound: bound - constant,
        },
    )
