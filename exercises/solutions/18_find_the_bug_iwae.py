"""Solution of exercise 18: find the bug in an importance-weighted VAE."""

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
        log_ratio = densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        return log_likelihood - log_ratio
