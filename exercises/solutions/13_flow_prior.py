"""Solution of exercise 13: an autoregressive flow as the prior."""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from pyro.distributions.transforms import affine_autoregressive
from torch import Tensor, nn

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale


class FlowPriorVAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z) + log q(z | x) - log p(z),    z ~ q(z | x)."""

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder, self.decoder = nn.Linear(6, 2 * 3), nn.Linear(3, 6)
        self.flow = affine_autoregressive(3, hidden_dims=[8])

    def model(self, x: Tensor) -> None:
        noise = dist.Normal(x.new_zeros(3), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.TransformedDistribution(noise, [self.flow.inv]))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "sampled") -> ELBOTerms:
        z = latents["z"]
        loc, scale = loc_scale(self.encoder(x))
        m, s = self.flow.arn(z)  # (batch, 3) each
        e = z * s.exp() + m
        log_det = s.sum(-1)
        log_prior = densities.normal(e, 0.0, 1.0) + log_det
        reconstruction = -densities.normal(x, self.decoder(z), 1.0)
        kl_z = densities.normal(z, loc, scale) - log_prior
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
