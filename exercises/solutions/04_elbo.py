"""Solution of exercise 4: the evidence lower bound of a VAE."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

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
        log_likelihood = (x * logits - torch.log1p(logits.exp())).sum(-1)
        log_q = (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
        log_p = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
        reconstruction = -log_likelihood
        if kl == "closed":
            kl_z = 0.5 * (loc**2 + scale**2 - 2 * scale.log() - 1).sum(-1)
        else:
            kl_z = log_q - log_p
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
