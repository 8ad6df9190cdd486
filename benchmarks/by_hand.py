"""The same models by hand in plain torch, as a good user would write them: what a step is measured against.

One function a model: it returns the networks, and the loss of a batch as a function. Same networks and
objective as the suite's; nothing of the suite is used.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Written = tuple[list[nn.Module], Callable[..., Tensor]]


def mlp(inputs: int, outputs: int, activation: type[nn.Module] = nn.ELU) -> nn.Sequential:
    layers = [
        nn.Linear(inputs, 300),
        activation(),
        nn.Linear(300, 300),
        activation(),
        nn.Linear(300, outputs),
    ]
    return nn.Sequential(*layers)


def gaussian(h: Tensor) -> tuple[Tensor, Tensor]:
    """A sample, and the KL from N(0, I) in closed form, from the two halves of a network's output."""
    mean, raw = h.chunk(2, -1)
    variance = F.softplus(raw) + 1e-8
    z = mean + variance.sqrt() * torch.randn_like(mean)
    return z, 0.5 * (mean**2 + variance - variance.log() - 1).sum(-1)


def error(logits: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def vae() -> Written:
    encoder, decoder = mlp(784, 20), mlp(10, 784)

    def loss(x: Tensor) -> Tensor:
        x = x.flatten(1)
        z, kl = gaussian(encoder(x))
        return (error(decoder(z), x) + kl).mean()

    return [encoder, decoder], loss


def ssvae() -> Written:
    """As the course asks: x and the labels tiled label-major, ten rows an image."""
    classifier, encoder, decoder = mlp(784, 10, nn.ReLU), mlp(794, 128), mlp(74, 784)

    def loss(x: Tensor, x_labelled: Tensor, y_labelled: Tensor) -> Tensor:
        x = x.flatten(1)
        log_q = F.log_softmax(classifier(x), -1)
        q = log_q.exp()
        y = torch.eye(10).repeat_interleave(len(x), 0)
        tiled = x.repeat(10, 1)
        z, kl = gaussian(encoder(torch.cat([tiled, y], -1)))
        terms = error(decoder(torch.cat([z, y], -1)), tiled) + kl
        bound = (q * (log_q + math.log(10))).sum(-1) + (q.T * terms.view(10, len(x))).sum(0)
        return bound.mean() + 100 * F.cross_entropy(classifier(x_labelled.flatten(1)), y_labelled)

    return [classifier, encoder, decoder], loss


def ssvae_split() -> Written:
    """The same with less arithmetic: first layers take x, z and y apart, and x is not tiled."""
    classifier, encoder, decoder = mlp(784, 10, nn.ReLU), mlp(794, 128), mlp(74, 784)

    def apart(net: nn.Sequential, u: Tensor) -> Tensor:  # (batch or 10 x batch, d) and ten labels
        weight, bias = net[0].get_parameter("weight"), net[0].get_parameter("bias")
        first = F.linear(u, weight[:, :-10], bias) + weight[:, -10:].T[:, None]  # (10, batch, 300)
        return net[1:](first)

    def loss(x: Tensor, x_labelled: Tensor, y_labelled: Tensor) -> Tensor:
        x = x.flatten(1)
        log_q = F.log_softmax(classifier(x), -1)
        q = log_q.exp()
        z, kl = gaussian(apart(encoder, x))
        terms = error(apart(decoder, z), x.expand(10, -1, -1)) + kl
        bound = (q * (log_q + math.log(10))).sum(-1) + (q.T * terms).sum(0)
        return bound.mean() + 100 * F.cross_entropy(classifier(x_labelled.flatten(1)), y_labelled)

    return [classifier, encoder, decoder], loss


# What each model is measured against: how it is written -> the function that writes it.
MODELS: dict[str, dict[str, Callable[[], Written]]] = {
    "vae": {"by hand": vae},
    "ssvae": {"by hand, x tiled": ssvae, "by hand, x once": ssvae_split},
}
