"""Exercise 24: the maximum likelihood of probabilistic PCA.

Read docs/derivations/18-ppca-maximum-likelihood.md. Then replace each TODO and run

    python -m exercises.check 24

The model is x = W z + b + s e, with standard normal z of d and e of D dimensions, d < D. `values` (D,) are
the eigenvalues of the data's covariance, the largest first. Use torch only, not torch.distributions.
"""

import math

from torch import Tensor

from exercises import TODO


def noise_variance(values: Tensor, d: int) -> Tensor:
    """Returns s^2, (), at the maximum of the likelihood."""
    return TODO  # what the latents leave over


def squared_lengths(values: Tensor, variance: Tensor, d: int) -> Tensor:
    """Returns the squared lengths of the columns of W, (d,), that are best for a given noise variance, ()."""
    return TODO  # zero up to the threshold


def log_likelihood(values: Tensor, d: int) -> Tensor:
    """Returns the mean of log p(x) over the data, (), at the maximum, in nats."""
    return TODO  # the determinant and the trace at the best parameters


def direction_kl(values: Tensor, variance: Tensor) -> Tensor:
    """Returns the mean KL term of each direction, (d,), in nats, with the posterior as the guide.

    values: eigenvalues, (d,), larger than the noise variance, ().
    """
    return TODO  # variance to noise
