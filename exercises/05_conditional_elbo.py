"""Exercise 5: the bound of a conditional likelihood.

Read docs/derivations/05-conditional-elbo.md. Then replace each TODO and run

    python -m exercises.check 05

The label y is given for every image. The model and the guide are

    p(z)        = N(z; 0, I)                               z (batch, 3)
    p(x | z, y) = N(x; decoder(z, y), I / 10)              x (batch, 6); y one-hot, (batch, 4)
    q(z | x, y) = N(z; loc(x, y), diag scale(x, y)^2)      loc, scale (batch, 3)

1/10 is the variance of x. Bound log p(x | y), not log p(x, y). You may use

    densities.normal(x, loc, scale)               log N(x; loc, diag scale^2), summed over the last axis
    densities.kl_normal_standard(loc, scale)      KL(N(loc, diag scale^2) || N(0, I))
"""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import one_hot

from exercises import TODO
from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP

SCALE = math.sqrt(0.1)  # of x


class ConditionalVAE(LatentVariableModel):
    """-ELBO(x | y) = -log p(x | z, y) + KL(q(z | x, y) || p(z)),    z ~ q(z | x, y)."""

    inputs = ("x", "y")
    estimators = ("mean_field", "trace")

    def __init__(self) -> None:
        super().__init__((6,), 4)
        self.encoder, self.decoder = MLP([6, 4], [], 2 * 3), MLP([3, 4], [], 6)

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            mean = self.decoder(z, one_hot(y, 4).to(x))
            pyro.sample("x", dist.Normal(mean, SCALE).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x, one_hot(y, 4).to(x)))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], y: Tensor, *, kl: str = "closed") -> ELBOTerms:
        z, label = latents["z"], one_hot(y, 4).to(x)
        loc, scale = loc_scale(self.encoder(x, label))
        reconstruction = TODO  # -log p(x | z, y), (batch,)
        if kl == "closed":
            kl_z = TODO  # the closed form, (batch,)
        else:
            kl_z = TODO  # from the sample z, (batch,)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
