"""Exercise 33: the VampPrior.

Read docs/derivations/27-vampprior.md. Then replace each TODO and run

    python -m exercises.check 33

The prior is a mixture of the guide at five learned pseudo-inputs u_j:

    p(z)     = 1/5 sum_j q(z | u_j)                 z (batch, 3); u (5, 6)
    p(x | z) = N(x; decoder(z), I)                  x (batch, 6)
    q(z | x) = N(z; loc(x), diag scale(x)^2)        loc, scale (batch, 3)

The KL term has no closed form, so it is computed from the sample z, whatever `kl` says. You may use
densities.normal(x, loc, scale), which is log N(x; loc, diag scale^2), summed over the last axis.
"""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from exercises import TODO
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
        each = TODO  # log q(z | u_j), (batch, 5)
        log_prior = TODO  # log p(z), (batch,)
        kl_z = TODO  # log q(z | x) - log p(z), (batch,)
        reconstruction = TODO  # -log p(x | z), (batch,)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)


def shares(each: Tensor) -> Tensor:
    """Returns the shares rho_j(z), (batch, j), from log q(z | u_j) (batch, j), which may be near -1000."""
    return TODO  # the derivative of log p(z) with respect to log q(z | u_j)


def largest_kl(j: int) -> float:
    """Returns the largest value that the KL term can have if x is one of j pseudo-inputs."""
    return TODO  # how small can p(z) / q(z | x) be?
