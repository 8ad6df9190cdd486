"""The gated residual variational auto-encoder of dequantised images, in bits per dimension."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import pyro
import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import softplus

from ppl_models import densities
from ppl_models.base import KL, ELBOTerms, LatentVariableModel
from ppl_models.nets.gated import GatedDecoder, GatedEncoder
from ppl_models.nets.heads import loc_scale

LEVEL = 1 / 128  # the width of one of 256 levels from -1 to 1
LEAST = LEVEL / 4  # of the decoder's scales


class GatedVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                               z (batch, z_channels, 8, 8)
    p(x | z) = N(x; loc(z), diag scale(z)^2)            x (batch, *shape), a loc and a scale for every value
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, z_channels, 8, 8)

    -ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)
    bits_per_dim = -ELBO(x) / (D log 2) + log2(128)     D values in an image

    x is a level from 0 to 255 and uniform noise of a level's width, on a scale of -1 to 1, where a level is
    1/128 wide. The bound is of a density, and by Jensen's inequality `bits_per_dim` bounds the bits of the
    levels themselves (Theis, van den Oord and Bethge 2016, arXiv 1511.01844). The decoder's scales are at
    least a quarter of a level: no value that is the same in all images makes the density unbounded.

    Part 2 of Berkeley's CS294-158, homework 3 (2019). What it leaves open: z has 16 channels, as in Chen et
    al. 2017, Variational Lossy Autoencoder (arXiv 1611.02731); a convolution of 1 x 1 makes the guide's locs
    and variances; and one takes the 256 channels down to 64 before the residual blocks, so that the 64 gated
    channels of each can be added to what came in.
    """

    estimators: ClassVar[tuple[str, ...]] = ("mean_field", "trace", "iwae", "iwae_dreg")
    observation, image_size = "dequantised", 32
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
        z_channels: Annotated[int, "channels of the latent map of 8 x 8"] = 16,
    ):
        super().__init__(shape, classes)
        self.z_shape = (z_channels, 8, 8)
        self.encoder = GatedEncoder(shape[0], 2 * z_channels)
        self.decoder = GatedDecoder(z_channels, 2 * shape[0])

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's loc and scale, (..., *shape) each."""
        loc, raw = self.decoder(z).chunk(2, dim=-3)
        return loc, LEAST + softplus(raw)

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
        return in_bits(reconstruction, kl_z, x.shape[-1])


def in_bits(reconstruction: Tensor, kl_z: Tensor, values: int) -> ELBOTerms:
    """The bound of dequantised images with so many values each, in bits per dimension as well."""
    bits = (reconstruction + kl_z) / (math.log(2) * values) - math.log2(LEVEL)
    return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z, metrics={"bits_per_dim": bits})
