"""Solution of exercise 32: two stochastic layers."""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

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
        reconstruction = -densities.normal(x, self.decoder(z1), 1.0)
        kl_z1 = densities.normal(z1, loc1, scale1) - densities.normal(z1, prior_loc, prior_scale)
        if kl == "closed":
            kl_z2 = densities.kl_normal_standard(loc2, scale2)
        else:
            kl_z2 = densities.normal(z2, loc2, scale2) - densities.normal(z2, 0.0, 1.0)
        return ELBOTerms(reconstruction=reconstruction, kl_z1=kl_z1, kl_z2=kl_z2)
