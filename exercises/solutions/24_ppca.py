"""Solution of exercise 24: the maximum likelihood of probabilistic PCA."""

import math

from torch import Tensor


def noise_variance(values: Tensor, d: int) -> Tensor:
    """Returns s^2, (), at the maximum of the likelihood."""
    return values[d:].mean()


def squared_lengths(values: Tensor, variance: Tensor, d: int) -> Tensor:
    """Returns the squared lengths of the columns of W, (d,), that are best for a given noise variance, ()."""
    return (values[:d] - variance).clamp(min=0)


def log_likelihood(values: Tensor, d: int) -> Tensor:
    """Returns the mean of log p(x) over the data, (), at the maximum, in nats."""
    log_det = values[:d].log().sum() + (len(values) - d) * noise_variance(values, d).log()
    return -0.5 * (len(values) * math.log(2 * math.pi) + log_det + len(values))


def direction_kl(values: Tensor, variance: Tensor) -> Tensor:
    """Returns the mean KL term of each direction, (d,), in nats, with the posterior as the guide.

    values: eigenvalues, (d,), larger than the noise variance, ().
    """
    return 0.5 * (values / variance).log()
