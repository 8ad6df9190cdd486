"""Solution of exercise 11: two levels of latents, and the residual normal."""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP


class HVAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z2) + KL(q(z1 | x) || p(z1)) + KL(q(z2 | x, z1) || p(z2 | z1)),    z1, z2 ~ q."""

    estimators = ("mean_field", "trace")

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder1, self.encoder2 = nn.Linear(6, 2 * 2), MLP([6, 2], [], 2 * 3)
        self.prior_net, self.decoder = nn.Linear(2, 3), nn.Linear(3, 6)
        self.prior_log_scale = nn.Parameter(torch.zeros(3))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(self.prior_net(z1), self.prior_log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z2), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        prior_scale = self.prior_log_scale.exp()
        with pyro.plate("data", len(x)):
            loc1, scale1 = loc_scale(self.encoder1(x))
            z1 = pyro.sample("z1", dist.Normal(loc1, scale1).to_event(1))
            loc2, scale2 = loc_scale(self.encoder2(x, z1))
            mean = self.prior_net(z1) + loc2
            scale = prior_scale * scale2
            pyro.sample("z2", dist.Normal(mean, scale).expand(loc2.shape).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "closed") -> ELBOTerms:
        z1, z2 = latents["z1"], latents["z2"]
        loc1, scale1 = loc_scale(self.encoder1(x))
        loc2, scale2 = loc_scale(self.encoder2(x, z1))
        prior_loc, prior_scale = self.prior_net(z1), self.prior_log_scale.exp()
        reconstruction = -densities.normal(x, self.decoder(z2), 1.0)
        if kl == "closed":
            kl_z1 = densities.kl_normal_standard(loc1, scale1)
            kl_z2 = densities.kl_normal_standard(loc2 / prior_scale, scale2)
        else:
            log_q2 = densities.normal(z2, prior_loc + loc2, prior_scale * scale2)
            kl_z1 = densities.normal(z1, loc1, scale1) - densities.normal(z1, 0.0, 1.0)
            kl_z2 = log_q2 - densities.normal(z2, prior_loc, prior_scale)
        return ELBOTerms(reconstruction=reconstruction, kl_z1=kl_z1, kl_z2=kl_z2)
