"""Variational auto-encoder."""

import math
from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import densities, likelihoods
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms, scale_kl
from ppl_models.nets import activations
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP


class VAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                               z (batch, z_dim)
    p(x | z) = Bernoulli(x; logits = decoder(z))        x (batch, *shape), zeros and ones; or, for vectors,
               N(x; decoder(z), diag scale^2)           x (batch, d); scale (d,), learned
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, z_dim)

    -ELBO(x)  = -log p(x | z) + KL(q(z | x) || p(z)),   z ~ q(z | x)
    objective = -log p(x | z) + beta KL(q(z | x) || p(z))

    Kingma and Welling 2014, Auto-Encoding Variational Bayes (arXiv 1312.6114); sizes of Stanford's CS236.
    beta: Higgins et al. 2017, beta-VAE. Only with beta = 1 is the objective the bound.
    """

    estimators = ("mean_field", "trace", "iwae", "iwae_dreg")
    has_kl_weight = True
    vector_observation = "points"
    small_image_defaults = {"z_dim": 10, "hidden": 128, "steps": 5_000}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 10,
        hidden: Annotated[int, "width of the two hidden layers of each network"] = 300,
        activation: Annotated[activations.Name, activations.ABOUT] = "elu",
        beta: Annotated[float, "weight of the KL term in the objective"] = 1.0,
        likelihood: Annotated[likelihoods.Name, likelihoods.ABOUT] = "auto",
    ):
        super().__init__(shape, classes)
        pixels, nonlinearity = math.prod(shape), activations.ACTIVATIONS[activation]
        self.z_dim, self.beta = z_dim, beta
        self.encoder = MLP(pixels, [hidden, hidden], 2 * z_dim, nonlinearity)
        self.decoder = MLP(z_dim, [hidden, hidden], pixels, nonlinearity)
        self.likelihood = likelihoods.build(likelihood, self.shape)
        self.observation = likelihoods.observation(likelihood, self.shape, self.observation)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with scale_kl(self.beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("x", self.likelihood.distribution(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x.flatten(1)))
            with scale_kl(self.beta):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        x, z = x.flatten(1), latents["z"]
        loc, scale = loc_scale(self.encoder(x))
        return ELBOTerms(
            reconstruction=-self.likelihood.log_density(x, self.decoder(z)),
            kl_z=densities.kl_normal_standard(loc, scale)
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0),
            weights={"kl_z": self.beta},
        )
