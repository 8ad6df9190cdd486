"""Maps of latents whose density comes from masked convolutions: a flow that goes place by place."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.nets.pixelcnn import Causal

LOG_2PI = math.log(2 * math.pi)


class AutoregressiveMap(TorchDistribution):
    """p(z) = N(f(z); 0, I) |det df/dz| over maps z (channels, height, width), one event.

    f is a chain of flows, e = z exp(s(z)) + m(z), where m and s at a place are a network's outputs there,
    all its channels at once, and s is tanh of the output: they see the places before it alone. Every other
    flow goes from the last place to the first. So all of log p(z) is worked out at once, and z is drawn
    place by place: what of e and of z came before says how the next e becomes a z.

    Chen et al. 2017, Variational Lossy Autoencoder (arXiv 1611.02731), section 3.2.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self,
        networks: Sequence[Causal],
        shape: Sequence[int],
        batch: Sequence[int] = (),
        validate_args: bool | None = None,
    ):
        self.networks = list(networks)
        super().__init__(torch.Size(batch), torch.Size(shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AutoregressiveMap":
        """The same over more maps."""
        return AutoregressiveMap(self.networks, self.event_shape, batch_shape, validate_args=False)

    def noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """f(z) for z (..., *shape), and log|det df/dz|, (...)."""
        log_det = z.new_zeros(z.shape[:-3])
        for network in self.networks:
            m, raw = network(z).chunk(2, dim=-3)
            s = raw.tanh()
            z = backwards(z * s.exp() + m)
            log_det = log_det + s.sum((-1, -2, -3))
        return z, log_det

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) for maps (..., *shape): (...)."""
        if self._validate_args:
            self._validate_sample(value)
        e, log_det = self.noise(value)
        return log_det - 0.5 * (e**2 + LOG_2PI).sum((-1, -2, -3))

    @torch.no_grad()
    def from_noise(self, e: Tensor) -> Tensor:
        """The z with f(z) = e, for e (n, *shape)."""
        for network in reversed(self.networks):
            e, z = backwards(e), torch.zeros_like(e)
            for (row, column), out in network.along(z):
                m, raw = out.chunk(2, dim=-1)
                z[..., row, column] = (e[..., row, column] - m) * (-raw.tanh()).exp()
            e = z
        return e

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Maps (*sample_shape, *batch, *shape)."""
        shape, like = (*sample_shape, *self.batch_shape), next(self.networks[0].parameters())
        e = torch.randn(math.prod(shape), *self.event_shape, dtype=like.dtype, device=like.device)
        return self.from_noise(e).view(*shape, *self.event_shape)


def backwards(z: Tensor) -> Tensor:
    """A map with its last place first."""
    return z.flip(-1, -2)
