"""Hierarchical variational auto-encoder with two levels of latents and a learned prior."""

from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.conv_vae import SCALE
from ppl_models.distributions import NormalImage
from ppl_models.elbo_terms import KL, ELBOTerms, scale_kl
from ppl_models.nets.heads import loc_log_scale
from ppl_models.nets.hierarchy import STRIDE, MapDecoder, MapEncoder, MapPrior

Z_CHANNELS = 12  # of a latent map


class HVAE(LatentVariableModel):
    """p(x, z1, z2) = p(z1) p(z2 | z1) p(x | z2);  q(z1, z2 | x) = q(z1 | x) q(z2 | x, z1).

    p(z1)         = N(z1; 0, I)                             z1 (batch, 12, h, w)
    p(z2 | z1)    = N(z2; prior(z1), I)                     z2 (batch, 12, h, w)
    p(x | z2)     = N(x; decoder(z2), I / 2)                x (batch, *shape), levels from -1 to 1
    q(z1 | x)     = N(z1; loc1(x), diag scale1(x)^2)
    q(z2 | x, z1) = N(z2; prior(z1) + loc2(x, z1), diag scale2(x, z1)^2)

    -ELBO(x)  = -log p(x | z2) + KL(q(z1 | x) || p(z1)) + KL(q(z2 | x, z1) || p(z2 | z1)),    z1, z2 ~ q
    objective = -log p(x | z2) + beta (KL(q(z1 | x) || p(z1)) + KL(q(z2 | x, z1) || p(z2 | z1)))

    h and w are a sixteenth of the image's height and width: the maps of an image of 32 x 32 are 2 x 2.
    Smaller images are zero-padded; height and width of larger ones are multiples of 16.

    The guide of z2 is a residual normal: loc2 is the difference from the prior's mean. So prior(z1) cancels
    in the second KL term, 1/2 sum(loc2^2 + scale2^2 - log scale2^2 - 1) given the sampled z1. The decoder
    depends on z2 only. As in `conv_vae`, the course's -ELBO is the metric `squared_error_and_kl`. By default
    beta grows linearly from zero in the first steps (KL warm-up), a remedy for posterior collapse.

    Question 2b of Berkeley's CS294-158, homework 2 (2024), which leaves the prior's network open. This one is
    a small form of Vahdat and Kautz 2020, NVAE: A Deep Hierarchical Variational Autoencoder
    (arXiv 2007.03898).
    """

    estimators = ("mean_field", "trace", "iwae")
    has_kl_weight = True
    observation, smallest_size, size_divisor = "centred", 32, STRIDE
    defaults = {"steps": 12_000, "batch_size": 128, "lr": 1e-3, "kl_warmup": 1_500}
    small_image_defaults = {"steps": 500, "kl_warmup": 100}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        beta: Annotated[float, "weight of both KL terms in the objective"] = 1.0,
    ):
        super().__init__(shape, classes)
        self.beta = beta
        self.z_shape = (Z_CHANNELS, shape[1] // STRIDE, shape[2] // STRIDE)
        self.encoder1, self.encoder2 = (MapEncoder(shape[0], Z_CHANNELS, 2 * Z_CHANNELS) for _ in range(2))
        self.prior_net = MapPrior(Z_CHANNELS)
        self.decoder = MapDecoder(Z_CHANNELS, shape[0])

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with scale_kl(self.beta):
                z1 = pyro.sample("z1", dist.Normal(x.new_zeros(self.z_shape), 1.0).to_event(3))
                z2 = pyro.sample("z2", dist.Normal(self.prior_net(z1), 1.0).to_event(3))
            pyro.sample("x", NormalImage(self.decoder(z2), SCALE), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), scale_kl(self.beta):
            loc1, scale1 = loc_log_scale(self.encoder1(x), dim=-3)
            z1 = pyro.sample("z1", dist.Normal(loc1, scale1).to_event(3))
            loc2, scale2 = loc_log_scale(self.encoder2(x, z1), dim=-3)
            pyro.sample("z2", dist.Normal(self.prior_net(z1) + loc2, scale2).to_event(3))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        z1, z2 = latents["z1"], latents["z2"]
        loc1, scale1 = loc_log_scale(self.encoder1(x).flatten(-3))
        loc2, scale2 = loc_log_scale(self.encoder2(x, z1).flatten(-3))
        mean = self.decoder(z2)
        if kl == "closed":
            kl_z1 = densities.kl_normal_standard(loc1, scale1)
            kl_z2 = densities.kl_normal_standard(loc2, scale2)
        else:
            z1, z2, prior_loc = (part.flatten(-3) for part in (z1, z2, self.prior_net(z1)))
            kl_z1 = densities.normal(z1, loc1, scale1) - densities.normal(z1, 0.0, 1.0)
            kl_z2 = densities.normal(z2, prior_loc + loc2, scale2) - densities.normal(z2, prior_loc, 1.0)
        error = ((x - mean) ** 2).sum((-1, -2, -3))
        return ELBOTerms(
            reconstruction=-densities.normal(x.flatten(-3), mean.flatten(-3), SCALE),
            kl_z1=kl_z1,
            kl_z2=kl_z2,
            weights={"kl_z1": self.beta, "kl_z2": self.beta},
            metrics={"squared_error": error, "squared_error_and_kl": error + kl_z1 + kl_z2},
        )

    def interpolate(self, codes: Mapping[str, Tensor], fractions: Tensor) -> dict[str, Tensor]:
        """Interpolates z1 and the residual z2 - prior(z1) linearly, see `LatentVariableModel.interpolate`."""
        residual = codes["z2"] - self.prior_net(codes["z1"])
        lines = super().interpolate({"z1": codes["z1"], "residual": residual}, fractions)
        return {"z1": lines["z1"], "z2": self.prior_net(lines["z1"]) + lines["residual"]}
