"""Models of colour images of 3 x 32 x 32."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain_torch.common import LOG_2PI, TorchModel, sample_and_kl_log_std


def conv_vae() -> TorchModel:
    """A convolutional VAE trained on squared error + KL."""
    encoder = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(), nn.Conv2d(128, 256, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(4096, 32)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(16, 2048), nn.ReLU(), nn.Unflatten(1, (128, 4, 4))),
        *(nn.ConvTranspose2d(128, 128, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 3, 3, 1, 1)),
    )

    def loss(x: Tensor) -> Tensor:
        z, kl = sample_and_kl_log_std(encoder(x))
        return (((decoder(z) - x) ** 2).sum((1, 2, 3)) + kl).mean()

    return [encoder, decoder], loss


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels at each position."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def map_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """Returns the KL divergence of a map of diagonal normals from N(0, I), (batch,)."""
    return 0.5 * (mean**2 + (2 * log_std).exp() - 2 * log_std - 1).sum((1, 2, 3))


def hvae() -> TorchModel:
    """A hierarchical VAE with two latent maps, z1 and z2, and a learned prior p(z2 | z1)."""

    def encoder() -> nn.Sequential:
        layers: list[nn.Module] = []
        for in_channels, out_channels, stride in (
            (15, 32, 1),
            (32, 64, 2),
            (64, 64, 2),
            (64, 64, 2),
            (64, 64, 2),
        ):
            layers += [
                nn.Conv2d(in_channels, out_channels, 3, stride, 1),
                ChannelNorm(out_channels),
                nn.ReLU(),
            ]
        return nn.Sequential(*layers, nn.Conv2d(64, 24, 3, 1, 1))

    encoder1, encoder2 = encoder(), encoder()
    prior = nn.Sequential(
        *(nn.Conv2d(12, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU()),
        nn.Conv2d(64, 12, 3, 1, 1),
    )
    decoder = nn.Sequential(
        *(nn.ConvTranspose2d(12, 64, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 3, 3, 1, 1)),
    )

    def loss(x: Tensor) -> Tensor:
        mean1, log_std1 = encoder1(torch.cat([x, x.new_zeros(len(x), 12, 32, 32)], 1)).chunk(2, 1)
        z1 = mean1 + log_std1.exp() * torch.randn(mean1.shape)
        mean2, log_std2 = encoder2(torch.cat([x, F.interpolate(z1, scale_factor=16)], 1)).chunk(2, 1)
        z2 = prior(z1) + mean2 + log_std2.exp() * torch.randn(mean2.shape)
        kl = map_kl(mean1, log_std1) + map_kl(mean2, log_std2)
        return (((decoder(z2) - x) ** 2).sum((1, 2, 3)) + kl).mean()

    return [encoder1, encoder2, prior, decoder], loss


def fsvae() -> TorchModel:
    """A class-conditional VAE with a normal likelihood of variance 0.1."""

    def net(inputs: int, outputs: int) -> nn.Sequential:
        layers = [nn.Linear(inputs, 500), nn.ELU(), nn.Linear(500, 500), nn.ELU(), nn.Linear(500, outputs)]
        return nn.Sequential(*layers)

    encoder, decoder = net(3072 + 10, 20), net(10 + 10, 3072)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        x, y = x.flatten(1), F.one_hot(y, 10).to(x)
        mean, raw = encoder(torch.cat([x, y], 1)).chunk(2, -1)
        variance = F.softplus(raw) + 1e-8
        z = mean + variance.sqrt() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + variance - variance.log() - 1).sum(-1)
        error = ((x - decoder(torch.cat([z, y], 1))) ** 2).sum(-1)
        return (5 * error + 1536 * math.log(0.2 * math.pi) + kl).mean()

    return [encoder, decoder], loss


class GatedBlock(nn.Module):
    """A residual block with a gated linear unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 128, 3, 1, 1)

    def forward(self, h: Tensor) -> Tensor:
        return h + F.glu(self.second(self.first(h.relu()).relu()), 1)


def gated_nets() -> tuple[nn.Sequential, nn.Sequential]:
    """Returns the encoder and the decoder of `gated_vae` and `af_vae`."""

    def stack() -> list[nn.Module]:
        return [nn.Conv2d(256, 64, 1), *(GatedBlock() for _ in range(5)), nn.ReLU()]

    encoder = nn.Sequential(
        *(nn.Conv2d(3, 128, 4, 2, 1), nn.ReLU(), nn.Conv2d(128, 256, 4, 2, 1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), *stack(), nn.Conv2d(64, 32, 1)),
    )
    decoder = nn.Sequential(
        *(nn.Conv2d(16, 256, 3, 1, 1), *stack(), nn.ConvTranspose2d(64, 128, 4, 2, 1), nn.ReLU()),
        nn.ConvTranspose2d(128, 6, 4, 2, 1),
    )
    return encoder, decoder


def gated_vae() -> TorchModel:
    """A VAE with gated residual networks and a normal likelihood with a learned scale per pixel."""
    encoder, decoder = gated_nets()

    def loss(x: Tensor) -> Tensor:
        mean, raw = encoder(x).chunk(2, 1)
        variance = F.softplus(raw) + 1e-8
        z = mean + variance.sqrt() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + variance - variance.log() - 1).sum((1, 2, 3))
        mean, raw = decoder(z).chunk(2, 1)
        scale = 1 / 512 + F.softplus(raw)
        return ((0.5 * ((x - mean) / scale) ** 2 + scale.log() + LOG_2PI / 2).sum((1, 2, 3)) + kl).mean()

    return [encoder, decoder], loss


class ResidualBlock(nn.Module):
    """A residual block with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 256, 3, 1, 1)),
            *(nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 256, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def vqvae() -> TorchModel:
    """A VQ-VAE. Its codebook starts at random: there is no initialization from data."""
    encoder = nn.Sequential(
        *(nn.Conv2d(3, 256, 4, 2, 1), nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 256, 4, 2, 1)),
        *(ResidualBlock(), ResidualBlock()),
    )
    decoder = nn.Sequential(
        *(
            ResidualBlock(),
            ResidualBlock(),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.ConvTranspose2d(256, 256, 4, 2, 1),
        ),
        *(nn.BatchNorm2d(256), nn.ReLU(), nn.ConvTranspose2d(256, 3, 4, 2, 1)),
    )
    codebook = nn.Embedding(128, 256)
    nn.init.uniform_(codebook.weight, -1 / 128, 1 / 128)

    def loss(x: Tensor) -> Tensor:
        e = encoder(x)
        vectors = e.permute(0, 2, 3, 1).reshape(-1, 256)
        distance = (codebook.weight**2).sum(1) - 2 * vectors @ codebook.weight.T
        c = codebook(distance.argmin(1)).view(len(x), 8, 8, 256).permute(0, 3, 1, 2)
        out = decoder(e + (c - e).detach())
        return F.mse_loss(out, x) + F.mse_loss(c, e.detach()) + F.mse_loss(e, c.detach())

    return [encoder, decoder, codebook], loss
