"""Variational auto-encoder with a mixture-of-Gaussians prior."""

import math
from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import densities, likelihoods
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import MixtureOfNormals
from ppl_models.elbo_terms import KL, ELBOTerms, scale_kl
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP


class GMVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = 1/k sum_i N(z; loc_i, diag scale_i^2)    z (batch, z_dim); loc, scale (k, z_dim), learned
    p(x | z) = Bernoulli(x; logits = decoder(z))        x (batch, *shape), zeros and ones; or, for vectors,
               N(x; decoder(z), diag scale^2)           x (batch, d); scale (d,), learned
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, z_dim)

    -ELBO(x)  = -log p(x | z) + log q(z | x) - log p(z),    z ~ q(z | x)
    objective = -log p(x | z) + beta (log q(z | x) - log p(z))

    The KL divergence from a normal to a mixture has no closed form: the bound estimates it with the sample z.

    Problem 2 of Stanford's CS236, homework 2 (2021), with its sizes and its initialisation: the locs and the
    scales before the softplus are sampled from N(0, 1) / sqrt(k z_dim).
    """

    estimators = ("trace", "iwae", "iwae_dreg")
    has_kl_weight = True
    vector_observation = "points"
    small_image_defaults = {"hidden": 128, "components": 50, "steps": 5_000}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 10,
        hidden: Annotated[int, "width of the two hidden layers of each network"] = 300,
        components: Annotated[int, "equally weighted normals in the prior"] = 500,
        beta: Annotated[float, "weight of the KL term in the objective"] = 1.0,
        likelihood: Annotated[likelihoods.Name, likelihoods.ABOUT] = "auto",
    ):
        super().__init__(shape, classes)
        pixels = math.prod(shape)
        self.z_dim, self.beta = z_dim, beta
        self.encoder = MLP(pixels, [hidden, hidden], 2 * z_dim)
        self.decoder = MLP(z_dim, [hidden, hidden], pixels)
        self.likelihood = likelihoods.build(likelihood, self.shape)
        self.observation = likelihoods.observation(likelihood, self.shape, self.observation)
        self.components = nn.Parameter(torch.randn(components, 2 * z_dim) / math.sqrt(components * z_dim))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with scale_kl(self.beta):
                z = pyro.sample("z", MixtureOfNormals(*loc_scale(self.components)))
            pyro.sample("x", self.likelihood.distribution(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x.flatten(1)))
            with scale_kl(self.beta):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        x, z = x.flatten(1), latents["z"]
        loc, scale = loc_scale(self.encoder(x))
        log_prior = densities.mixture_of_normals(z, *loc_scale(self.components))
        return ELBOTerms(
            reconstruction=-self.likelihood.log_density(x, self.decoder(z)),
            kl_z=densities.normal(z, loc, scale) - log_prior,
            weights={"kl_z": self.beta},
        )
