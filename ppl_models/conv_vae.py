"""Convolutional variational auto-encoder for images of 32 x 32 pixels and larger."""

import math
from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import NormalImage
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.conv import EighthDecoder, EighthEncoder
from ppl_models.nets.heads import loc_log_scale

SCALE = math.sqrt(0.5)  # -log N(x; m, SCALE^2) = (x - m)^2 + log(pi) / 2


class ConvVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                               z (batch, z_dim)
    p(x | z) = N(x; decoder(z), I / 2)                  x (batch, *shape), levels from -1 to 1
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, z_dim)

    -ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)
             = squared error + D/2 log pi + KL          D values per image

    The courses omit the constant and call the rest -ELBO: the metric `squared_error_and_kl`. Images smaller
    than 32 x 32 are zero-padded, and the model includes the padding. Height and width of larger images are
    multiples of 8: the layers have the same strides, and the linear layers take the map that results.

    Networks and sizes of Berkeley's CS294-158 (2024, question 2a) and of CSDS 600 (question 4).
    """

    estimators = ("mean_field", "trace", "iwae", "iwae_dreg")
    observation, smallest_size, size_divisor = "centred", 32, 8
    defaults = {"steps": 4_690, "batch_size": 128, "lr": 1e-3}  # 10 epochs of MNIST
    small_image_defaults = {"steps": 500}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 16,
    ):
        super().__init__(shape, classes)
        self.z_dim = z_dim
        self.encoder = EighthEncoder(shape, 2 * z_dim)
        self.decoder = EighthDecoder(z_dim, shape)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("x", NormalImage(self.decoder(z), SCALE), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_log_scale(self.encoder(x))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        z = latents["z"]
        loc, scale = loc_log_scale(self.encoder(x))
        mean = self.decoder(z)
        kl_z = (
            densities.kl_normal_standard(loc, scale)
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        )
        error = ((x - mean) ** 2).sum((-1, -2, -3))
        return ELBOTerms(
            reconstruction=-densities.normal(x.flatten(-3), mean.flatten(-3), SCALE),
            kl_z=kl_z,
            metrics={"squared_error": error, "squared_error_and_kl": error + kl_z},
        )
