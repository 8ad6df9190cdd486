"""Solution of exercise 7: doubly reparameterised gradients."""

import torch
from torch import Tensor


def normalised_weights(log_w: Tensor) -> Tensor:
    """Returns v, (K, batch). A weight itself may overflow."""
    return log_w.softmax(0)


def gradient_at_samples(log_w: Tensor, z: Tensor) -> Tensor:
    """Returns the doubly reparameterised gradient of L_K at the samples, (K, batch, d).

    It is what the guide's parameters receive through z. Use
    torch.autograd.grad(scalar, z, retain_graph=True)[0].
    """
    v = normalised_weights(log_w).detach()
    return torch.autograd.grad((v**2 * log_w).sum(), z, retain_graph=True)[0]


def model_gradient(log_w: Tensor, log_p: Tensor, parameter: Tensor) -> Tensor:
    """Returns the gradient of L_K, summed over the batch, with respect to a parameter of the model.

    log_p: log p(x, z), (K, batch).
    """
    v = normalised_weights(log_w).detach()
    return torch.autograd.grad((v * log_p).sum(), parameter, retain_graph=True)[0]
