"""Solution of exercise 19: find the bug in the bound of a network's head."""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_models import ELBOTerms, LatentVariableModel, densities


class VAE(LatentVariableModel):
    """-ELBO(x) = -log p(x | z) + log q(z | x) - log p(z),    z ~ q(z | x)."""

    estimators = ("trace",)

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder, self.decoder = nn.Linear(6, 2 * 3), nn.Linear(3, 6)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x).chunk(2, dim=-1)
            variance = softplus(raw) + 1e-8
            pyro.sample("z", dist.Normal(loc, variance.sqrt()).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "sampled") -> ELBOTerms:
        z = latents["z"]
        loc, raw = self.encoder(x).chunk(2, dim=-1)
        scale = (softplus(raw) + 1e-8).sqrt()
        reconstruction = -densities.bernoulli(x, self.decoder(z))
        kl_z = densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
