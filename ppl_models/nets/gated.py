"""The gated residual networks of Berkeley's CS294-158 (2019): images of 32 x 32, latent maps of 8 x 8.

All take and give tensors with any leading dimensions: images (..., channels, 32, 32), codes (..., z, 8, 8).
"""

from torch import Tensor, nn

from ppl_models.nets.activations import gate
from ppl_models.nets.conv import Leading

TRUNK, BLOCKS = 64, 5


class GatedBlock(nn.Sequential):
    """h + a sigmoid(b), where a and b are the halves of two convolutions of h: (batch, TRUNK, 8, 8) both."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.ReLU(), nn.Conv2d(TRUNK, TRUNK, 3, padding=1)),
            *(nn.ReLU(), nn.Conv2d(TRUNK, 2 * TRUNK, 3, padding=1)),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + gate(super().forward(h))


def stack() -> list[nn.Module]:
    """256 channels down to the trunk's, its blocks, and a last ReLU."""
    return [nn.Conv2d(256, TRUNK, 1), *(GatedBlock() for _ in range(BLOCKS)), nn.ReLU()]


class GatedEncoder(Leading):
    """(..., channels, 32, 32) to (..., out, 8, 8)."""

    event_dim = 3

    def __init__(self, channels: int, out: int):
        super().__init__(
            *(nn.Conv2d(channels, 128, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 256, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(256, 256, 3, padding=1),
            *stack(),
            nn.Conv2d(TRUNK, out, 1),
        )


class GatedDecoder(Leading):
    """(..., z, 8, 8) to (..., out, 32, 32); no last activation."""

    event_dim = 3

    def __init__(self, z: int, out: int):
        super().__init__(
            nn.Conv2d(z, 256, 3, padding=1),
            *stack(),
            *(nn.ConvTranspose2d(TRUNK, 128, 4, stride=2, padding=1), nn.ReLU()),
            nn.ConvTranspose2d(128, out, 4, stride=2, padding=1),
        )
