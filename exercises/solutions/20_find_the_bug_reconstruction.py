"""Solution of exercise 20: find the bug in a VAE that ignores its latent."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale

VARIANCE = 0.1  # of x


class VAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)."""

    estimators = ("mean_field",)

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder, self.decoder = nn.Linear(6, 2 * 3), nn.Linear(3, 6)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), math.sqrt(VARIANCE)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "closed") -> ELBOTerms:
        loc, scale = loc_scale(self.encoder(x))
        error = x - self.decoder(latents["z"])
        each = error**2 / (2 * VARIANCE) + 0.5 * math.log(2 * math.pi * VARIANCE)
        reconstruction = each.sum(-1)
        kl_z = densities.kl_normal_standard(loc, scale)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
