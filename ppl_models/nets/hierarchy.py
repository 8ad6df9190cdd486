"""The networks of the hierarchical VAE of Berkeley's CS294-158, whose latents are maps.

A map has a sixteenth of the image's height and width: 2 x 2 for 32 x 32. All accept any leading dimensions:
images `(..., channels, height, width)`, codes `(..., z_channels, height / 16, width / 16)`.
"""

import torch
from torch import Tensor, nn

from ppl_models.nets.conv import BatchedSequential

STRIDE = 16  # from the image to a map


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, `(batch, channels, height, width)`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MapEncoder(BatchedSequential):
    """Maps an image `(..., channels, h, w)` and a code `(..., z_channels, h / 16, w / 16)` to a map.

    The code is upsampled to h x w and concatenated to the image as channels. The leading dimensions must
    broadcast. Without a code its channels are zero. The map is `(..., out, h / 16, w / 16)`.
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
            code = x.new_zeros(self.z_channels, x.shape[-2] // STRIDE, x.shape[-1] // STRIDE)
        upsampled = code.repeat_interleave(STRIDE, dim=-1).repeat_interleave(STRIDE, dim=-2)
        lead = torch.broadcast_shapes(x.shape[:-3], code.shape[:-3])
        both = [part.expand(*lead, *part.shape[-3:]) for part in (x, upsampled)]
        return super().forward(torch.cat(both, dim=-3))


class MapPrior(BatchedSequential):
    """Maps a code to the prior mean of the next level's code, `(..., z_channels, h, w)` both."""

    event_dim = 3

    def __init__(self, z_channels: int):
        super().__init__(
            *(nn.Conv2d(z_channels, 64, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
            nn.Conv2d(64, z_channels, 3, padding=1),
        )


class MapDecoder(BatchedSequential):
    """Maps a code `(..., z_channels, h, w)` to `(..., channels, 16 h, 16 w)`, without a final activation."""

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
