"""Exercise 8: the semi-supervised bound, with an exact sum over the label.

Read docs/derivations/08-semi-supervised.md. Then replace each TODO and run

    python -m exercises.check 08

The label y is a latent with 4 values. The model and the guide are

    p(y)        = 1/4                                      y one-hot, (4, 1, 4): all labels
    p(z)        = N(z; 0, I)                               z (4, batch, 3): one sample for each label
    p(x | y, z) = Bernoulli(x; logits = decoder(z, y))     x (batch, 6), zeros and ones
    q(y | x)    = Categorical(y; logits = classifier(x))
    q(z | x, y) = N(z; loc(x, y), diag scale(x, y)^2)      loc, scale (4, batch, 3)

The bound is the exact sum over y:

    -ELBO(x) = KL(q(y | x) || p(y)) + sum_y q(y | x) [ KL(q(z | x, y) || p(z)) - log p(x | y, z) ]

z is a sample, and so is the KL term of z here: log q(z | x, y) - log p(z). You may use

    densities.log_softmax(logits)              logits to log probabilities over the last axis
    densities.normal(x, loc, scale)            log N(x; loc, diag scale^2), summed over the last axis
    densities.bernoulli(x, logits)             log p(x) of zeros and ones, summed over the last axis
"""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from exercises import TODO
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
        q = TODO  # q(y | x), (4, batch): the labels are the first axis
        reconstruction = TODO  # sum_y q(y | x) [ -log p(x | y, z) ], (batch,)
        kl_z = TODO  # sum_y q(y | x) [ log q(z | x, y) - log p(z) ], (batch,)
        kl_y = TODO  # KL(q(y | x) || p(y)), (batch,)
        classification = TODO  # mean of -log q(y | x) of the labelled images, ()
        penalties = {"classification": classification}
        return ELBOTerms(reconstruction=reconstruction, kl_z=kl_z, kl_y=kl_y, penalties=penalties)
