"""Variational auto-encoder with two stochastic layers."""

import math
from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import densities, likelihoods
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets import activations
from ppl_models.nets.heads import loc_log_scale
from ppl_models.nets.mlp import MLP, glorot_


class TwoLayerVAE(LatentVariableModel):
    """p(x, z2, z1) = p(z2) p(z1 | z2) p(x | z1);  q(z1, z2 | x) = q(z1 | x) q(z2 | z1).

    p(z2)      = N(z2; 0, I)                            z2 (batch, z2_dim)
    p(z1 | z2) = N(z1; loc(z2), diag scale(z2)^2)       z1, loc, scale (batch, z1_dim)
    p(x | z1)  = Bernoulli(x; logits = decoder(z1))     x (batch, *shape), zeros and ones; or, for vectors,
                 N(x; decoder(z1), diag scale^2)        x (batch, d); scale (d,), learned
    q(z1 | x)  = N(z1; loc(x), diag scale(x)^2)         loc, scale (batch, z1_dim)
    q(z2 | z1) = N(z2; loc(z1), diag scale(z1)^2)       loc, scale (batch, z2_dim)

    -ELBO(x) = -log p(x | z1) + log q(z1 | x) - log p(z1 | z2) + KL(q(z2 | z1) || p(z2)),    z1, z2 ~ q

    The guide samples from the bottom up, the model from the top down. So only the KL term of z2 has a closed
    form. z2 depends on z1: the KL divergence from q(z1 | x) to p(z1 | z2) at a sampled z2 is not the
    expectation of log q(z1 | x) - log p(z1 | z2), and the estimator mean_field does not apply.

    Burda, Grosse and Salakhutdinov 2016, Importance Weighted Autoencoders (arXiv 1509.00519), the model with
    two stochastic layers, in its sizes and with its initialisation. `iwae` and `iwae_dreg` train it with the
    paper's bound.
    """

    estimators = ("trace", "iwae", "iwae_dreg")
    vector_observation = "points"
    defaults = {"steps": 20_000, "batch_size": 100, "lr": 1e-3}
    small_image_defaults = {"z1_dim": 20, "z2_dim": 10, "hidden1": 64, "hidden2": 32, "steps": 5_000}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z1_dim: Annotated[int, "dimensions of the lower latent z1"] = 100,
        z2_dim: Annotated[int, "dimensions of the upper latent z2"] = 50,
        hidden1: Annotated[int, "width of the two hidden layers between x and z1"] = 200,
        hidden2: Annotated[int, "width of the two hidden layers between z1 and z2"] = 100,
        activation: Annotated[activations.Name, activations.ABOUT] = "tanh",
        likelihood: Annotated[likelihoods.Name, likelihoods.ABOUT] = "auto",
    ):
        super().__init__(shape, classes)
        pixels, nonlinearity = math.prod(shape), activations.ACTIVATIONS[activation]
        self.z2_dim = z2_dim
        self.encoder1 = MLP(pixels, [hidden1, hidden1], 2 * z1_dim, nonlinearity)
        self.encoder2 = MLP(z1_dim, [hidden2, hidden2], 2 * z2_dim, nonlinearity)
        self.prior_net = MLP(z2_dim, [hidden2, hidden2], 2 * z1_dim, nonlinearity)
        self.decoder = MLP(z1_dim, [hidden1, hidden1], pixels, nonlinearity)
        glorot_(self)
        self.likelihood = likelihoods.build(likelihood, self.shape)
        self.observation = likelihoods.observation(likelihood, self.shape, self.observation)

    def initialize(self, x: Tensor) -> None:
        """Sets the decoder's last bias, if it is zero, so that p(x | z1) starts at the mean of the data.

        As in the paper. Without it, training stays for long where z1 and z2 are collapsed.
        """
        if not self.decoder.output_bias.any():
            self.decoder.output_bias.copy_(self.likelihood.initial_bias(x.flatten(1).mean(0)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(self.z2_dim), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(*loc_log_scale(self.prior_net(z2))).to_event(1))
            pyro.sample("x", self.likelihood.distribution(self.decoder(z1)), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(*loc_log_scale(self.encoder1(x.flatten(1)))).to_event(1))
            pyro.sample("z2", dist.Normal(*loc_log_scale(self.encoder2(z1))).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        x, z1, z2 = x.flatten(1), latents["z1"], latents["z2"]
        log_q1 = densities.normal(z1, *loc_log_scale(self.encoder1(x)))
        log_p1 = densities.normal(z1, *loc_log_scale(self.prior_net(z2)))
        loc2, scale2 = loc_log_scale(self.encoder2(z1))
        return ELBOTerms(
            reconstruction=-self.likelihood.log_density(x, self.decoder(z1)),
            kl_z1=log_q1 - log_p1,
            kl_z2=densities.kl_normal_standard(loc2, scale2)
            if kl == "closed"
            else densities.normal(z2, loc2, scale2) - densities.normal(z2, 0.0, 1.0),
        )
