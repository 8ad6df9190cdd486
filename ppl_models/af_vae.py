"""Gated residual variational auto-encoder with an autoregressive flow as its prior."""

from collections.abc import Mapping
from typing import Annotated, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import densities
from ppl_models.distributions import AutoregressiveMap
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.gated_vae import GatedVAE, with_bits_per_dim
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.pixelcnn import PixelCNN

RECEPTIVE_FIELD, WIDTH = 4, 64  # of the flows' PixelCNNs: four masked layers of 3 x 3 convolutions


class AFVAE(GatedVAE):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(f(z); 0, I) |det df/dz|                z (batch, z_channels, h, w), f a chain of flows
    p(x | z) = N(x; loc(z), diag scale(z)^2)            x (batch, *shape), a loc and a scale per value
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, z_channels, h, w)

    -ELBO(x) = -log p(x | z) - log N(e; 0, I) - log|det de/dz| + log q(z | x),    z ~ q(z | x), e = f(z)
    bits_per_dim = -ELBO(x) / (D log 2) + log2(128)     D values per image

    Only the prior differs from `gated_vae`. A flow is e = z exp(s(z)) + m(z), where m and s at a position
    depend only on the positions before it, row by row. Every other flow runs in the reverse order. So the
    log determinant is the sum of s. An autoregressive flow as the prior of z is equivalent to an inverse
    autoregressive flow as the posterior of e.

    Part 2b of Berkeley's CS294-158, homework 3 (2019); Chen et al. 2017, Variational Lossy Autoencoder
    (arXiv 1611.02731), equations 12 to 14.
    """

    estimators = ("trace", "iwae", "iwae_dreg")

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_channels: Annotated[int, "channels of the latent map"] = 16,
        flows: Annotated[int, "number of flows in the prior; every other one runs in the reverse order"] = 2,
    ):
        super().__init__(shape, classes, z_channels=z_channels)
        networks = [PixelCNN(z_channels, WIDTH, 2 * z_channels, RECEPTIVE_FIELD) for _ in range(flows)]
        with torch.no_grad():  # the prior is initialised near the standard normal
            for network in networks:
                for p in network.head[-1].parameters():
                    p.mul_(0.01)
        self.flows = nn.ModuleList(networks)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", AutoregressiveMap(cast(list[PixelCNN], self.flows), self.z_shape))
            pyro.sample("x", dist.Normal(*self._decode(z)).to_event(3), obs=x)

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        e = z = latents["z"]
        loc, scale = loc_scale(self.encoder(x).flatten(-3))
        log_det = 0.0
        for flow in self.flows:
            m, s = flow(e).chunk(2, dim=-3)
            e = (m + s.tanh().exp() * e).flip(-2, -1)
            log_det = log_det + s.tanh().flatten(-3).sum(-1)
        log_prior = densities.normal(e.flatten(-3), 0.0, 1.0) + log_det
        mean, noise = (part.flatten(-3) for part in self._decode(z))
        x, z = x.flatten(-3), z.flatten(-3)
        reconstruction = -densities.normal(x, mean, noise)
        return with_bits_per_dim(reconstruction, densities.normal(z, loc, scale) - log_prior, x.shape[-1])
