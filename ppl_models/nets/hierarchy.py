"""The networks of the hierarchical VAE of Berkeley's CS294-158: latents are maps of 2 x 2.

All take and give tensors with any leading dimensions: images (..., channels, 32, 32), codes
(..., z, 2, 2).
"""

import torch
from torch import Tensor, nn

from ppl_models.nets.conv import Leading


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of the channels at each pixel, (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MapEncoder(Leading):
    """An image and a code to a map: (..., channels, 32, 32) and (..., z, 2, 2) to (..., out, 2, 2).

    The code is scaled up to the image's size, each of its pixels to 16 x 16, and laid on it as channels;
    their leading dimensions need only broadcast. Without a code its channels are zero.
    """

    event_dim = 3

    def __init__(self, channels: int, z: int, out: int):
        super().__init__(
            *(nn.Conv2d(channels + z, 32, 3, padding=1), ChannelNorm(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), ChannelNorm(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=2, padding=1), ChannelNorm(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=2, padding=1), ChannelNorm(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=2, padding=1), ChannelNorm(64), nn.ReLU()),
            nn.Conv2d(64, out, 3, padding=1),
        )
        self.z = z

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        if code is None:
            code = x.new_zeros(self.z, 2, 2)
        large = code.repeat_interleave(16, dim=-1).repeat_interleave(16, dim=-2)
        lead = torch.broadcast_shapes(x.shape[:-3], code.shape[:-3])
        both = [part.expand(*lead, *part.shape[-3:]) for part in (x, large)]
        return super().forward(torch.cat(both, dim=-3))


class MapPrior(Leading):
    """A code to the mean of the next level's, (..., z, 2, 2) both."""

    event_dim = 3

    def __init__(self, z: int):
        super().__init__(
            *(nn.Conv2d(z, 64, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
            nn.Conv2d(64, z, 3, padding=1),
        )


class MapDecoder(Leading):
    """A code to an image's mean, (..., z, 2, 2) to (..., channels, 32, 32); no last activation."""

    event_dim = 3

    def __init__(self, z: int, channels: int):
        super().__init__(
            *(nn.ConvTranspose2d(z, 64, 3, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(32, channels, 3, padding=1),
        )
