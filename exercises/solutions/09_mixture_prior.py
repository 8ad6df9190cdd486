"""Solution of exercise 9: a mixture of Gaussians as the prior."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.distributions import MixtureOfNormals
from ppl_models.nets.heads import loc_scale


class GMVAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z) + log q(z | x) - log p(z),    z ~ q(z | x)."""

    estimators = ("trace",)

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder, self.decoder = nn.Linear(6, 2 * 3), nn.Linear(3, 6)
        self.components = nn.Parameter(torch.randn(5, 2 * 3))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", MixtureOfNormals(*loc_scale(self.components)))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "sampled") -> ELBOTerms:
        z = latents["z"]
        loc, scale = loc_scale(self.encoder(x))
        prior_loc, prior_scale = loc_scale(self.components)
        each = densities.normal(z[:, None], prior_loc, prior_scale)
        log_prior = each.logsumexp(-1) - math.log(5)
        reconstruction = -densities.normal(x, self.decoder(z), 1.0)
        kl_z = densities.normal(z, loc, scale) - log_prior
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
