"""Masked auto-encoder (MADE): an autoregressive density of binary images and of vectors."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import pyro
import torch
from torch import Tensor

from ppl_models import densities, likelihoods
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import AutoregressiveImage, AutoregressiveVector
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.heads import bounded_scale
from ppl_models.nets.masked import MaskedMLP


class MADE(LatentVariableModel):
    """p(x).

    p(x) = prod_i p(x_i | the pixels before i)
    p(x_i | ...) = Bernoulli(x_i; logits = network(x)_i)     x (batch, *shape), zeros and ones; or,
                   N(x_i; loc(x)_i, scale(x)_i^2)            for vectors x (batch, d); loc, scale by network

    One network computes all outputs in one pass. Masks on its weights make those of a pixel depend only on
    the pixels before it, in row-major or in random order. With several sets of masks, training uses one set
    per step in turn, and in evaluation p(x) is the mean of their densities. The model has no latents and the
    guide is empty: the bound equals the log-likelihood.

    Germain, Gregor, Murray and Larochelle 2015, MADE: Masked Autoencoder for Distribution Estimation
    (arXiv 1502.03509); CSDS 600.
    """

    estimators = ("trace",)
    has_latents = has_mean = False
    vector_observation = "points"
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
        likelihood: Annotated[likelihoods.Name, likelihoods.ABOUT] = "auto",
    ):
        super().__init__(shape, classes)
        self.likelihood = likelihoods.chosen(likelihood, self.shape)
        self.observation = likelihoods.observation(likelihood, self.shape, self.observation)
        outputs = 2 if self.likelihood == "normal" else 1  # per pixel
        self.network = MaskedMLP(math.prod(shape), [hidden] * layers, order == "random", masks, outputs)
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
            family = AutoregressiveVector if self.likelihood == "normal" else AutoregressiveImage
            pyro.sample("x", family(networks, orders, self.shape, x.dtype), obs=x)

    def guide(self, x: Tensor) -> None:
        pass

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        x = x.flatten(1)
        each = torch.stack([self._log_density(x, self.network(x, index)) for index in self.active_masks()])
        return ELBOTerms(reconstruction=math.log(len(each)) - each.logsumexp(0))

    def _log_density(self, x: Tensor, h: Tensor) -> Tensor:
        """Returns log p(x) by hand, `(batch,)`, from the outputs of the network at x `(batch, values)`."""
        if self.likelihood == "bernoulli":
            return densities.bernoulli(x, h)
        loc, log_scale = h.chunk(2, dim=-1)
        return densities.normal(x, loc, bounded_scale(log_scale))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Returns log p(x) of images `(batch, *shape)`, `(batch,)`."""
        return -self.bound(x, {}).terms["reconstruction"]
