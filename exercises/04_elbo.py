"""Exercise 4: the evidence lower bound of a VAE.

Read docs/derivations/04-elbo.md. Then replace each TODO and run

    python -m exercises.check 04

The model and the guide are

    p(z)     = N(z; 0, I)                            z (batch, 3)
    p(x | z) = Bernoulli(x; logits = decoder(z))     x (batch, 6), zeros and ones
    q(z | x) = N(z; loc(x), diag scale(x)^2)         loc, scale (batch, 3)

The bound is

    -ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)

Write its terms in nats, with one value for each data point. Use torch only, not densities or Pyro.
"""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from exercises import TODO
from ppl_models import ELBOTerms, LatentVariableModel
from ppl_models.nets.heads import loc_scale


class VAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)."""

    estimators = ("mean_field", "trace")

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder, self.decoder = nn.Linear(6, 2 * 3), nn.Linear(3, 6)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "closed") -> ELBOTerms:
        z = latents["z"]  # the sample of the guide, (batch, 3)
        loc, scale = loc_scale(self.encoder(x))
        logits = self.decoder(z)
        reconstruction = TODO  # -log p(x | z), (batch,)
        if kl == "closed":
            kl_z = TODO  # KL(q(z | x) || p(z)) in closed form, (batch,)
        else:
            kl_z = TODO  # log q(z | x) - log p(z) at the sample z, (batch,)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
