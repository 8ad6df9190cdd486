"""Variational auto-encoder of two-dimensional points."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import pyro
import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import relu

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms, scale_kl
from ppl_models.nets.heads import loc_log_scale
from ppl_models.nets.mlp import MLP


class VAE2D(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                               z (batch, 2)
    p(x | z) = N(x; loc(z), diag scale(z)^2)            x (batch, 2); scale (batch, 2), or (batch, 1)
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, 2)

    -ELBO(x)  = -log p(x | z) + KL(q(z | x) || p(z)),   z ~ q(z | x)
    objective = -log p(x | z) + beta KL(q(z | x) || p(z))

    Two-dimensional data show which information a VAE encodes in z. A decoder with a scale per axis can model
    independent normal coordinates without z. A structure that the decoder cannot represent, such as a
    correlation or a second scale, must be encoded in z.

    Question 1 of Berkeley's CS294-158, homework 2 (2024), and part 1 of its homework 3 (2019); networks of
    the solution of 2020.
    """

    estimators = ("mean_field", "trace", "iwae", "iwae_dreg")
    has_kl_weight = True
    observation, example_shape = "points", (2,)
    default_dataset = "gauss-full-1"
    defaults = {"steps": 8_000, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 2,
        hidden: Annotated[int, "width of each hidden layer"] = 128,
        layers: Annotated[int, "hidden layers of each network"] = 2,
        decoder: Annotated[
            Literal["diag", "scalar"], "scales of p(x | z), one per axis (diag) or one for both (scalar)"
        ] = "diag",
        beta: Annotated[float, "weight of the KL term in the objective"] = 1.0,
    ):
        super().__init__(shape, classes)
        (d,) = shape
        self.z_dim, self.beta = z_dim, beta
        scales = d if decoder == "diag" else 1
        self.encoder = MLP(d, [hidden] * layers, 2 * z_dim, activation=relu)
        self.decoder = MLP(z_dim, [hidden] * layers, d + scales, activation=relu)

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the decoder's loc `(..., d)` and scale `(..., d)`, or `(..., 1)` if it is scalar."""
        h = self.decoder(z)
        (d,) = self.shape
        return h[..., :d], h[..., d:].exp()

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with scale_kl(self.beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(*self._decode(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_log_scale(self.encoder(x))
            with scale_kl(self.beta):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        z = latents["z"]
        loc, scale = loc_log_scale(self.encoder(x))
        mean, noise = self._decode(z)
        reconstruction = -densities.normal(x, mean, noise.expand_as(mean))
        kl_z = (
            densities.kl_normal_standard(loc, scale)
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        )
        bits = (reconstruction + kl_z) / (math.log(2) * x.shape[-1])
        return ELBOTerms(
            reconstruction=reconstruction,
            kl_z=kl_z,
            weights={"kl_z": self.beta},
            metrics={"bits_per_dim": bits},
        )
