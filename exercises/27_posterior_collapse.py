"""Exercise 27: posterior collapse.

Read docs/derivations/21-posterior-collapse.md. Then replace each TODO and run

    python -m exercises.check 27

The model is linear, in one dimension. The data have mean zero and variance v. s2 is a fixed noise variance:

    p(z) = N(z; 0, 1)        p(x | z) = N(x; w z, s2)        q(z | x) = N(z; a x, t^2)

The mean of -ELBO(x) over the data is

    ((1 - w a)^2 v + w^2 t^2) / (2 s2) + (a^2 v + t^2 - log t^2 - 1) / 2 + constant

Results are in nats. All arguments have the shape (batch,).
"""

from torch import Tensor
from torch.nn.functional import relu

from exercises import TODO


def gain(v: Tensor, s2: Tensor) -> Tensor:
    """Returns how much the best model gains in mean log p(x) against the collapsed one, w = 0, (batch,)."""
    return TODO  # zero up to the threshold


def determinant(v: Tensor, s2: Tensor) -> Tensor:
    """Returns the determinant, (batch,), of the second derivatives in w and a at w = a = 0, t = 1."""
    return TODO  # negative at a saddle


def weight_slope(v: Tensor, s2: Tensor, a: Tensor, t: Tensor) -> Tensor:
    """Returns the derivative of -ELBO in w at w = 0, (batch,), for any guide."""
    return TODO  # zero if the guide ignores x


def best_kl(v: Tensor, s2: Tensor, beta: Tensor) -> Tensor:
    """Returns the KL term, (batch,), at the minimum if the KL term has the weight beta."""
    return TODO  # zero up to another threshold
