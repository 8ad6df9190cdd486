"""Exercise 6: the importance-weighted bound.

Read docs/derivations/06-importance-weighted-bound.md. Then replace each TODO and run

    python -m exercises.check 06

The model is that of exercise 4 with a normal decoder, and the guide gives K samples for each data point:

    p(z)     = N(z; 0, I)                           z (K, batch, 3)
    p(x | z) = N(x; decoder(z), I)                  x (batch, 6)
    q(z | x) = N(z; loc(x), diag scale(x)^2)        loc, scale (batch, 3)

Each sample has the weight w_k = p(x, z_k) / q(z_k | x). You may use densities.normal(x, loc, scale), which is
log N(x; loc, diag scale^2), summed over the last axis.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from exercises import TODO
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
        return TODO  # log p(x, z) - log q(z | x)


def importance_weighted_bound(log_w: Tensor) -> Tensor:
    """Returns the estimate of L_K in nats, (batch,), from log w (K, batch). A weight itself may overflow."""
    return TODO  # the logarithm of the mean weight
