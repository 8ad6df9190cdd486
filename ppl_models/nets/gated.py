"""The gated residual networks of Berkeley's CS294-158 (2019), from images to latent maps.

A map has a quarter of the image's height and width: 8 x 8 for 32 x 32. All accept any leading dimensions.
"""

from torch import Tensor, nn

from ppl_models.nets.activations import gate
from ppl_models.nets.conv import BatchedSequential

STRIDE = 4  # from the image to a map
CHANNELS, BLOCKS = 64, 5  # of the residual stack


class GatedBlock(nn.Sequential):
    """Returns h + a sigmoid(b), where a and b are the halves of a two-layer network of h, `(n, 64, ...)`."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)),
            *(nn.ReLU(), nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1)),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + gate(super().forward(h))


def residual_stack() -> list[nn.Module]:
    """Returns the layers from 256 to 64 channels, the residual blocks, and a final ReLU."""
    return [nn.Conv2d(256, CHANNELS, 1), *(GatedBlock() for _ in range(BLOCKS)), nn.ReLU()]


class GatedEncoder(BatchedSequential):
    """Maps `(..., channels, 4 h, 4 w)` to `(..., out, h, w)`."""

    event_dim = 3

    def __init__(self, channels: int, out: int):
        super().__init__(
            *(nn.Conv2d(channels, 128, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 256, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(256, 256, 3, padding=1),
            *residual_stack(),
            nn.Conv2d(CHANNELS, out, 1),
        )


class GatedDecoder(BatchedSequential):
    """Maps `(..., z_channels, h, w)` to `(..., out, 4 h, 4 w)`, without a final activation."""

    event_dim = 3

    def __init__(self, z_channels: int, out: int):
        super().__init__(
            nn.Conv2d(z_channels, 256, 3, padding=1),
            *residual_stack(),
            *(nn.ConvTranspose2d(CHANNELS, 128, 4, stride=2, padding=1), nn.ReLU()),
            nn.ConvTranspose2d(128, out, 4, stride=2, padding=1),
        )
