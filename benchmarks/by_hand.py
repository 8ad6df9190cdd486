"""The same models by hand in plain torch, as a good user would write them: what a step is measured against.

One function a model: it returns the networks, and the loss of a batch as a function. Same networks and
objective as the suite's; nothing of the suite is used.
"""

import math
from collections.abc import Callable

import torch
from pyro.distributions import transforms
from pyro.nn import DenseNN
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


def log_normal(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((z - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)


def gmvae() -> Written:
    """As the course asks: the mixture's density through a tensor (batch, 500, 10)."""
    encoder, decoder = mlp(784, 20), mlp(10, 784)
    prior = nn.ParameterList([torch.randn(500, 20) / math.sqrt(5_000)])

    def loss(x: Tensor) -> Tensor:
        x = x.flatten(1)
        mean, raw = encoder(x).chunk(2, -1)
        variance = F.softplus(raw) + 1e-8
        z = mean + variance.sqrt() * torch.randn_like(mean)
        means, raws = prior[0].chunk(2, -1)
        components = log_normal(z[:, None], means, F.softplus(raws) + 1e-8)  # (batch, 500)
        log_prior = components.logsumexp(-1) - math.log(500)
        return (error(decoder(z), x) + log_normal(z, mean, variance) - log_prior).mean()

    return [encoder, decoder, prior], loss


def image_encoder(out: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU()),
        *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU()),
        *(nn.Conv2d(64, 128, 3, 2), nn.BatchNorm2d(128), nn.LeakyReLU()),
        *(nn.Conv2d(128, 256, 3), nn.BatchNorm2d(256), nn.LeakyReLU(), nn.Flatten(), nn.Linear(256, out)),
    )


def image_decoder() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(64, 256), nn.Unflatten(1, (256, 1, 1)), nn.BatchNorm2d(256), nn.LeakyReLU()),
        *(nn.ConvTranspose2d(256, 128, 3), nn.BatchNorm2d(128), nn.LeakyReLU()),
        *(nn.ConvTranspose2d(128, 64, 3, 2), nn.BatchNorm2d(64), nn.LeakyReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.LeakyReLU()),
        *(nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Sigmoid()),
    )


def ae() -> Written:
    encoder, decoder = image_encoder(64), image_decoder()
    return [encoder, decoder], lambda x: F.mse_loss(decoder(encoder(x)), x)


def reparameterised(h: Tensor) -> tuple[Tensor, Tensor]:
    """As `gaussian`, where the second half is the logarithm of the standard deviation."""
    mean, log_std = h.chunk(2, -1)
    z = mean + log_std.exp() * torch.randn_like(mean)
    return z, 0.5 * (mean**2 + (2 * log_std).exp() - 2 * log_std - 1).sum(-1)


def beta_vae() -> Written:
    encoder, decoder = image_encoder(128), image_decoder()

    def loss(x: Tensor) -> Tensor:
        z, kl = reparameterised(encoder(x))
        return F.mse_loss(decoder(z), x) + 1e-4 * kl.mean()

    return [encoder, decoder], loss


def ppca() -> Written:
    decoder, encoder = nn.Linear(10, 784), nn.Linear(784, 10)
    rest = nn.ParameterList([torch.zeros(()), torch.zeros(10, 10)])

    def loss(x: Tensor) -> Tensor:
        x = x.flatten(1)
        log_std, raw = rest
        log_diagonal = raw.diagonal()
        tril = raw.tril(-1) + log_diagonal.exp().diag()
        mean = encoder(x)
        z = mean + torch.randn_like(mean) @ tril.T
        kl = 0.5 * (mean**2).sum(-1) + 0.5 * (tril**2).sum() - 5 - log_diagonal.sum()
        squares = ((x - decoder(z)) ** 2).sum(-1)
        constant = 784 * (log_std + 0.5 * math.log(2 * math.pi))
        return (0.5 * squares / (2 * log_std).exp() + constant + kl).mean()

    return [decoder, encoder, rest], loss


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


def vae2d() -> Written:
    def net(outputs: int) -> nn.Sequential:
        layers = [nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs)]
        return nn.Sequential(*layers)

    encoder, decoder = net(4), net(4)

    def loss(x: Tensor) -> Tensor:
        z, kl = reparameterised(encoder(x))
        mean, log_std = decoder(z).chunk(2, -1)
        return (0.5 * ((x - mean) / log_std.exp()) ** 2 + log_std + 0.5 * math.log(2 * math.pi)).sum(
            -1
        ).mean() + kl.mean()

    return [encoder, decoder], loss


def flow() -> Written:
    """Its splines are Pyro's own here too: nobody writes these by hand."""
    splines = [
        transforms.SplineCoupling(2, 1, DenseNN(1, [64, 64], [16, 16, 15, 16]), 16, 4.0, identity=True)
        for _ in range(4)
    ]
    for spline in splines:
        del spline.lower_spline
    affine = nn.ParameterList([torch.zeros(2), torch.zeros(2)])

    def loss(x: Tensor) -> Tensor:
        loc, log_scale = affine
        e = (x - loc) * (-log_scale).exp()
        log_det = -log_scale.sum()
        for spline in splines:
            after = spline(e)
            log_det = log_det + spline.log_abs_det_jacobian(e, after)
            e = after.flip(-1)
        return (0.5 * (e**2).sum(-1) + math.log(2 * math.pi) - log_det).mean()

    return [nn.ModuleList(splines), affine], loss


def made() -> Written:
    """One hidden layer, the natural order."""
    first, second = nn.Linear(784, 500), nn.Linear(500, 784)
    generator = torch.Generator().manual_seed(0)
    order, numbers = torch.arange(1, 785), torch.randint(1, 784, (500,), generator=generator)
    into, out = (numbers[:, None] >= order).float(), (order[:, None] > numbers).float()

    def loss(x: Tensor) -> Tensor:
        x = x.flatten(1)
        weight = first.weight * into.to(x)
        logits = F.linear(F.linear(x, weight, first.bias).relu(), second.weight * out.to(x), second.bias)
        return error(logits, x).mean()

    return [first, second], loss
