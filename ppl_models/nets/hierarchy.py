"""The networks of the hierarchical VAE of Berkeley's CS294-158, whose latents are maps of 2 x 2.

All accept any leading dimensions: images `(..., channels, 32, 32)`, codes `(..., z_channels, 2, 2)`.
"""

import torch
from torch import Tensor, nn

from ppl_models.nets.conv import BatchedSequential


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, `(batch, channels, height, width)`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MapEncoder(BatchedSequential):
    """Maps an image `(..., channels, 32, 32)` and a code `(..., z_channels, 2, 2)` to `(..., out, 2, 2)`.

    The code is upsampled to 32 x 32 and concatenated to the image as channels. The leading dimensions must
    broadcast. Without a code its channels are zero.
    """

    event_dim = 3

    def __init__(self, channels: int, z_channels: int, out: int):
        super().__init__(
            *(nn.Conv2d(channels + z_channels, 32, 3, padding=1), ChannelNorm(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), ChannelNorm(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=2, padding=1), ChannelNorm(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=2, padding=1), ChannelNorm(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=2, padding=1), ChannelNorm(64), nn.ReLU()),
            nn.Conv2d(64, out, 3, padding=1),
        )
        self.z_channels = z_channels

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        if code is None:
            code = x.new_zeros(self.z_channels, 2, 2)
        upsampled = code.repeat_interleave(16, dim=-1).repeat_interleave(16, dim=-2)
        lead = torch.broadcast_shapes(x.shape[:-3], code.shape[:-3])
        both = [part.expand(*lead, *part.shape[-3:]) for part in (x, upsampled)]
        return super().forward(torch.cat(both, dim=-3))


class MapPrior(BatchedSequential):
    """Maps a code to the prior mean of the next level's code, `(..., z_channels, 2, 2)` both."""

    event_dim = 3

    def __init__(self, z_channels: int):
        super().__init__(
            *(nn.Conv2d(z_channels, 64, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
            nn.Conv2d(64, z_channels, 3, padding=1),
        )


class MapDecoder(BatchedSequential):
    """Maps a code `(..., z_channels, 2, 2)` to `(..., channels, 32, 32)`, without a final activation."""

    event_dim = 3

    def __init__(self, z_channels: int, channels: int):
        super().__init__(
            *(nn.ConvTranspose2d(z_channels, 64, 3, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(32, channels, 3, padding=1),
        )
