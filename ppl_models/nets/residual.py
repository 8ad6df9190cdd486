"""The networks of Berkeley's VQ-VAE: from images to maps and back, with pre-activation residual blocks.

A map has a quarter of the image's height and width: 8 x 8 for 32 x 32. All accept any leading dimensions.
"""

from torch import Tensor, nn

from ppl_models.nets.conv import BatchedSequential

WIDTH = 256  # channels of the maps
STRIDE = 4  # from the image to a map


class ResidualBlock(nn.Sequential):
    """Adds to x a 3 x 3 and a 1 x 1 convolution, each after batch norm and ReLU, `(n, WIDTH, ...)`."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
            *(nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class ResidualEncoder(BatchedSequential):
    """Maps `(..., channels, 4 h, 4 w)` to `(..., WIDTH, h, w)`, and then by the layers `last`."""

    event_dim = 3

    def __init__(self, channels: int, *last: nn.Module):
        super().__init__(
            *(nn.Conv2d(channels, WIDTH, 4, stride=2, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()),
            nn.Conv2d(WIDTH, WIDTH, 4, stride=2, padding=1),
            *(ResidualBlock(), ResidualBlock(), *last),
        )


class ResidualDecoder(BatchedSequential):
    """Maps `(..., WIDTH, h, w)` to `(..., channels, 4 h, 4 w)`, without a final activation.

    The layers `first`, if any, map the input to `(..., WIDTH, h, w)`.
    """

    event_dim = 3

    def __init__(self, channels: int, *first: nn.Module):
        super().__init__(
            *first,
            *(ResidualBlock(), ResidualBlock()),
            *(nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1)),
            *(nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.ConvTranspose2d(WIDTH, channels, 4, stride=2, padding=1)),
        )
