"""Exercise 18: find the bug in an importance-weighted VAE.

This class gives the log weights of K samples, for the bound log 1/K sum_k w_k. Its values have little noise,
and its bound looks very good. But it is wrong in one place. Run

    python -m exercises.check 18

then read docs/derivations/06-importance-weighted-bound.md and correct it. The model and the guide are right:

    p(z)     = N(z; 0, I)                           z (K, batch, 3)
    p(x | z) = N(x; decoder(z), I)                  x (batch, 6)
    q(z | x) = N(z; loc(x), diag scale(x)^2)        loc, scale (batch, 3)
"""

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_models import LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale


class VAE(LatentVariableModel):
    """L_K = E log 1/K sum_k p(x, z_k) / q(z_k | x),    z_k ~ q(z | x)."""

    def __init__(self) -> None:
        super().__init__((6,))
        self.encoder, self.decoder = nn.Linear(6, 2 * 3), nn.Linear(3, 6)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def log_weights(self, x: Tensor, z: Tensor) -> Tensor:
        """Returns log w, (K, batch), of the samples z (K, batch, 3)."""
        loc, scale = loc_scale(self.encoder(x))
        log_likelihood = densities.normal(x, self.decoder(z), 1.0)
        return log_likelihood - densities.kl_normal_standard(loc, scale)
