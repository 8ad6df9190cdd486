"""Solution of exercise 25: score-function gradients."""

from torch import Tensor
from torch.nn.functional import one_hot


def estimate(f: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Returns the score-function estimate of the gradient of E_q [f] in the logits, (batch, labels).

    f: the value at the sampled label, (batch,); logits: (batch, labels); y: the sampled label, (batch,).
    """
    score = one_hot(y, logits.shape[-1]) - logits.softmax(-1)
    return f[:, None] * score


def exact_gradient(f: Tensor, logits: Tensor) -> Tensor:
    """Returns the gradient of E_q [f] in the logits, (batch, labels).  f: all values, (batch, labels)."""
    q = logits.softmax(-1)
    return q * (f - (q * f).sum(-1, keepdim=True))


def best_baseline(f: Tensor, score: Tensor, q: Tensor) -> Tensor:
    """Returns the constant, (), whose subtraction from f makes the variance of the estimate smallest.

    f, score, q: value, score in one parameter, and probability of each label, (labels,).
    """
    return (q * f * score**2).sum() / (q * score**2).sum()


def variance_score_function(mu: Tensor, sigma: Tensor) -> Tensor:
    """Returns the variance of z^2 (z - mu) / sigma^2, the estimate of the derivative in mu, (batch,)."""
    return mu**4 / sigma**2 + 14 * mu**2 + 15 * sigma**2


def variance_reparameterised(mu: Tensor, sigma: Tensor) -> Tensor:
    """Returns the variance of the reparameterised estimate of the derivative in mu, (batch,)."""
    return 4 * sigma**2
