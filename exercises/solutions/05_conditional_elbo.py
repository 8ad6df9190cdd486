"""Solution of exercise 5: the bound of a conditional likelihood."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import one_hot

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
        reconstruction = -densities.normal(x, self.decoder(z, label), SCALE)
        if kl == "closed":
            kl_z = densities.kl_normal_standard(loc, scale)
        else:
            kl_z = densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z)
