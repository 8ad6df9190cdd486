"""The models of colour images by hand in plain torch, at 3 x 32 x 32, as in `by_hand`."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.by_hand import Written, reparameterised

LOG_2PI = math.log(2 * math.pi)


def conv_vae() -> Written:
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
        z, kl = reparameterised(encoder(x))
        return (((decoder(z) - x) ** 2).sum((1, 2, 3)) + kl).mean()

    return [encoder, decoder], loss


class ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def standard_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """A map's KL from N(0, I), (batch,)."""
    return 0.5 * (mean**2 + (2 * log_std).exp() - 2 * log_std - 1).sum((1, 2, 3))


def hvae() -> Written:
    def encoder() -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after, stride in ((15, 32, 1), (32, 64, 2), (64, 64, 2), (64, 64, 2), (64, 64, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1), ChannelNorm(after), nn.ReLU()]
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
        kl = standard_kl(mean1, log_std1) + standard_kl(mean2, log_std2)
        return (((decoder(z2) - x) ** 2).sum((1, 2, 3)) + kl).mean()

    return [encoder1, encoder2, prior, decoder], loss


def fsvae() -> Written:
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
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 128, 3, 1, 1)

    def forward(self, h: Tensor) -> Tensor:
        return h + F.glu(self.second(self.first(h.relu()).relu()), 1)


def gated_nets() -> tuple[nn.Sequential, nn.Sequential]:
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


def gated_vae() -> Written:
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
