"""Models of MNIST images of 28 x 28."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain_torch.common import TorchModel, bernoulli_error, sample_and_kl, sample_and_kl_log_std


def mlp(inputs: int, outputs: int, activation: type[nn.Module] = nn.ELU) -> nn.Sequential:
    """Returns an MLP with two hidden layers of 300 units."""
    layers = [
        nn.Linear(inputs, 300),
        activation(),
        nn.Linear(300, 300),
        activation(),
        nn.Linear(300, outputs),
    ]
    return nn.Sequential(*layers)


def vae() -> TorchModel:
    """A VAE with a Bernoulli likelihood and 10 latent dimensions."""
    encoder, decoder = mlp(784, 20), mlp(10, 784)

    def loss(x: Tensor) -> Tensor:
        x = x.flatten(1)
        z, kl = sample_and_kl(encoder(x))
        return (bernoulli_error(decoder(z), x) + kl).mean()

    return [encoder, decoder], loss


def iwae() -> TorchModel:
    """The same VAE, trained on the importance-weighted bound with 50 samples per image."""
    encoder, decoder = mlp(784, 20), mlp(10, 784)

    def loss(x: Tensor) -> Tensor:
        x = x.flatten(1)
        mean, raw = encoder(x).chunk(2, -1)
        variance = F.softplus(raw) + 1e-8
        z = mean + variance.sqrt() * torch.randn(50, *mean.shape, dtype=mean.dtype)
        log_ratio = log_normal(z, torch.zeros_like(mean), torch.ones_like(mean))
        log_ratio = log_ratio - log_normal(z, mean, variance)
        log_weights = log_ratio - bernoulli_error(decoder(z), x.expand(50, -1, -1))
        return (math.log(50) - log_weights.logsumexp(0)).mean()

    return [encoder, decoder], loss


def log_normal(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Returns the log density of a diagonal normal, summed over the last dimension."""
    return -0.5 * ((z - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)


def gmvae() -> TorchModel:
    """A VAE with a mixture of 500 normals as its prior.

    As in CS236, the mixture density is computed from a tensor of shape (batch, 500, 10).
    """
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
        return (bernoulli_error(decoder(z), x) + log_normal(z, mean, variance) - log_prior).mean()

    return [encoder, decoder, prior], loss


def conv_encoder(out: int) -> nn.Sequential:
    """Returns the encoder of `ae` and `beta_vae`."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU()),
        *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU()),
        *(nn.Conv2d(64, 128, 3, 2), nn.BatchNorm2d(128), nn.LeakyReLU()),
        *(nn.Conv2d(128, 256, 3), nn.BatchNorm2d(256), nn.LeakyReLU(), nn.Flatten(), nn.Linear(256, out)),
    )


def conv_decoder() -> nn.Sequential:
    """Returns the decoder of `ae` and `beta_vae`."""
    return nn.Sequential(
        *(nn.Linear(64, 256), nn.Unflatten(1, (256, 1, 1)), nn.BatchNorm2d(256), nn.LeakyReLU()),
        *(nn.ConvTranspose2d(256, 128, 3), nn.BatchNorm2d(128), nn.LeakyReLU()),
        *(nn.ConvTranspose2d(128, 64, 3, 2), nn.BatchNorm2d(64), nn.LeakyReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.LeakyReLU()),
        *(nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Sigmoid()),
    )


def ae() -> TorchModel:
    """An auto-encoder with 64 code dimensions, trained on the mean squared error."""
    encoder, decoder = conv_encoder(64), conv_decoder()
    return [encoder, decoder], lambda x: F.mse_loss(decoder(encoder(x)), x)


def beta_vae() -> TorchModel:
    """A convolutional beta-VAE with beta = 1e-4, trained on the mean squared error."""
    encoder, decoder = conv_encoder(128), conv_decoder()

    def loss(x: Tensor) -> Tensor:
        z, kl = sample_and_kl_log_std(encoder(x))
        return F.mse_loss(decoder(z), x) + 1e-4 * kl.mean()

    return [encoder, decoder], loss


def ppca() -> TorchModel:
    """Probabilistic PCA with a full-covariance guide."""
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


def ssvae() -> TorchModel:
    """A semi-supervised VAE. As in CS236, x is repeated ten times, once per label, in label-major order."""
    classifier, encoder, decoder = mlp(784, 10, nn.ReLU), mlp(794, 128), mlp(74, 784)

    def loss(x: Tensor, x_labelled: Tensor, y_labelled: Tensor) -> Tensor:
        x = x.flatten(1)
        log_q = F.log_softmax(classifier(x), -1)
        q = log_q.exp()
        y = torch.eye(10).repeat_interleave(len(x), 0)
        tiled = x.repeat(10, 1)
        z, kl = sample_and_kl(encoder(torch.cat([tiled, y], -1)))
        terms = bernoulli_error(decoder(torch.cat([z, y], -1)), tiled) + kl
        bound = (q * (log_q + math.log(10))).sum(-1) + (q.T * terms.view(10, len(x))).sum(0)
        return bound.mean() + 100 * F.cross_entropy(classifier(x_labelled.flatten(1)), y_labelled)

    return [classifier, encoder, decoder], loss


def ssvae_split() -> TorchModel:
    """The same model as `ssvae` with less arithmetic.

    The first layers compute their products with x, z and y separately, so that x is not repeated per label.
    """
    classifier, encoder, decoder = mlp(784, 10, nn.ReLU), mlp(794, 128), mlp(74, 784)

    def with_labels(net: nn.Sequential, u: Tensor) -> Tensor:
        """Returns the output for each of the ten labels. u is (batch, d) or (10, batch, d)."""
        weight, bias = net[0].get_parameter("weight"), net[0].get_parameter("bias")
        first = F.linear(u, weight[:, :-10], bias) + weight[:, -10:].T[:, None]  # (10, batch, 300)
        return net[1:](first)

    def loss(x: Tensor, x_labelled: Tensor, y_labelled: Tensor) -> Tensor:
        x = x.flatten(1)
        log_q = F.log_softmax(classifier(x), -1)
        q = log_q.exp()
        z, kl = sample_and_kl(with_labels(encoder, x))
        terms = bernoulli_error(with_labels(decoder, z), x.expand(10, -1, -1)) + kl
        bound = (q * (log_q + math.log(10))).sum(-1) + (q.T * terms).sum(0)
        return bound.mean() + 100 * F.cross_entropy(classifier(x_labelled.flatten(1)), y_labelled)

    return [classifier, encoder, decoder], loss


def made() -> TorchModel:
    """A MADE with one hidden layer and the pixels in raster order."""
    first, second = nn.Linear(784, 500), nn.Linear(500, 784)
    generator = torch.Generator().manual_seed(0)
    order, degrees = torch.arange(1, 785), torch.randint(1, 784, (500,), generator=generator)
    mask_in, mask_out = (degrees[:, None] >= order).float(), (order[:, None] > degrees).float()

    def loss(x: Tensor) -> Tensor:
        x = x.flatten(1)
        weight = first.weight * mask_in.to(x)
        logits = F.linear(F.linear(x, weight, first.bias).relu(), second.weight * mask_out.to(x), second.bias)
        return bernoulli_error(logits, x).mean()

    return [first, second], loss
