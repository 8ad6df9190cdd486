"""Autoregressive flows over latent maps."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_models.nets.pixelcnn import CausalNetwork

LOG_2PI = math.log(2 * math.pi)


class AutoregressiveMap(TorchDistribution):
    """p(z) = N(f(z); 0, I) |det df/dz|, with events z (channels, height, width).

    f is a chain of flows e = z exp(s(z)) + m(z). The network's outputs at a position, for all channels there,
    are m and, before tanh, s. They depend only on the positions before it. Every other flow runs from the
    last position to the first. `log_prob` computes all positions at once. Sampling inverts f one position at
    a time, because m and s depend on the values of z before.

    Chen et al. 2017, Variational Lossy Autoencoder (arXiv 1611.02731), section 3.2.

    Args:
        networks: one causal network per flow, from `channels` to `2 * channels` channels.
        shape: the event shape, `(channels, height, width)`.
        batch: the batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self,
        networks: Sequence[CausalNetwork],
        shape: Sequence[int],
        batch: Sequence[int] = (),
        validate_args: bool | None = None,
    ):
        self.networks = list(networks)
        super().__init__(torch.Size(batch), torch.Size(shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AutoregressiveMap":
        """Returns the distribution with another batch shape."""
        return AutoregressiveMap(self.networks, self.event_shape, batch_shape, validate_args=False)

    def to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns f(z) for z `(..., *shape)`, and log|det df/dz|, `(...)`."""
        log_det = z.new_zeros(z.shape[:-3])
        for network in self.networks:
            m, raw = network(z).chunk(2, dim=-3)
            s = raw.tanh()
            z = reverse(z * s.exp() + m)
            log_det = log_det + s.sum((-1, -2, -3))
        return z, log_det

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of maps `(..., *shape)`, `(...)`."""
        if self._validate_args:
            self._validate_sample(value)
        e, log_det = self.to_noise(value)
        return log_det - 0.5 * (e**2 + LOG_2PI).sum((-1, -2, -3))

    @torch.no_grad()
    def from_noise(self, e: Tensor) -> Tensor:
        """Returns the z with f(z) = e, for e `(n, *shape)`."""
        for network in reversed(self.networks):
            e, z = reverse(e), torch.zeros_like(e)
            for (row, column), out in network.sequential(z):
                m, raw = out.chunk(2, dim=-1)
                z[..., row, column] = (e[..., row, column] - m) * (-raw.tanh()).exp()
            e = z
        return e

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples maps `(*sample_shape, *batch, *shape)`."""
        shape, like = (*sample_shape, *self.batch_shape), next(self.networks[0].parameters())
        e = torch.randn(math.prod(shape), *self.event_shape, dtype=like.dtype, device=like.device)
        return self.from_noise(e).view(*shape, *self.event_shape)


def reverse(z: Tensor) -> Tensor:
    """Reverses the order of the positions of a map."""
    return z.flip(-1, -2)
