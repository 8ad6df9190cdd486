"""Solution of exercise 8: the semi-supervised bound, with an exact sum over the label."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_models import ELBOTerms, LatentVariableModel, densities
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP


class SSVAE(LatentVariableModel):
    """-ELBO(x) = KL(q(y | x) || p(y)) + sum_y q(y | x) [ KL(q(z | x, y) || p(z)) - log p(x | y, z) ]."""

    inputs = ("x", "x_labelled", "y_labelled")
    estimators = ("enum",)

    def __init__(self) -> None:
        super().__init__((6,), 4)
        self.classifier = nn.Linear(6, 4)
        self.encoder, self.decoder = MLP([6, 4], [], 2 * 3), MLP([3, 4], [], 6)

    def model(self, x: Tensor, x_labelled: Tensor, y_labelled: Tensor) -> None:
        with pyro.plate("labelled", len(x_labelled)), pyro.poutine.scale(scale=len(x) / len(x_labelled)):
            q_y = dist.Categorical(logits=self.classifier(x_labelled))
            pyro.sample("classification", q_y, obs=y_labelled)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(4)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z, y)).to_event(1), obs=x)

    def guide(self, x: Tensor, x_labelled: Tensor, y_labelled: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q_y = dist.OneHotCategorical(logits=self.classifier(x))
            y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            loc, scale = loc_scale(self.encoder(x, y))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(
        self,
        x: Tensor,
        latents: Mapping[str, Tensor],
        x_labelled: Tensor,
        y_labelled: Tensor,
        *,
        kl: str = "sampled",
    ) -> ELBOTerms:
        y, z = latents["y"], latents["z"]
        loc, scale = loc_scale(self.encoder(x, y))
        log_q = densities.log_softmax(self.classifier(x))  # log q(y | x), (batch, 4)
        q = log_q.exp().T
        log_likelihood = densities.bernoulli(x, self.decoder(z, y))
        log_ratio = densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        reconstruction = -(q * log_likelihood).sum(0)
        kl_z = (q * log_ratio).sum(0)
        kl_y = math.log(4) + (log_q.exp() * log_q).sum(-1)
        log_q_labelled = densities.log_softmax(self.classifier(x_labelled))
        classification = -log_q_labelled.gather(-1, y_labelled[:, None]).mean()
        penalties = {"classification": classification}
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z, kl_y=kl_y, penalties=penalties)
