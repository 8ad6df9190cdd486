"""Masked auto-encoder (MADE): an autoregressive density of binary images."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import pyro
import torch
from torch import Tensor

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import AutoregressiveImage
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.masked import MaskedMLP


class MADE(LatentVariableModel):
    """p(x).

    p(x) = prod_i p(x_i | the pixels before i)
    p(x_i | ...) = Bernoulli(x_i; logits = network(x)_i)     x (batch, *shape), zeros and ones

    One network computes all logits in one pass. Masks on its weights make the logit of a pixel depend only on
    the pixels before it, in row-major or in random order. With several sets of masks, training uses one set
    per step in turn, and in evaluation p(x) is the mean of their densities. The model has no latents and the
    guide is empty: the bound equals the log-likelihood.

    Germain, Gregor, Murray and Larochelle 2015, MADE: Masked Autoencoder for Distribution Estimation
    (arXiv 1502.03509); CSDS 600.
    """

    estimators = ("trace",)
    has_latents = has_mean = False
    defaults = {"steps": 40_000, "batch_size": 97, "lr": 1e-3, "schedule": "cosine"}
    small_image_defaults = {"hidden": 200, "steps": 3_000}
    turn: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        hidden: Annotated[int, "width of each hidden layer"] = 500,
        layers: Annotated[int, "hidden layers"] = 1,
        order: Annotated[Literal["natural", "random"], "order of the pixels"] = "natural",
        masks: Annotated[int, "number of sets of masks, whose densities are averaged"] = 1,
    ):
        super().__init__(shape, classes)
        self.network = MaskedMLP(math.prod(shape), [hidden] * layers, order == "random", masks)
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))

    def active_masks(self) -> list[int]:
        """Returns the indices of the sets of masks in use: the current one in training, else all."""
        several = self.network.masks > 1
        return [int(self.turn)] if self.training and several else list(range(self.network.masks))

    def model(self, x: Tensor) -> None:
        if self.training:
            self.turn.add_(1).remainder_(self.network.masks)
        networks = [partial(self.network, index=index) for index in self.active_masks()]
        orders = torch.stack([self.network.degrees(index)[0] - 1 for index in self.active_masks()])
        with pyro.plate("data", len(x)):
            pyro.sample("x", AutoregressiveImage(networks, orders, self.shape, x.dtype), obs=x)

    def guide(self, x: Tensor) -> None:
        pass

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        x = x.flatten(1)
        each = torch.stack([densities.bernoulli(x, self.network(x, index)) for index in self.active_masks()])
        return ELBOTerms(reconstruction=math.log(len(each)) - each.logsumexp(0))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Returns log p(x) of images `(batch, *shape)`, `(batch,)`."""
        return -self.bound(x, {}).terms["reconstruction"]
