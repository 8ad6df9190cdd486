"""Exercise 7: doubly reparameterised gradients.

Read docs/derivations/07-doubly-reparameterised-gradients.md. Then replace each TODO and run

    python -m exercises.check 07

There are K samples z (K, batch, d) with the log weights log w (K, batch). The normalised weights are

    v_k = w_k / sum_j w_j

and the gradient of the importance-weighted bound L_K is a sum over the samples. Each function below gives one
part of it. Both log densities were computed at z, and z is a leaf of the graph: the gradient with respect to
z is the path only, without the score.
"""

import torch
from torch import Tensor

from exercises import TODO


def normalised_weights(log_w: Tensor) -> Tensor:
    """Returns v, (K, batch). A weight itself may overflow."""
    return TODO  # from the logarithms


def gradient_at_samples(log_w: Tensor, z: Tensor) -> Tensor:
    """Returns the doubly reparameterised gradient of L_K at the samples, (K, batch, d).

    It is what the guide's parameters receive through z. Use
    torch.autograd.grad(scalar, z, retain_graph=True)[0].
    """
    v = normalised_weights(log_w).detach()
    return TODO  # which power of v?


def model_gradient(log_w: Tensor, log_p: Tensor, parameter: Tensor) -> Tensor:
    """Returns the gradient of L_K, summed over the batch, with respect to a parameter of the model.

    log_p: log p(x, z), (K, batch).
    """
    v = normalised_weights(log_w).detach()
    return TODO  # which power of v?
