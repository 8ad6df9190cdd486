"""Solution of exercise 31: posterior regularization of a classifier."""

import math

from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Returns the entropy penalty, (): the mean of H(q(y | x)) over images."""
    log_q = logits.log_softmax(-1)
    return -(log_q.exp() * log_q).sum(-1).mean()


def balance(logits: Tensor) -> Tensor:
    """Returns the balance penalty, ()."""
    q_bar = logits.softmax(-1).mean(0)
    return math.log(len(q_bar)) + (q_bar * q_bar.log()).sum()


def information(entropy_penalty: Tensor, balance_penalty: Tensor, classes: int) -> Tensor:
    """Returns the mutual information of image and class, (), from the two penalties."""
    return math.log(classes) - balance_penalty - entropy_penalty


def entropy_weight(w: float) -> float:
    """Returns the total weight of the mean of H(q(y | x)) in the objective, if that of its penalty is w."""
    return w - 1


def step(a: Tensor, logits: Tensor, d: Tensor, radius: float) -> Tensor:
    """Returns the virtual adversarial step r, (batch, pixels), after one power iteration from d.

    The logits of q(y | x + r) are those of q(y | x) plus A r.
    a: A, (classes, pixels); logits: of q(y | x); d: the start, (batch, pixels); radius: the length of r.
    """
    q, change = logits.softmax(-1), d @ a.T  # A d
    change = q * (change - (q * change).sum(-1, keepdim=True))  # F A d
    r = change @ a  # M d
    return radius * r / r.norm(dim=-1, keepdim=True)


def smoothness(logits: Tensor, moved: Tensor) -> Tensor:
    """Returns the mean of D(x, r) over images, ().  moved: the logits of q(y | x + r), (batch, classes).

    Its gradient is the one that training uses.
    """
    target = logits.detach().log_softmax(-1)
    return (target.exp() * (target - moved.log_softmax(-1))).sum(-1).mean()
