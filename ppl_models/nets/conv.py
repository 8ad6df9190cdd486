"""Convolutional networks, each an encoder and the decoder that mirrors it; two pairs are of courses.

All take and give tensors with any leading dimensions: images (..., channels, height, width), codes (..., d).
"""

import math

import torch
from torch import Tensor, nn

QUARTER = 64  # channels of a map of a quarter of the sides


class Leading(nn.Sequential):
    """Layers in a row, applied to whatever stands in the last `event_dim` dimensions.

    What comes out has the precision of what went in, also where autocast works in another between.
    """

    event_dim = 1

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[: -self.event_dim]
        images = channels_last(x.flatten(0, len(lead) - 1))
        return super().forward(images).unflatten(0, lead).to(x.dtype)


class ToImage(nn.Unflatten):
    """A vector to an image of so many channels, height and width."""

    def __init__(self, *shape: int):
        super().__init__(1, shape)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(x))


def channels_last(x: Tensor) -> Tensor:
    """The same, images with each pixel's channels side by side in memory, as a CPU likes them.

    The parameters stay as they are: Pyro's parameter store copies one that is not contiguous, and the copy
    would learn in its stead.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


class ImageEncoder28(Leading):
    """(..., channels, 28, 28) to (..., out): 28 -> 14 -> 7 -> 3 -> 1 pixels a side, then one linear layer.

    The encoder of USC's CS566, with the strides that give the sizes it states; batch norm and LeakyReLU.
    """

    event_dim = 3

    def __init__(self, channels: int, out: int):
        super().__init__(
            nn.Conv2d(channels, 32, 4, stride=2, padding=1),
            nn.LeakyReLU(),
            *(nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU()),
            *(nn.Conv2d(64, 128, 3, stride=2), nn.BatchNorm2d(128), nn.LeakyReLU()),
            *(nn.Conv2d(128, 256, 3), nn.BatchNorm2d(256), nn.LeakyReLU()),
            nn.Flatten(),
            nn.Linear(256, out),
        )


class ImageDecoder28(Leading):
    """(..., z_dim) to (..., channels, 28, 28), between 0 and 1: the mirror of `ImageEncoder28`."""

    def __init__(self, z_dim: int, channels: int):
        super().__init__(
            *(nn.Linear(z_dim, 256), ToImage(256, 1, 1), nn.BatchNorm2d(256), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(256, 128, 3), nn.BatchNorm2d(128), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(128, 64, 3, stride=2), nn.BatchNorm2d(64), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.BatchNorm2d(32), nn.LeakyReLU()),
            nn.ConvTranspose2d(32, channels, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )


class ImageEncoder32(Leading):
    """(..., channels, 32, 32) to (..., out): 32 -> 32 -> 16 -> 8 -> 4 pixels a side, then one linear layer.

    The encoder of Berkeley's CS294-158 and of CSDS 600; ReLU, no normalisation.
    """

    event_dim = 3

    def __init__(self, channels: int, out: int):
        super().__init__(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 256, 3, stride=2, padding=1), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(256 * 4 * 4, out),
        )


class ImageDecoder32(Leading):
    """(..., z_dim) to (..., channels, 32, 32), from 4 x 4 pixels of 128 channels; no last activation."""

    def __init__(self, z_dim: int, channels: int):
        super().__init__(
            *(nn.Linear(z_dim, 128 * 4 * 4), nn.ReLU(), ToImage(128, 4, 4)),
            *(nn.ConvTranspose2d(128, 128, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(32, channels, 3, padding=1),
        )


class QuarterEncoder(Leading):
    """(..., channels, height, width) to (..., out), by way of a map of a quarter of the sides.

    These are multiples of four.
    """

    event_dim = 3

    def __init__(self, shape: tuple[int, ...], out: int):
        channels, height, width = shape
        super().__init__(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, QUARTER, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(QUARTER, QUARTER, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(QUARTER, QUARTER, 3, padding=1), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(QUARTER * (height // 4) * (width // 4), out),
        )


class QuarterDecoder(Leading):
    """(..., z_dim) to maps (..., out, height, width): the way back; no last activation."""

    def __init__(self, z_dim: int, out: int, shape: tuple[int, ...]):
        small = (QUARTER, shape[1] // 4, shape[2] // 4)
        super().__init__(
            *(nn.Linear(z_dim, math.prod(small)), nn.ReLU(), ToImage(*small)),
            *(nn.ConvTranspose2d(QUARTER, QUARTER, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(QUARTER, out, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(out, out, 3, padding=1),
        )
