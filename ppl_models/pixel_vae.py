"""Variational auto-encoder with an autoregressive PixelCNN decoder."""

import math
from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import relu

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import AutoregressiveGrid, BernoulliImage, LogisticMixtureImage
from ppl_models.distributions.logistic_mixture import num_outputs
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.conv import QuarterDecoder, QuarterEncoder
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.pixelcnn import PixelCNN

COMPONENTS = 10  # logistics in the mixture of a pixel


class PixelVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                                       z (batch, z_dim)
    p(x | z) = prod_i p(x_i | the pixels near and before i, decoder(z))             x (batch, *shape)
    q(z | x) = N(z; loc(x), diag scale(x)^2)                    loc, scale (batch, z_dim)

    -ELBO(x)  = -log p(x | z) + KL(q(z | x) || p(z)),           z ~ q(z | x)
    objective = mean_x -ELBO(x) + max(free_bits - mean_x KL, 0)

    In images of one channel a pixel is a Bernoulli variable. In colour images all channels of a pixel follow
    a discretised mixture of logistics over 256 levels, and `bits_per_dim` = -ELBO(x) / (D log 2). The pixels
    near i are the PixelCNN's receptive field: `receptive_field` rows above, as many columns on either side,
    and as many pixels to the left. Only z can carry information about the other pixels. With `free_bits` a
    mean KL term below that number of nats has no gradient: -ELBO + max(free_bits - KL, 0) is
    -log p(x | z) + max(KL, free_bits).

    p(x | z) has no tractable mean: `decode` returns samples.

    The bonus of Berkeley's CS294-158, homework 3 (2019); Chen et al. 2017, Variational Lossy Autoencoder
    (arXiv 1611.02731), section 2; Kingma et al. 2016 (arXiv 1606.04934), appendix C, for free bits.
    """

    estimators = ("mean_field", "trace", "iwae", "iwae_dreg")
    has_mean, size_divisor = False, 4
    defaults = {
        **{"steps": 10_000, "batch_size": 64, "lr": 2e-3, "lr_warmup": 200, "schedule": "cosine"},
        "ema": 0.999,
    }
    small_image_defaults = {"steps": 500, "lr_warmup": 20}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 32,
        width: Annotated[int, "channels of the PixelCNN"] = 32,
        receptive_field: Annotated[int, "rows above and columns on either side that a pixel depends on"] = 4,
        free_bits: Annotated[float, "KL term in nats below which it is not reduced further"] = 0.0,
    ):
        super().__init__(shape, classes)
        channels = shape[0]
        self.z_dim, self.free_bits, self.colour = z_dim, free_bits, self.observation == "centred"
        out = num_outputs(channels, COMPONENTS) if self.colour else channels
        self.encoder = QuarterEncoder(shape, 2 * z_dim)
        self.decoder = QuarterDecoder(z_dim, width, shape)
        self.pixelcnn = PixelCNN(channels, width, out, receptive_field, condition=width)

    @classmethod
    def observation_of(cls, shape: tuple[int, ...]) -> str:
        """Returns "binary" for one channel and "centred" for colour images."""
        return "binary" if shape[0] == 1 else "centred"

    @property
    def has_penalties(self) -> bool:
        """Whether `free_bits` is used."""
        return self.free_bits > 0

    def family(self, raw: Tensor) -> BernoulliImage | LogisticMixtureImage:
        """Returns p(x_i | ...) of every pixel, from the PixelCNN's outputs `(..., out, height, width)`."""
        if self.colour:
            return LogisticMixtureImage(raw, self.shape[0], COMPONENTS)
        return BernoulliImage(raw.flatten(-3), raw.shape[-3:])

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            image = AutoregressiveGrid(self.pixelcnn, self.family, self.shape, self.decoder(z))
            pyro.sample("x", image, obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q = dist.Normal(*loc_scale(self.encoder(x))).to_event(1)
            pyro.sample("z", q)
            if self.free_bits:
                kl = torch.distributions.kl_divergence(q.base_dist, dist.Normal(0.0, 1.0)).sum(-1).mean()
                pyro.factor("free_bits", relu(self.free_bits - kl).expand(len(x)), has_rsample=True)

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        z = latents["z"]
        loc, scale = loc_scale(self.encoder(x))
        raw = self.pixelcnn(x, self.decoder(z))
        if self.colour:
            reconstruction = -densities.logistic_mixture(x, raw, COMPONENTS)
        else:
            reconstruction = -densities.bernoulli(x.flatten(-3), raw.flatten(-3))
        closed = densities.kl_normal_standard(loc, scale)
        kl_z = closed if kl == "closed" else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        penalties = {"free_bits": relu(self.free_bits - closed.mean())} if self.free_bits else {}
        bits = (reconstruction + kl_z) / (math.log(2) * math.prod(self.shape))
        metrics = {"bits_per_dim": bits} if self.colour else {}
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z, penalties=penalties, metrics=metrics)
