"""Solution of exercise 33: the VampPrior."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.distributions import MixtureOfNormals
from ppl_models.nets.heads import loc_scale


class VampVAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z) + log q(z | x) - log 1/5 sum_j q(z | u_j),    z ~ q(z | x)."""

    estimators = ("trace",)

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder, self.decoder = nn.Linear(6, 2 * 3), nn.Linear(3, 6)
        self.pseudo_inputs = nn.Parameter(torch.randn(5, 6))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", MixtureOfNormals(*loc_scale(self.encoder(self.pseudo_inputs))))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*loc_scale(self.encoder(x))).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "sampled") -> ELBOTerms:
        z = latents["z"]
        each = densities.normal(z[:, None], *loc_scale(self.encoder(self.pseudo_inputs)))
        log_prior = each.logsumexp(-1) - math.log(5)
        kl_z = densities.normal(z, *loc_scale(self.encoder(x))) - log_prior
        reconstruction = -densities.normal(x, self.decoder(z), 1.0)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)


def shares(each: Tensor) -> Tensor:
    """Returns the shares rho_j(z), (batch, j), from log q(z | u_j) (batch, j), which may be near -1000."""
    return each.softmax(-1)


def largest_kl(j: int) -> float:
    """Returns the largest value that the KL term can have if x is one of j pseudo-inputs."""
    return math.log(j)
