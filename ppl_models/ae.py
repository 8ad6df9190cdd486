"""Auto-encoder, trained on the mean squared error without a prior."""

import math
from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.conv import ImageDecoder28, ImageEncoder28

SCALE = 1 / math.sqrt(2 * math.pi)  # -log N(x; m, SCALE^2) = pi (x - m)^2: the constant is zero


class AE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x), with the terms of z masked in both programs.

    p(z)     = N(z; 0, I)                       z (batch, z_dim): used for sampling, not for training
    p(x | z) = N(x; decoder(z), I / (2 pi))     x (batch, *shape), grey levels 0 to 1
    q(z | x) = Delta(z; encoder(x))

    objective = mean squared error over the pixels = -log p(x | z) / (pi pixels)

    The objective does not bound log p(x): the KL divergence from a point mass to a density is infinite. The
    mask is the limit of a VAE's KL weight, beta = 0.

    Networks, sizes and loss of USC's CS566.
    """

    estimators = ("trace",)
    observation, smallest_size, size_divisor = "unit", 28, None
    defaults = {"steps": 9_380, "batch_size": 64, "lr": 1e-3}  # 10 epochs of MNIST
    small_image_defaults = {"steps": 1_000}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_dim: Annotated[int, "dimensions of the code z"] = 64,
    ):
        super().__init__(shape, classes)
        self.z_dim = z_dim
        self.weight = 1 / (math.pi * math.prod(shape))
        self.encoder = ImageEncoder28(shape[0], z_dim)
        self.decoder = ImageDecoder28(z_dim, shape[0])

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=False):
                z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            with poutine.scale(scale=self.weight):
                pyro.sample("x", dist.Normal(self.decoder(z), SCALE).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=False):
            pyro.sample("z", dist.Delta(self.encoder(x), event_dim=1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        mean = self.decoder(latents["z"])
        return ELBOTerms(
            reconstruction=-densities.normal(x.flatten(-3), mean.flatten(-3), SCALE),
            kl_z=None,
            weights={"reconstruction": self.weight},
            metrics={"mean_squared_error": ((x - mean) ** 2).mean((-1, -2, -3))},
        )
