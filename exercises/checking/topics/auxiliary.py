"""Exercise 34: an auxiliary latent."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from exercises.checking.bounds import bound_rows
from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.bounds import (
    GUIDE,
    PRIOR,
    PRIOR_WEIGHTS,
    SIZES,
    UNWEIGHTED,
    binary,
    standard,
)
from ppl_models import densities
from ppl_models.nets.heads import loc_scale

STANDARD = "The prior of a is not N(0, I): a is generated from x, y and z."
MEAN_A = "The classifier needs the sample a, not the mean of q(a | x)."


def q(m: Any, i: Any, z: Any) -> Tensor:
    """Returns the probabilities of the labels, (4, batch)."""
    return m.classifier(i["x"], z["a"]).softmax(-1).T


def log_q_y(m: Any, i: Any, z: Any) -> Tensor:
    """Returns log q(y | x, a), (batch, 4)."""
    return m.classifier(i["x"], z["a"]).log_softmax(-1)


def fit(m: Any, i: Any, z: Any) -> Tensor:
    """Returns -log p(x | y, z), (4, batch)."""
    return -densities.bernoulli(i["x"], m.decoder(z["z"], z["y"]))


def of_a(m: Any, i: Any, z: Any) -> tuple[Tensor, Tensor]:
    """Returns log q(a | x), (batch,), and log p(a | y, z, x), (4, batch)."""
    prior = loc_scale(m.auxiliary_decoder(z["z"], z["y"], i["x"]))
    return densities.normal(z["a"], *loc_scale(m.auxiliary_encoder(i["x"]))), densities.normal(z["a"], *prior)


def ratio_a(m: Any, i: Any, z: Any) -> Tensor:
    """Returns log q(a | x) - log p(a | y, z, x), (4, batch)."""
    log_q, log_p = of_a(m, i, z)
    return log_q - log_p


def ratio_z(m: Any, i: Any, z: Any) -> Tensor:
    """Returns log q(z | x, a, y) - log p(z), (4, batch)."""
    return densities.normal(z["z"], *loc_scale(m.encoder(i["x"], z["a"], z["y"]))) - standard(z["z"])


MISTAKES = {
    "reconstruction": {
        UNWEIGHTED: lambda m, i, z: fit(m, i, z).sum(0),
        PRIOR_WEIGHTS: lambda m, i, z: fit(m, i, z).mean(0),
        MEAN_A: lambda m, i, z: (
            m.classifier(i["x"], loc_scale(m.auxiliary_encoder(i["x"]))[0]).softmax(-1).T * fit(m, i, z)
        ).sum(0),
    },
    "kl_a": {
        UNWEIGHTED: lambda m, i, z: ratio_a(m, i, z).sum(0),
        PRIOR_WEIGHTS: lambda m, i, z: ratio_a(m, i, z).mean(0),
        STANDARD: lambda m, i, z: of_a(m, i, z)[0] - standard(z["a"]),
        PRIOR: lambda m, i, z: of_a(m, i, z)[0],
        GUIDE: lambda m, i, z: -(q(m, i, z) * of_a(m, i, z)[1]).sum(0),
    },
    "kl_z": {
        UNWEIGHTED: lambda m, i, z: ratio_z(m, i, z).sum(0),
        PRIOR_WEIGHTS: lambda m, i, z: ratio_z(m, i, z).mean(0),
    },
    "kl_y": {
        "The prior of y is missing. KL is E_q [log q(y | x, a) - log p(y)].": lambda m, i, z: (
            log_q_y(m, i, z).exp() * log_q_y(m, i, z)
        ).sum(-1),
        "This is the entropy of q(y | x, a). KL is log 4 minus the entropy.": lambda m, i, z: (
            -(log_q_y(m, i, z).exp() * log_q_y(m, i, z)).sum(-1)
        ),
    },
}


@exercise("34", "an auxiliary latent", "28-auxiliary-latents.md", "bound", "classification", "log_classifier")
def auxiliary_latents(given: Any) -> Iterator[Row]:
    """The bound of an image without a label, the penalty of a labelled one, and the classifier."""
    yield from bound_rows(given, {"x": binary()}, MISTAKES, SIZES | {"dimensions of a": 2})
    logits, y = torch.randn(5, 7, 4).requires_grad_(), torch.tensor([0, 1, 2, 3, 0, 1, 2])

    def log_mean(logits: Tensor) -> Tensor:
        """Returns the logarithm of the mean probability, (7, 4)."""
        return logits.softmax(-1).mean(0).log()

    yield row(
        "classification",
        lambda logits: given.classification(logits.log_softmax(-1), y),
        (logits,),
        lambda logits: cross_entropy(logits.flatten(0, 1), y.repeat(5)),
        {
            "This is -log q(y | x), whose mean over a is inside the logarithm. The penalty is the mean of "
            "-log q(y | x, a).": lambda logits: -log_mean(logits)[torch.arange(7), y].mean(),
            "This is a sum over images or samples, and the mean is needed.": lambda logits: cross_entropy(
                logits.flatten(0, 1), y.repeat(5), reduction="sum"
            ),
            "You took all labels. Only that of the image counts.": lambda logits: (
                -logits.log_softmax(-1).mean()
            ),
        },
    )
    yield row(
        "log q(y | x)",
        lambda logits: given.log_classifier(logits.log_softmax(-1)),
        (logits,),
        log_mean,
        {
            "This is a mean of logarithms. q(y | x) is the mean of the probabilities.": lambda logits: (
                logits.log_softmax(-1).mean(0)
            ),
            "The number of samples is missing: this is the logarithm of a sum.": lambda logits: (
                log_mean(logits) + math.log(5)
            ),
            "These are probabilities. Their logarithm is needed.": lambda logits: log_mean(logits).exp(),
        },
    )
