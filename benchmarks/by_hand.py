"""The same models written by hand in plain torch, as a good user would write them: a step's measure.

One function a model, which returns a function that makes one training step. Same networks, batch, optimiser
and objective as the suite's; nothing of the suite is used.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(inputs: int, outputs: int, activation: type[nn.Module] = nn.ELU) -> nn.Sequential:
    layers = [
        nn.Linear(inputs, 300),
        activation(),
        nn.Linear(300, 300),
        activation(),
        nn.Linear(300, outputs),
    ]
    return nn.Sequential(*layers)


def stepper(nets: list[nn.Module], loss: Callable[..., Tensor]) -> Callable[..., None]:
    """A training step: loss, gradients, one pass of fused Adam."""
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], lr=1e-3, fused=True)

    def step(**batch: Tensor) -> None:
        optimizer.zero_grad()
        loss(**batch).backward()
        optimizer.step()

    return step


def gaussian(h: Tensor) -> tuple[Tensor, Tensor]:
    """A sample, and the KL from N(0, I) in closed form, from the two halves of a network's output."""
    mean, raw = h.chunk(2, -1)
    variance = F.softplus(raw) + 1e-8
    z = mean + variance.sqrt() * torch.randn_like(mean)
    return z, 0.5 * (mean**2 + variance - variance.log() - 1).sum(-1)


def vae() -> Callable[..., None]:
    encoder, decoder = mlp(784, 20), mlp(10, 784)

    def loss(x: Tensor) -> Tensor:
        x = x.flatten(1)
        z, kl = gaussian(encoder(x))
        error = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
        return (error + kl).mean()

    return stepper([encoder, decoder], loss)


def ssvae() -> Callable[..., None]:
    """As the course's starter code asks: x and the labels tiled label-major, ten rows an image."""
    encoder, decoder, classifier = mlp(794, 128), mlp(74, 784), mlp(784, 10, nn.ReLU)

    def loss(x: Tensor, x_labelled: Tensor, y_labelled: Tensor) -> Tensor:
        x = x.flatten(1)
        log_q = F.log_softmax(classifier(x), -1)
        q = log_q.exp()
        y = torch.eye(10).repeat_interleave(len(x), 0)
        tiled = x.repeat(10, 1)
        z, kl = gaussian(encoder(torch.cat([tiled, y], -1)))
        logits = decoder(torch.cat([z, y], -1))
        error = F.binary_cross_entropy_with_logits(logits, tiled, reduction="none").sum(-1)
        kl_y = (q * (log_q + torch.tensor(10.0).log())).sum(-1)
        bound = kl_y + (q.T * (error + kl).view(10, len(x))).sum(0)
        return bound.mean() + 100 * F.cross_entropy(classifier(x_labelled.flatten(1)), y_labelled)

    return stepper([encoder, decoder, classifier], loss)


MODELS = {"vae": vae, "ssvae": ssvae}
