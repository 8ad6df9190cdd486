"""Exercise 32: two stochastic layers.

Read docs/derivations/26-two-stochastic-layers.md. Then replace each TODO and run

    python -m exercises.check 32

The model samples from the top down, the guide from the bottom up:

    p(z2)      = N(z2; 0, I)                            z2 (batch, 2)
    p(z1 | z2) = N(z1; loc(z2), diag scale(z2)^2)       z1 (batch, 3)
    p(x | z1)  = N(x; decoder(z1), I)                   x (batch, 6)
    q(z1 | x)  = N(z1; loc1, diag scale1^2)             loc1, scale1 (batch, 3)
    q(z2 | z1) = N(z2; loc2, diag scale2^2)             loc2, scale2 (batch, 2)

Write the terms in nats, with one value for each data point. If kl is "closed", use the closed form of each KL
term that has one. You may use

    densities.normal(x, loc, scale)                 log N(x; loc, diag scale^2), summed over the last axis
    densities.kl_normal_standard(loc, scale)        KL(N(loc, diag scale^2) || N(0, I))
    densities.kl_normals(loc, scale, loc', scale')  KL(N(loc, diag scale^2) || N(loc', diag scale'^2))
"""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from exercises import TODO
from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale


class TwoLayerVAE(LatentVariableModel):
    """-ELBO(x) = E_q [-log p(x | z1) + log q(z1 | x) q(z2 | z1) - log p(z2) p(z1 | z2)]."""

    estimators = ("trace",)

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder1, self.encoder2 = nn.Linear(6, 2 * 3), nn.Linear(3, 2 * 2)
        self.prior_net, self.decoder = nn.Linear(2, 2 * 3), nn.Linear(3, 6)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(*loc_scale(self.prior_net(z2))).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z1), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(*loc_scale(self.encoder1(x))).to_event(1))
            pyro.sample("z2", dist.Normal(*loc_scale(self.encoder2(z1))).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "closed") -> ELBOTerms:
        z1, z2 = latents["z1"], latents["z2"]  # the sample of the guide
        loc1, scale1 = loc_scale(self.encoder1(x))
        loc2, scale2 = loc_scale(self.encoder2(z1))
        prior_loc, prior_scale = loc_scale(self.prior_net(z2))
        reconstruction = TODO  # -log p(x | z1), (batch,)
        kl_z1 = TODO  # the KL term of z1, (batch,)
        if kl == "closed":
            kl_z2 = TODO  # the KL term of z2 in closed form, (batch,)
        else:
            kl_z2 = TODO  # the KL term of z2 at the sample, (batch,)
        return ELBOTerms(reconstruction=reconstruction, kl_z1=kl_z1, kl_z2=kl_z2)
