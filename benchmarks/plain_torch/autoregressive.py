"""Models with an autoregressive network, at the sizes that `benchmarks.step` uses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain_torch.colour import gated_nets
from benchmarks.plain_torch.common import LOG_2PI, TorchModel, sample_and_kl


class GatedLayer(nn.Module):
    """One layer of a gated PixelCNN, with a vertical and a horizontal stack (van den Oord et al. 2016)."""

    def __init__(self, in_width: int, width: int, condition_width: int, first: bool):
        super().__init__()
        self.first = first
        self.vertical = nn.Conv2d(in_width, 2 * width, (1 if first else 2, 3))
        self.horizontal = nn.Conv2d(in_width, 2 * width, (1, 1 if first else 2))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.condition = nn.Conv2d(condition_width, 2 * width, 1, bias=False) if condition_width else None

    def forward(self, v: Tensor, h: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        above, left = F.pad(v, (1, 1, 1, 0)), F.pad(h, (1, 0))
        if self.first:
            above, left = above[:, :, :-1], left[..., :-1]
        up = self.vertical(above)
        if self.condition is not None:
            up = up + self.condition(condition)
        row = self.horizontal(left) + self.across(up)
        new_v, new_h = F.glu(up, 1), self.out(F.glu(row, 1))
        return (new_v, new_h) if self.first else (v + new_v, h + new_h)


class GatedPixelCNN(nn.Module):
    """A gated PixelCNN over pixels, or over integer codes if `codes` is above zero."""

    def __init__(
        self, channels: int, width: int, out: int, layers: int, codes: int = 0, condition_width: int = 0
    ):
        super().__init__()
        self.embedding = nn.Embedding(codes, width) if codes else None
        in_width = width if codes else channels
        self.layers = nn.ModuleList(
            GatedLayer(width if i else in_width, width, condition_width, i == 0) for i in range(layers)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, out, 1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x[:, 0].long()).permute(0, 3, 1, 2)
        v = h = x
        for layer in self.layers:
            v, h = layer(v, h, condition)
        return self.head(h)


def af_vae() -> TorchModel:
    """A gated VAE with an autoregressive flow as its prior, on colour images of 3 x 32 x 32."""
    encoder, decoder = gated_nets()
    flows = nn.ModuleList(GatedPixelCNN(16, 64, 32, 4) for _ in range(2))

    def loss(x: Tensor) -> Tensor:
        mean, raw = encoder(x).chunk(2, 1)
        variance = F.softplus(raw) + 1e-8
        z = mean + variance.sqrt() * torch.randn_like(mean)
        e, log_det = z, torch.zeros(len(x))
        for flow in flows:
            m, s = flow(e).chunk(2, 1)
            s = s.tanh()
            e, log_det = (e * s.exp() + m).flip((2, 3)), log_det + s.sum((1, 2, 3))
        ratio = 0.5 * (e**2 - (z - mean) ** 2 / variance - variance.log()).sum((1, 2, 3)) - log_det
        mean, raw = decoder(z).chunk(2, 1)
        scale = 1 / 512 + F.softplus(raw)
        error = (0.5 * ((x - mean) / scale) ** 2 + scale.log() + LOG_2PI / 2).sum((1, 2, 3))
        return (error + ratio).mean()

    return [encoder, decoder, flows], loss


def pixel_vae() -> TorchModel:
    """A VAE with a PixelCNN decoder, on binary images of 1 x 28 x 28."""
    encoder = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 4, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(3136, 64)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(32, 3136), nn.ReLU(), nn.Unflatten(1, (64, 7, 7))),
        *(nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU()),
        nn.Conv2d(32, 32, 3, 1, 1),
    )
    pixelcnn = GatedPixelCNN(1, 32, 1, 4, condition_width=32)

    def loss(x: Tensor) -> Tensor:
        z, kl = sample_and_kl(encoder(x))
        logits = pixelcnn(x, decoder(z))
        error = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
        return (error + kl).mean()

    return [encoder, decoder, pixelcnn], loss


def code_pixelcnn() -> TorchModel:
    """A PixelCNN prior over maps of 8 x 8 codes."""
    network = GatedPixelCNN(1, 96, 256, 7, codes=256)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(network(x), x[:, 0].long(), reduction="none").sum((1, 2)).mean()

    return [network], loss


class TransformerBlock(nn.Module):
    """Causal self-attention and an MLP, both with layer norm first."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.attention = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        n, t, width = h.shape
        q, k, v = self.attention(self.norm(h)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.project(attended.transpose(1, 2).reshape(n, t, width))
        return h + self.mlp(h)


class Transformer(nn.Module):
    """A causal transformer over 64 codes out of 256."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.positions = nn.Parameter(torch.zeros(128)), nn.Parameter(torch.zeros(64, 128))
        self.embedding = nn.Embedding(256, 128)
        self.blocks = nn.Sequential(*(TransformerBlock(128, 4) for _ in range(4)))
        self.head = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 256))

    def forward(self, x: Tensor) -> Tensor:
        codes = self.embedding(x.flatten(1).long())
        h = torch.cat([self.start.expand(len(x), 1, -1), codes[:, :-1]], 1) + self.positions
        return self.head(self.blocks(h))


def code_transformer() -> TorchModel:
    """A transformer prior over maps of 8 x 8 codes."""
    network = Transformer()

    def loss(x: Tensor) -> Tensor:
        logits = network(x)
        targets = x.flatten(1).long()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / len(x)

    return [network], loss
