"""Exercise 31: posterior regularization of a classifier.

Read docs/derivations/25-posterior-regularization.md. Then replace each TODO and run

    python -m exercises.check 31

The logits (batch, classes) are those of q(y | x), and p(y) is uniform. A mean over images is a mean over the
batch. Logits can be as large as 1000. Use torch only, not torch.distributions.
"""

import math

from torch import Tensor

from exercises import TODO


def entropy(logits: Tensor) -> Tensor:
    """Returns the entropy penalty, (): the mean of H(q(y | x)) over images."""
    return TODO  # a probability of 0 adds 0


def balance(logits: Tensor) -> Tensor:
    """Returns the balance penalty, ()."""
    return TODO  # a KL divergence of the mean of q(y | x)


def information(entropy_penalty: Tensor, balance_penalty: Tensor, classes: int) -> Tensor:
    """Returns the mutual information of image and class, (), from the two penalties."""
    return TODO  # I(x; y) is an entropy minus a mean of entropies


def entropy_weight(w: float) -> float:
    """Returns the total weight of the mean of H(q(y | x)) in the objective, if that of its penalty is w."""
    return TODO  # the bound contains this entropy too


def step(a: Tensor, logits: Tensor, d: Tensor, radius: float) -> Tensor:
    """Returns the virtual adversarial step r, (batch, pixels), after one power iteration from d.

    The logits of q(y | x + r) are those of q(y | x) plus A r.
    a: A, (classes, pixels); logits: of q(y | x); d: the start, (batch, pixels); radius: the length of r.
    """
    return TODO  # M d, and its length


def smoothness(logits: Tensor, moved: Tensor) -> Tensor:
    """Returns the mean of D(x, r) over images, ().  moved: the logits of q(y | x + r), (batch, classes).

    Its gradient is the one that training uses.
    """
    return TODO  # q(y | x) counts as a constant
