"""Convolutional encoders and decoders, two pairs of which are taken from courses.

All accept any leading dimensions: images `(..., channels, height, width)`, codes `(..., d)`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

QUARTER_CHANNELS = 64  # of a map whose sides are a quarter of the image's


class BatchedSequential(nn.Sequential):
    """Layers in sequence, applied to the last `event_dim` dimensions of inputs with any leading dimensions.

    The output has the dtype of the input, also under autocast.
    """

    event_dim = 1

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[: -self.event_dim]
        images = channels_last(x.flatten(0, len(lead) - 1))
        return super().forward(images).unflatten(0, lead).to(x.dtype)


class ToImage(nn.Unflatten):
    """Reshapes a vector to an image of the given channels, height and width."""

    def __init__(self, *shape: int):
        super().__init__(1, shape)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(x))


def channels_last(x: Tensor) -> Tensor:
    """Returns images in the channels-last memory format, which is faster on CPUs; other tensors unchanged.

    The parameters keep their format: Pyro's parameter store copies a parameter that is not contiguous, and
    then trains the copy.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


class ImageEncoder28(BatchedSequential):
    """Maps `(..., channels, 28, 28)` to `(..., out)`: sides 28, 14, 7, 3, 1, then a linear layer.

    The encoder of USC's CS566, with batch norm, LeakyReLU and the strides that give the sizes in its handout.
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


class ImageDecoder28(BatchedSequential):
    """Maps `(..., z_dim)` to `(..., channels, 28, 28)`, values from 0 to 1: mirrors `ImageEncoder28`."""

    def __init__(self, z_dim: int, channels: int):
        super().__init__(
            *(nn.Linear(z_dim, 256), ToImage(256, 1, 1), nn.BatchNorm2d(256), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(256, 128, 3), nn.BatchNorm2d(128), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(128, 64, 3, stride=2), nn.BatchNorm2d(64), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.BatchNorm2d(32), nn.LeakyReLU()),
            nn.ConvTranspose2d(32, channels, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )


class ImageClassifier(BatchedSequential):
    """Maps `(..., channels, height, width)` to logits `(..., classes)`; height and width are multiples of 4.

    Two convolutions of stride 2, of 6x6 and 3x3 pixels, and a hidden layer, each with batch norm and ReLU.
    The first one is a 3x3 convolution of blocks of 2x2 pixels, whose gradient with respect to the image is
    several times faster on CPUs than that of a convolution of one channel.
    """

    event_dim = 3

    def __init__(self, shape: tuple[int, ...], classes: int):
        channels, height, width = shape
        super().__init__(
            *(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * (height // 4) * (width // 4), 128)),
            *(ToImage(128, 1, 1), nn.BatchNorm2d(128), nn.ReLU(), nn.Flatten()),
            nn.Linear(128, classes),
        )

    @contextmanager
    def frozen_averages(self) -> Iterator[None]:
        """Within it, batch norm does not update its running averages. What it computes is the same."""
        norms = [layer for layer in self if isinstance(layer, nn.BatchNorm2d)]
        for norm in norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True


class EighthEncoder(BatchedSequential):
    """Maps `(..., channels, height, width)` to `(..., out)`; height and width are multiples of 8.

    The encoder of Berkeley's CS294-158 and of CSDS 600, with ReLU and without normalisation: sides 32, 32,
    16, 8, 4, then a linear layer. Larger images have the same layers and larger maps.
    """

    event_dim = 3

    def __init__(self, shape: tuple[int, ...], out: int):
        channels, height, width = shape
        super().__init__(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(128, 256, 3, stride=2, padding=1), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(256 * (height // 8) * (width // 8), out),
        )


class EighthDecoder(BatchedSequential):
    """Maps `(..., z_dim)` to `(..., channels, height, width)`, without a final activation."""

    def __init__(self, z_dim: int, shape: tuple[int, ...]):
        channels, *sides = shape
        small = (128, *(side // 8 for side in sides))
        super().__init__(
            *(nn.Linear(z_dim, math.prod(small)), nn.ReLU(), ToImage(*small)),
            *(nn.ConvTranspose2d(128, 128, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(32, channels, 3, padding=1),
        )


class QuarterEncoder(BatchedSequential):
    """Maps `(..., channels, height, width)` to `(..., out)`; height and width are multiples of 4."""

    event_dim = 3

    def __init__(self, shape: tuple[int, ...], out: int):
        channels, height, width = shape
        super().__init__(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, QUARTER_CHANNELS, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(QUARTER_CHANNELS, QUARTER_CHANNELS, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(QUARTER_CHANNELS, QUARTER_CHANNELS, 3, padding=1), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(QUARTER_CHANNELS * (height // 4) * (width // 4), out),
        )


class QuarterDecoder(BatchedSequential):
    """Maps `(..., z_dim)` to `(..., out, height, width)`, without a final activation."""

    def __init__(self, z_dim: int, out: int, shape: tuple[int, ...]):
        small = (QUARTER_CHANNELS, shape[1] // 4, shape[2] // 4)
        super().__init__(
            *(nn.Linear(z_dim, math.prod(small)), nn.ReLU(), ToImage(*small)),
            *(nn.ConvTranspose2d(QUARTER_CHANNELS, QUARTER_CHANNELS, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(QUARTER_CHANNELS, out, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(out, out, 3, padding=1),
        )
