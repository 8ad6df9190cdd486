"""Exercise 13: an autoregressive flow as the prior.

Read docs/derivations/13-autoregressive-flow-prior.md. Then replace each TODO and run

    python -m exercises.check 13

The flow sends z to noise e, where s_i and m_i depend only on z_1, ..., z_{i-1}:

    e_i = z_i exp(s_i) + m_i

The model and the guide are

    p(z)     = N(e; 0, I) |det de/dz|                z (batch, 3)
    p(x | z) = N(x; decoder(z), I)                   x (batch, 6)
    q(z | x) = N(z; loc(x), diag scale(x)^2)         loc, scale (batch, 3)

The KL term has no closed form, so it is computed from the sample z, whatever `kl` says. You may use
densities.normal(x, loc, scale), which is log N(x; loc, diag scale^2), summed over the last axis.
"""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import affine_autoregressive
from torch import Tensor, nn

from exercises import TODO
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
        e = TODO  # the noise, (batch, 3)
        log_det = TODO  # log |det de/dz|, (batch,): the Jacobian is triangular
        log_prior = TODO  # log p(z), (batch,)
        reconstruction = TODO  # -log p(x | z), (batch,)
        kl_z = TODO  # log q(z | x) - log p(z), (batch,)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
