"""Exercise 31: the penalties on a classifier's q(y | x)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import REVERSED, leaf
from ppl_models import densities

CLASSES = 4
RADIUS = 2.5
SIZES = {"classes": CLASSES}
SUM = "This is a sum over the images, and the mean is needed."


def entropies(logits: Tensor) -> Tensor:
    """Returns H(q(y | x)), (batch,)."""
    return Categorical(logits=logits).entropy()


def entropy_of_mean(logits: Tensor) -> Tensor:
    """Returns the entropy of the mean of q(y | x), ()."""
    return Categorical(logits.softmax(-1).mean(0)).entropy()


def uniform(logits: Tensor) -> Categorical:
    """Returns p(y)."""
    return Categorical(logits=torch.zeros_like(logits[0]))


@exercise(
    "31",
    "posterior regularization of a classifier",
    "25-posterior-regularization.md",
    "entropy",
    "balance",
    "information",
    "entropy_weight",
    "step",
    "smoothness",
)
def regularization(given: Any) -> Iterator[Row]:
    """Entropies and KL divergences from torch.distributions, the step from second derivatives."""
    logits, log_c = leaf(7, CLASSES), torch.tensor(float(CLASSES)).log()
    yield row(
        "entropy",
        given.entropy,
        (logits,),
        lambda logits: entropies(logits).mean(),
        {
            SUM: lambda logits: entropies(logits).sum(),
            "This is the entropy of the mean. The penalty is the mean of the entropies.": entropy_of_mean,
            "This is log C - H, the KL term of the bound. The penalty is H.": lambda logits: (
                log_c - entropies(logits).mean()
            ),
            "The factor q(y | x) is missing: the mean of -log q(y | x) is under q.": lambda logits: (
                -logits.log_softmax(-1).sum(-1).mean()
            ),
            "This is in bits. Use the natural logarithm.": lambda logits: (
                entropies(logits).mean() / torch.tensor(2.0).log()
            ),
        },
        SIZES,
    )
    yield row("entropy, certain", given.entropy, (1000 * leaf(7, CLASSES),), lambda t: entropies(t).mean())
    yield row(
        "balance",
        given.balance,
        (logits,),
        lambda logits: kl_divergence(Categorical(logits.softmax(-1).mean(0)), uniform(logits)),
        {
            "This is the mean of the KL divergences. Take the mean of q(y | x) first.": lambda logits: (
                log_c - entropies(logits).mean()
            ),
            "log C, from the prior of y, is missing.": lambda logits: -entropy_of_mean(logits),
            "This is the entropy of the mean. KL is log C minus this entropy.": entropy_of_mean,
            REVERSED: lambda logits: kl_divergence(uniform(logits), Categorical(logits.softmax(-1).mean(0))),
            "This is the mean of the logits. The mean is over the probabilities.": lambda logits: (
                kl_divergence(Categorical(logits=logits.mean(0)), uniform(logits))
            ),
        },
    )
    yield from information_rows(given, logits)
    yield step_row(given)
    yield smoothness_row(given)


def information_rows(given: Any, logits: Tensor) -> Iterator[Row]:
    """Yields the rows of the mutual information and of the entropy's weight in the objective."""

    def of_penalties(function: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[[Tensor], Tensor]:
        def term(logits: Tensor) -> Tensor:
            penalty = kl_divergence(Categorical(logits.softmax(-1).mean(0)), uniform(logits))
            return function(entropies(logits).mean(), penalty, CLASSES)

        return term

    def information(logits: Tensor) -> Tensor:
        joint = logits.softmax(-1) / len(logits)  # of image and class
        return (joint * (joint / (joint.sum(0) / len(logits))).log()).sum()

    log_c = torch.tensor(float(CLASSES)).log()
    yield row(
        "I(x; y)",
        of_penalties(given.information),
        (logits,),
        information,
        {
            "This is log C minus the information.": of_penalties(lambda h, b, c: h + b),
            "The balance penalty has the wrong sign. It is log C minus the entropy of the mean.": (
                of_penalties(lambda h, b, c: log_c + b - h)
            ),
            "log C is missing.": of_penalties(lambda h, b, c: -h - b),
            "The balance penalty is missing.": of_penalties(lambda h, b, c: log_c - h),
            "The entropy penalty is missing.": of_penalties(lambda h, b, c: log_c - b),
        },
    )
    pair = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 2.0, 3.0]])

    def slope(w: float) -> Tensor:
        parts = densities.kl_categorical_uniform(pair) + w * entropies(pair)  # KL term of y, and penalty
        return (parts[1] - parts[0]) / (entropies(pair)[1] - entropies(pair)[0])

    yield Row(
        "weight of H, w = 20",
        lambda: given.entropy_weight(20.0),
        lambda: slope(20.0),
        mistakes={
            "The KL term of the bound is log C - H. Its H counts too.": lambda: torch.tensor(20.0),
            "The bound rewards entropy: its KL term is log C - H, with a minus.": lambda: torch.tensor(21.0),
            "This is the bound's part alone. Add the weight of the penalty.": lambda: torch.tensor(-1.0),
        },
    )


