"""The models with codes and autoregressive parts by hand in plain torch, as in `by_hand`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.by_hand import Written, gaussian
from benchmarks.by_hand_colour import LOG_2PI, gated_nets


class GatedLayer(nn.Module):
    """A layer of a gated PixelCNN: what is above through one stack, what is to the left through another."""

    def __init__(self, before: int, width: int, condition: int, first: bool):
        super().__init__()
        self.first = first
        self.vertical = nn.Conv2d(before, 2 * width, (1 if first else 2, 3))
        self.horizontal = nn.Conv2d(before, 2 * width, (1, 1 if first else 2))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.condition = nn.Conv2d(condition, 2 * width, 1, bias=False) if condition else None

    def forward(self, v: Tensor, h: Tensor, said: Tensor | None) -> tuple[Tensor, Tensor]:
        above, left = F.pad(v, (1, 1, 1, 0)), F.pad(h, (1, 0))
        if self.first:
            above, left = above[:, :, :-1], left[..., :-1]
        up = self.vertical(above)
        if self.condition is not None:
            up = up + self.condition(said)
        row = self.horizontal(left) + self.across(up)
        new_v, new_h = F.glu(up, 1), self.out(F.glu(row, 1))
        return (new_v, new_h) if self.first else (v + new_v, h + new_h)


class GatedPixelCNN(nn.Module):
    def __init__(self, channels: int, width: int, out: int, reach: int, codes: int = 0, condition: int = 0):
        super().__init__()
        self.embedding = nn.Embedding(codes, width) if codes else None
        before = width if codes else channels
        self.layers = nn.ModuleList(
            GatedLayer(width if i else before, width, condition, i == 0) for i in range(reach)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, out, 1))

    def forward(self, x: Tensor, said: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x[:, 0].long()).permute(0, 3, 1, 2)
        v = h = x
        for layer in self.layers:
            v, h = layer(v, h, said)
        return self.head(h)


def af_vae() -> Written:
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


def pixel_vae() -> Written:
    """On binary images of 28 x 28."""
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
    pixelcnn = GatedPixelCNN(1, 32, 1, 4, condition=32)

    def loss(x: Tensor) -> Tensor:
        z, kl = gaussian(encoder(x))
        logits = pixelcnn(x, decoder(z))
        error = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
        return (error + kl).mean()

    return [encoder, decoder, pixelcnn], loss


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 256, 3, 1, 1)),
            *(nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 256, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def vqvae() -> Written:
    """Its entries begin where they are: nothing is moved to the data."""
    encoder = nn.Sequential(
        *(nn.Conv2d(3, 256, 4, 2, 1), nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 256, 4, 2, 1)),
        *(Residual(), Residual()),
    )
    decoder = nn.Sequential(
        *(Residual(), Residual(), nn.BatchNorm2d(256), nn.ReLU(), nn.ConvTranspose2d(256, 256, 4, 2, 1)),
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


def code_pixelcnn() -> Written:
    network = GatedPixelCNN(1, 96, 256, 7, codes=256)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(network(x), x[:, 0].long(), reduction="none").sum((1, 2)).mean()

    return [network], loss


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.attention = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        n, t, width = h.shape
        q, k, v = self.attention(self.norm(h)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.join(seen.transpose(1, 2).reshape(n, t, width))
        return h + self.mlp(h)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.positions = nn.Parameter(torch.zeros(128)), nn.Parameter(torch.zeros(64, 128))
        self.embedding = nn.Embedding(256, 128)
        self.blocks = nn.Sequential(*(Attention(128, 4) for _ in range(4)))
        self.head = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 256))

    def forward(self, x: Tensor) -> Tensor:
        codes = self.embedding(x.flatten(1).long())
        h = torch.cat([self.start.expand(len(x), 1, -1), codes[:, :-1]], 1) + self.positions
        return self.head(self.blocks(h))


def code_transformer() -> Written:
    network = Transformer()

    def loss(x: Tensor) -> Tensor:
        logits = network(x)
        targets = x.flatten(1).long()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / len(x)

    return [network], loss
