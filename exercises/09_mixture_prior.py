"""Exercise 9: a mixture of Gaussians as the prior.

Read docs/derivations/09-mixture-priors.md. Then replace each TODO and run

    python -m exercises.check 09

The model and the guide are

    p(z)     = 1/k sum_i N(z; prior_loc_i, diag prior_scale_i^2)   z (batch, 3); prior_loc, prior_scale (5, 3)
    p(x | z) = N(x; decoder(z), I)                                 x (batch, 6)
    q(z | x) = N(z; loc(x), diag scale(x)^2)                       loc, scale (batch, 3)

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
        each = TODO  # log N(z; prior_loc_i, ...), (batch, 5)
        log_prior = TODO  # log p(z), (batch,)
        reconstruction = TODO  # -log p(x | z), (batch,)
        kl_z = TODO  # log q(z | x) - log p(z), (batch,)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
