"""Variational auto-encoder with a VampPrior, the mixture of its guide's distributions at pseudo-inputs."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import BernoulliImage, MixtureOfNormals
from ppl_models.elbo_terms import KL, ELBOTerms, scale_kl
from ppl_models.nets.heads import loc_bounded_scale
from ppl_models.nets.mlp import GatedMLP


class VampVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = 1/K sum_k q(z | u_k)                     z (batch, z_dim); pseudo-inputs u (K, pixels), learned
    p(x | z) = Bernoulli(x; logits = decoder(z))        x (batch, *shape), zeros and ones
    q(z | x) = N(z; loc(x), diag scale(x)^2)            loc, scale (batch, z_dim)

    With layers = 2 there are two latents of z_dim dimensions, and the upper one, z2, has the prior above:

    p(x, z1, z2)  = p(z2) p(z1 | z2) p(x | z1, z2);     q(z1, z2 | x) = q(z2 | x) q(z1 | x, z2)
    p(z1 | z2)    = N(z1; loc(z2), diag scale(z2)^2)
    q(z1 | x, z2) = N(z1; loc(x, z2), diag scale(x, z2)^2)

    -ELBO(x) = -log p(x | z) + log q(z | x) - log p(z),    z ~ q(z | x);    with layers = 2 and z1, z2 ~ q,
    -ELBO(x) = -log p(x | z1, z2) + log q(z2 | x) - log p(z2) + KL(q(z1 | x, z2) || p(z1 | z2))

    The objective has beta as the weight of the KL terms.

    The prior has the encoder's parameters, so that its gradient reaches the encoder too, through the
    pseudo-inputs. Their values are limited to the range of x, [0, 1].

    Tomczak and Welling 2018, VAE with a VampPrior (arXiv 1705.07120), in the sizes of the paper. The
    pseudo-inputs start at 0.05 plus noise with a standard deviation of 0.01, as in the authors' code, which
    raises beta from zero in the first 100 epochs (KL warm-up).
    """

    estimators = ("trace", "iwae")
    has_kl_weight = True
    defaults = {"steps": 20_000, "batch_size": 100, "lr": 5e-4, "kl_warmup": 2_000}
    small_image_defaults = {"z_dim": 10, "hidden": 64, "components": 50, "steps": 5_000, "kl_warmup": 500}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        layers: Annotated[int, "layers of latents, 1 or 2"] = 1,
        z_dim: Annotated[int, "dimensions of each latent"] = 40,
        hidden: Annotated[int, "width of the gated layers"] = 300,
        components: Annotated[int, "pseudo-inputs, the components of the prior"] = 500,
        beta: Annotated[float, "weight of the KL terms in the objective"] = 1.0,
    ):
        super().__init__(shape, classes)
        if layers not in (1, 2):
            raise ValueError(f"layers is {layers}. Give 1 or 2.")
        pixels = math.prod(shape)
        self.layers, self.beta = layers, beta
        self.top = "z" if layers == 1 else "z2"  # the latent with the VampPrior
        self.pseudo_inputs = nn.Parameter(0.05 + 0.01 * torch.randn(components, pixels))
        self.encoder = GatedMLP([pixels], hidden, 2 * z_dim)
        self.decoder = GatedMLP([z_dim] * layers, hidden, pixels)
        if layers == 2:
            self.encoder1 = GatedMLP([pixels, z_dim], hidden, 2 * z_dim)
            self.prior_net = GatedMLP([z_dim], hidden, 2 * z_dim)

    def _components(self) -> tuple[Tensor, Tensor]:
        """Returns loc and scale of the prior's components, `(K, z_dim)` each."""
        return loc_bounded_scale(self.encoder(self.pseudo_inputs.clamp(0, 1)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with scale_kl(self.beta):
                latents = [pyro.sample(self.top, MixtureOfNormals(*self._components()))]
                if self.layers == 2:
                    loc, scale = loc_bounded_scale(self.prior_net(*latents))
                    latents.append(pyro.sample("z1", dist.Normal(loc, scale).to_event(1)))
            pyro.sample("x", BernoulliImage(self.decoder(*latents), self.shape), obs=x)

    def guide(self, x: Tensor) -> None:
        x = x.flatten(1)
        with pyro.plate("data", len(x)), scale_kl(self.beta):
            top = pyro.sample(self.top, dist.Normal(*loc_bounded_scale(self.encoder(x))).to_event(1))
            if self.layers == 2:
                loc, scale = loc_bounded_scale(self.encoder1(x, top))
                pyro.sample("z1", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        x, top = x.flatten(1), latents[self.top]
        log_q = densities.normal(top, *loc_bounded_scale(self.encoder(x)))
        terms: dict[str, Any] = {
            f"kl_{self.top}": log_q - densities.mixture_of_normals(top, *self._components())
        }
        if self.layers == 2:
            q1 = loc_bounded_scale(self.encoder1(x, top))
            p1 = loc_bounded_scale(self.prior_net(top))
            terms["kl_z1"] = (
                densities.kl_normals(*q1, *p1)
                if kl == "closed"
                else densities.normal(latents["z1"], *q1) - densities.normal(latents["z1"], *p1)
            )
        logits = self.decoder(top) if self.layers == 1 else self.decoder(top, latents["z1"])
        return ELBOTerms(
            reconstruction=-densities.bernoulli(x, logits),
            **terms,
            weights=dict.fromkeys(terms, self.beta),
        )
