"""Exercise 25: score-function gradients."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import leaf, positive

CONSTANT_F = "A constant in f must cancel in the exact gradient. In yours it does not."


@exercise(
    "25",
    "score-function gradients",
    "19-score-function-gradients.md",
    "estimate",
    "exact_gradient",
    "best_baseline",
    "variance_score_function",
    "variance_reparameterised",
)
def score_function(given: Any) -> Iterator[Row]:
    """Scores and gradients from autograd, variances from quadrature."""
    y, logits = torch.tensor([0, 1, 2, 3, 0, 1, 2]), leaf(7, 4)

    def score(logits: Tensor) -> Tensor:
        log_q = logits.log_softmax(-1).gather(-1, y[:, None]).sum()
        return torch.autograd.grad(log_q, logits, create_graph=True)[0]

    yield row(
        "estimate",
        lambda f, logits: given.estimate(f, logits, y),
        (leaf(7), logits),
        lambda f, logits: f[:, None] * score(logits),
        {
            "The score is the derivative of log q, not of q.": lambda f, logits: (
                f[:, None] * score(logits) * logits.softmax(-1).gather(-1, y[:, None])
            ),
            "log q also depends on the logits of the other labels, by its normaliser.": lambda f, logits: (
                f[:, None] * one_hot(y, 4) + 0 * logits
            ),
            "The indicator of the sampled label is missing.": lambda f, logits: (
                -f[:, None] * logits.softmax(-1)
            ),
            "This is the score. The estimate has the factor f(y).": lambda f, logits: score(logits),
            "The estimate has log q in place of its derivative.": lambda f, logits: (
                f[:, None] * logits.log_softmax(-1)
            ),
        },
    )

    def exact(f: Tensor, logits: Tensor) -> Tensor:
        mean = (logits.softmax(-1) * f).sum()
        return torch.autograd.grad(mean, logits, create_graph=True)[0]

    yield row(
        "exact gradient",
        given.exact_gradient,
        (leaf(7, 4), logits),
        exact,
        {
            "The mean of f is missing. " + CONSTANT_F: lambda f, logits: logits.softmax(-1) * f,
            "The factor q(k) is missing.": lambda f, logits: (
                f - (logits.softmax(-1) * f).sum(-1, keepdim=True)
            ),
            "The mean of f is under q, not over all labels evenly.": lambda f, logits: (
                logits.softmax(-1) * (f - f.mean(-1, keepdim=True))
            ),
            "This is a derivative in q. Each logit changes all probabilities.": lambda f, logits: (
                f + 0 * logits
            ),
            "The factor in front is q(k), the probability.": lambda f, logits: (
                logits.log_softmax(-1) * (f - (logits.softmax(-1) * f).sum(-1, keepdim=True))
            ),
        },
    )
    yield baseline_row(given)
    yield from variance_rows(given)


def baseline_row(given: Any) -> Row:
    """Returns the row of the best baseline, at the minimum of the variance."""
    q = torch.randn(4).softmax(-1)
    score = (torch.eye(4)[1] - q[1]).requires_grad_()

    def best(f: Tensor, score: Tensor, q: Tensor) -> Tensor:
        baseline = torch.zeros((), requires_grad=True)  # the mean does not depend on it
        square = (q * ((f - baseline) * score) ** 2).sum()
        slope = torch.autograd.grad(square, baseline, create_graph=True)[0]
        return -slope / torch.autograd.grad(slope, baseline, create_graph=True)[0]

    return row(
        "best baseline",
        given.best_baseline,
        (leaf(4), score, q.requires_grad_()),
        best,
        {
            "This is the mean of f. Where the score is large, f counts more.": lambda f, s, q: (q * f).sum(),
            "The labels have the probabilities q.": lambda f, s, q: (f * s**2).sum() / (s**2).sum(),
            "The score is squared: the variance has the square of the estimate.": lambda f, s, q: (
                (q * f * s.abs()).sum() / (q * s.abs()).sum()
            ),
            "Divide by the mean square of the score.": lambda f, s, q: (q * f * s**2).sum(),
            "This is the estimate itself. The baseline is a value of f.": lambda f, s, q: (q * f * s).sum(),
        },
    )


def variance_rows(given: Any) -> Iterator[Row]:
    """Yields the rows of the two variances, by quadrature."""
    nodes, weights = (torch.as_tensor(part) for part in np.polynomial.hermite_e.hermegauss(8))
    noise, weights = nodes[:, None], (weights / weights.sum())[:, None]

    def variance(estimate: Tensor) -> Tensor:
        return (weights * estimate**2).sum(0) - (weights * estimate).sum(0) ** 2

    yield row(
        "variance, score function",
        given.variance_score_function,
        (leaf(7), positive(7)),
        lambda mu, sigma: variance((mu + sigma * noise) ** 2 * noise / sigma),
        {
            "This is the mean square. Subtract the squared mean, 4 mu^2.": lambda mu, sigma: (
                mu**4 / sigma**2 + 18 * mu**2 + 15 * sigma**2
            ),
            "This is the variance with the best baseline.": lambda mu, sigma: 8 * mu**2 + 6 * sigma**2,
            "The mean of e^6 is 15, of e^4 it is 3.": lambda mu, sigma: (
                mu**4 / sigma**2 + 14 * mu**2 + 3 * sigma**2
            ),
            "(mu^2 e + 2 mu sigma e^2 + sigma^2 e^3)^2 has a third term in mu^2, from the first and the "
            "last part.": lambda mu, sigma: mu**4 / sigma**2 + 8 * mu**2 + 15 * sigma**2,
            "This is the variance of z^2. The estimate also has the score.": lambda mu, sigma: variance(
                (mu + sigma * noise) ** 2
            ),
        },
    )
    yield row(
        "variance, reparameterised",
        given.variance_reparameterised,
        (leaf(7), positive(7)),
        lambda mu, sigma: variance(2 * (mu + sigma * noise)),
        {
            "The factor 2 of the derivative is squared too.": lambda mu, sigma: 2 * sigma**2,
            "The derivative of z^2 is 2 z. Its factor is missing.": lambda mu, sigma: sigma**2,
            "This is the mean square. Subtract the squared mean.": lambda mu, sigma: 4 * (mu**2 + sigma**2),
            "sigma is a standard deviation. Square it.": lambda mu, sigma: 4 * sigma,
            "This is the variance of z^2. The estimate is its derivative.": lambda mu, sigma: variance(
                (mu + sigma * noise) ** 2
            ),
        },
    )
