"""Solution of exercise 34: an auxiliary latent."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP


class ADGM(LatentVariableModel):
    """-ELBO(x) = E_q [log q(a | x) q(y | x, a) q(z | x, a, y) - log p(y) p(z) p(x | y, z) p(a | y, z, x)]."""

    estimators = ("enum",)

    def __init__(self) -> None:
        super().__init__((6,), 4)
        self.auxiliary_encoder, self.classifier = MLP(6, [], 2 * 2), MLP([6, 2], [], 4)
        self.encoder, self.decoder = MLP([6, 2, 4], [], 2 * 3), MLP([3, 4], [], 6)
        self.auxiliary_decoder = MLP([3, 4, 6], [], 2 * 2)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(4)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            x = pyro.sample("x", dist.Bernoulli(logits=self.decoder(z, y)).to_event(1), obs=x)
            pyro.sample("a", dist.Normal(*loc_scale(self.auxiliary_decoder(z, y, x))).to_event(1))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(*loc_scale(self.auxiliary_encoder(x))).to_event(1))
            q_y = dist.OneHotCategorical(logits=self.classifier(x, a))
            y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(*loc_scale(self.encoder(x, a, y))).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: str = "sampled") -> ELBOTerms:
        y, a, z = latents["y"], latents["a"], latents["z"]
        loc_z, scale_z = loc_scale(self.encoder(x, a, y))  # of q(z | x, a, y), (4, batch, 3)
        loc_a, scale_a = loc_scale(self.auxiliary_encoder(x))  # of q(a | x), (batch, 2)
        prior_loc, prior_scale = loc_scale(self.auxiliary_decoder(z, y, x))  # of p(a | y, z, x)
        log_q = densities.log_softmax(self.classifier(x, a))  # log q(y | x, a), (batch, 4)
        q = log_q.exp().T
        log_likelihood = densities.bernoulli(x, self.decoder(z, y))
        ratio_a = densities.normal(a, loc_a, scale_a) - densities.normal(a, prior_loc, prior_scale)
        ratio_z = densities.normal(z, loc_z, scale_z) - densities.normal(z, 0.0, 1.0)
        reconstruction = -(q * log_likelihood).sum(0)
        kl_a = (q * ratio_a).sum(0)
        kl_z = (q * ratio_z).sum(0)
        kl_y = math.log(4) + (log_q.exp() * log_q).sum(-1)
        return ELBOTerms(reconstruction=reconstruction, kl_a=kl_a, kl_z=kl_z, kl_y=kl_y)


def classification(log_q: Tensor, y: Tensor) -> Tensor:
    """Returns the penalty of labelled images, a scalar: the mean of E_q(a | x) [-log q(y | x, a)].

    Args:
        log_q: log q(y | x, a_k) of all labels at samples a_k of q(a | x), (samples, images, 4).
        y: the images' labels, (images,).
    """
    return -log_q[:, torch.arange(len(y)), y].mean()


def log_classifier(log_q: Tensor) -> Tensor:
    """Returns log q(y | x), (images, 4), estimated from log q(y | x, a_k), (samples, images, 4)."""
    return log_q.logsumexp(0) - math.log(len(log_q))
