"""Gated residual variational auto-encoder of dequantised images, measured in bits per dimension."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import pyro
import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import softplus

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.gated import STRIDE, GatedDecoder, GatedEncoder
from ppl_models.nets.heads import loc_scale

LEVEL_WIDTH = 1 / 128  # the width of each of the 256 levels from -1 to 1
MIN_SCALE = LEVEL_WIDTH / 4  # lower limit of the decoder's scales


class GatedVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                               z (batch, z_channels, h, w)
    p(x | z) = N(x; loc(z), diag scale(z)^2)            x (batch, *shape), a loc and a scale per value
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, z_channels, h, w)

    -ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)
    bits_per_dim = -ELBO(x) / (D log 2) + log2(128)     D values per image

    h and w are a quarter of the image's height and width: the map of an image of 32 x 32 is 8 x 8. Smaller
    images are zero-padded; height and width of larger ones are multiples of 4.

    x is a level from 0 to 255 plus uniform noise of one level's width, rescaled to [-1, 1], where a level is
    1/128 wide. The bound is on a density. By Jensen's inequality `bits_per_dim` bounds the bits of the levels
    (Theis, van den Oord and Bethge 2016, arXiv 1511.01844). The decoder's scales are at least a quarter of a
    level: otherwise a value that is constant over all images makes the density unbounded.

    Part 2 of Berkeley's CS294-158, homework 3 (2019). It leaves three choices open. Here z has 16 channels,
    as in Chen et al. 2017, Variational Lossy Autoencoder (arXiv 1611.02731); a 1 x 1 convolution computes the
    guide's locs and variances; and a 1 x 1 convolution reduces the 256 channels to 64 before the residual
    blocks, so that each block can add its 64 gated channels to its input.
    """

    estimators: ClassVar[tuple[str, ...]] = ("mean_field", "trace", "iwae", "iwae_dreg")
    observation, smallest_size, size_divisor = "dequantised", 32, STRIDE
    interpolation_pairs = 5
    defaults = {
        **{"steps": 3_000, "batch_size": 64, "lr": 2e-3, "lr_warmup": 200, "schedule": "cosine"},
        **{"clip": 1_000.0, "ema": 0.999, "validation": 0.1},
    }
    small_image_defaults = {"steps": 200, "lr_warmup": 20}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_channels: Annotated[int, "channels of the latent map"] = 16,
    ):
        super().__init__(shape, classes)
        self.z_shape = (z_channels, shape[1] // STRIDE, shape[2] // STRIDE)
        self.encoder = GatedEncoder(shape[0], 2 * z_channels)
        self.decoder = GatedDecoder(z_channels, 2 * shape[0])

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the decoder's loc and scale, `(..., *shape)` each."""
        loc, raw = self.decoder(z).chunk(2, dim=-3)
        return loc, MIN_SCALE + softplus(raw)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_shape), 1.0).to_event(3))
            pyro.sample("x", dist.Normal(*self._decode(z)).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x), dim=-3)
            pyro.sample("z", dist.Normal(loc, scale).to_event(3))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        z = latents["z"]
        loc, scale = loc_scale(self.encoder(x).flatten(-3))
        mean, noise = (part.flatten(-3) for part in self._decode(z))
        x, z = x.flatten(-3), z.flatten(-3)
        reconstruction = -densities.normal(x, mean, noise)
        kl_z = (
            densities.kl_normal_standard(loc, scale)
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        )
        return with_bits_per_dim(reconstruction, kl_z, x.shape[-1])


def with_bits_per_dim(reconstruction: Tensor, kl_z: Tensor, values: int) -> ELBOTerms:
    """Builds the terms for dequantised images, with the bound in bits per dimension as a metric.

    Args:
        reconstruction: -log p(x | z) in nats per image, `(..., batch)`.
        kl_z: the KL term in nats per image, `(..., batch)`.
        values: the number of values per image.
    """
    bits = (reconstruction + kl_z) / (math.log(2) * values) - math.log2(LEVEL_WIDTH)
    return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z, metrics={"bits_per_dim": bits})