def step_row(given: Any) -> Row:
    """Returns the row of the virtual adversarial step, against a product with the second derivative."""

    def product(a: Tensor, logits: Tensor, d: Tensor) -> Tensor:
        r = torch.zeros_like(d, requires_grad=True)
        moved = Categorical(logits=logits + r @ a.T)
        total = kl_divergence(Categorical(logits=logits.detach()), moved).sum()
        (slope,) = torch.autograd.grad(total, r, create_graph=True)
        return torch.autograd.grad((slope * d).sum(), r, create_graph=True)[0]

    def long(r: Tensor) -> Tensor:
        return RADIUS * r / r.norm(dim=-1, keepdim=True)

    return row(
        "step r(x)",
        lambda a, logits, d: given.step(a, logits, d, RADIUS),
        (leaf(CLASSES, 6), leaf(7, CLASSES), leaf(7, 6)),
        lambda a, logits, d: long(product(a, logits, d)),
        {
            "This is M d. Bring it to the length radius.": product,
            "This step has the length 1. Its length is radius.": lambda a, logits, d: (
                long(product(a, logits, d)) / RADIUS
            ),
            "Each image has its own length. You divided by the norm of all steps together.": (
                lambda a, logits, d: RADIUS * product(a, logits, d) / product(a, logits, d).norm()
            ),
            "F is diag(q) - q q^T. Its second part is missing.": lambda a, logits, d: long(
                (logits.softmax(-1) * (d @ a.T)) @ a
            ),
            "F is missing: M is A^T F A.": lambda a, logits, d: long(d @ a.T @ a),
            "This is the start d. Multiply it by M.": lambda a, logits, d: (
                long(d) + 0 * logits.sum() + 0 * a.sum()
            ),
            "M d / |M d| has the length 1. You divided by the square of the norm.": lambda a, logits, d: (
                long(product(a, logits, d)) / product(a, logits, d).norm(dim=-1, keepdim=True)
            ),
        },
    )


def smoothness_row(given: Any) -> Row:
    """Returns the row of the smoothness, which has no gradient in the logits of q(y | x)."""

    def kl(logits: Tensor, moved: Tensor) -> Tensor:
        return kl_divergence(Categorical(logits=logits.detach()), Categorical(logits=moved))

    return row(
        "smoothness",
        given.smoothness,
        (leaf(7, CLASSES), leaf(7, CLASSES)),
        lambda logits, moved: kl(logits, moved).mean(),
        {
            SUM: lambda logits, moved: kl(logits, moved).sum(),
            REVERSED: lambda logits, moved: kl(moved, logits).mean(),
            "This is the cross-entropy. D is a KL divergence: subtract the entropy of q(y | x).": (
                lambda logits, moved: (kl(logits, moved) + entropies(logits)).mean()
            ),
            "The weights are q(y | x), the probabilities at x.": lambda logits, moved: (
                (logits.log_softmax(-1) - moved.log_softmax(-1)).sum(-1).mean()
            ),
        },
        SIZES,
    )
