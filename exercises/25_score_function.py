"""Exercise 25: score-function gradients.

Read docs/derivations/19-score-function-gradients.md. Then replace each TODO and run

    python -m exercises.check 25

A label y has the probabilities q = softmax(logits), and f(y) does not depend on the logits. The last two
functions are about q = N(z; mu, sigma^2) and f(z) = z^2. Use torch only, not torch.distributions.
"""

from torch import Tensor
from torch.nn.functional import one_hot

from exercises import TODO


def estimate(f: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Returns the score-function estimate of the gradient of E_q [f] in the logits, (batch, labels).

    f: the value at the sampled label, (batch,); logits: (batch, labels); y: the sampled label, (batch,).
    """
    return TODO  # the score of the sampled label


def exact_gradient(f: Tensor, logits: Tensor) -> Tensor:
    """Returns the gradient of E_q [f] in the logits, (batch, labels).  f: all values, (batch, labels)."""
    return TODO  # the mean of the estimate over y


def best_baseline(f: Tensor, score: Tensor, q: Tensor) -> Tensor:
    """Returns the constant, (), whose subtraction from f makes the variance of the estimate smallest.

    f, score, q: value, score in one parameter, and probability of each label, (labels,).
    """
    return TODO  # a mean of f with other weights than q


def variance_score_function(mu: Tensor, sigma: Tensor) -> Tensor:
    """Returns the variance of z^2 (z - mu) / sigma^2, the estimate of the derivative in mu, (batch,)."""
    return TODO  # the mean square minus the squared mean


def variance_reparameterised(mu: Tensor, sigma: Tensor) -> Tensor:
    """Returns the variance of the reparameterised estimate of the derivative in mu, (batch,)."""
    return TODO  # differentiate (mu + sigma e)^2
