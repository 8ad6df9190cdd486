"""Convolutional beta-VAE, trained on the mean squared error and a weighted KL term."""

import math
from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms, scale_kl
from ppl_models.nets.conv import ImageDecoder28, ImageEncoder28
from ppl_models.nets.heads import loc_log_scale


class BetaVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                               z (batch, z_dim)
    p(x | z) = N(x; decoder(z), s^2 I)                  x (batch, *shape), grey levels 0 to 1
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, z_dim)

    -ELBO(x)  = -log p(x | z) + KL(q(z | x) || p(z)),   z ~ q(z | x)
    objective = mean squared error over the D pixels + beta KL(q(z | x) || p(z))
              = beta (-ELBO(x)) + constant              at s^2 = beta D / 2

    With a mean squared error the weight beta determines the decoder's scale: -log p(x | z) is D / (2 s^2)
    times the mean squared error, plus a constant, so that the objective is beta times the bound of the model
    with s^2 = beta D / 2. The program scales the site x by 2 s^2 / D = beta, and z by beta. At beta = 0 no
    such s exists: z is masked, and s^2 = 1 / (2 pi), for which the constant is zero.

    Networks, sizes and loss of USC's CS566; Higgins et al. 2017, beta-VAE.
    """

    estimators = ("mean_field", "trace", "iwae", "iwae_dreg")
    has_kl_weight = True
    observation, smallest_size, size_divisor = "unit", 28, None
    defaults = {"steps": 18_760, "batch_size": 64, "lr": 1e-3}  # 20 epochs of MNIST
    small_image_defaults = {"steps": 1_000}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 64,
        beta: Annotated[float, "weight of the KL term relative to the mean squared error"] = 1e-4,
    ):
        super().__init__(shape, classes)
        pixels = math.prod(shape)
        self.z_dim, self.beta = z_dim, beta
        self.scale = math.sqrt(beta * pixels / 2 if beta > 0 else 1 / (2 * math.pi))
        self.weight = 2 * self.scale**2 / pixels
        self.encoder = ImageEncoder28(shape[0], 2 * z_dim)
        self.decoder = ImageDecoder28(z_dim, shape[0])

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with scale_kl(self.beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            with poutine.scale(scale=self.weight):
                pyro.sample("x", dist.Normal(self.decoder(z), self.scale).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_log_scale(self.encoder(x))
            with scale_kl(self.beta):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        z = latents["z"]
        loc, scale = loc_log_scale(self.encoder(x))
        mean = self.decoder(z)
        return ELBOTerms(
            reconstruction=-densities.normal(x.flatten(-3), mean.flatten(-3), self.scale),
            kl_z=densities.kl_normal_standard(loc, scale)
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0),
            weights={"reconstruction": self.weight, "kl_z": self.beta},
            metrics={"mean_squared_error": ((x - mean) ** 2).mean((-1, -2, -3))},
        )

    def note(self) -> str | None:
        """Returns a line about the decoder's scale that corresponds to beta."""
        if self.beta == 0:
            return "beta 0 corresponds to no scale of a Gaussian decoder"
        return f"beta {self.beta:g} corresponds to a Gaussian decoder of scale {self.scale:.4g}"
