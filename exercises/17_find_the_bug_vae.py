"""Exercise 17: find the bug in a VAE.

This bound trains, and its samples look reasonable. But it is wrong in one place. Run

    python -m exercises.check 17

to see which term is wrong, then read docs/derivations/02-kl-between-gaussians.md and correct it. The model
and the guide are right:

    p(z)     = N(z; 0, I)                            z (batch, 3)
    p(x | z) = Bernoulli(x; logits = decoder(z))     x (batch, 6), zeros and ones
    q(z | x) = N(z; loc(x), diag scale(x)^2)         loc, scale (batch, 3)
"""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale


class VAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)."""

    estimators = ("mean_field",)

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
        loc, scale = loc_scale(self.encoder(x))
        reconstruction = -densities.bernoulli(x, self.decoder(latents["z"]))
        kl_z = (scale.log() + (1 + loc**2) / (2 * scale**2) - 0.5).sum(-1)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
