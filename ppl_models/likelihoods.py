"""The likelihood p(x | h) of a data point given the outputs h of a network: Bernoulli or Normal."""

import math
from typing import Literal

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from ppl_models import densities
from ppl_models.distributions import BernoulliImage
from ppl_models.nets.heads import bounded_scale

Name = Literal["auto", "bernoulli", "normal"]  # auto: bernoulli for images, normal for vectors
ABOUT = "likelihood of x: bernoulli, or normal for vectors; auto is normal for vectors, else bernoulli"


def chosen(name: str, shape: tuple[int, ...]) -> str:
    """Returns the likelihood that a name means for data of a shape, "bernoulli" or "normal".

    Raises:
        ValueError: The name is "normal" and the data are images.
    """
    if name == "normal" and len(shape) != 1:
        raise ValueError(
            f"likelihood normal is for vectors, not for images of shape {shape}. Leave out likelihood."
        )
    return ("normal" if len(shape) == 1 else "bernoulli") if name == "auto" else name


def observation(name: str, shape: tuple[int, ...], usual: str) -> str:
    """Returns the kind of observation of a model: "bits" for Bernoulli vectors, else that of its class."""
    return "bits" if len(shape) == 1 and chosen(name, shape) == "bernoulli" else usual


class Bernoulli(nn.Module):
    """p(x | h) = Bernoulli(x; logits = h), for images and vectors of zeros and ones; no parameters.

    Args:
        shape: the shape of a data point.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def distribution(self, h: Tensor) -> TorchDistribution:
        """Returns p(x | h) with events of `shape` for h `(..., values)`."""
        return BernoulliImage(h, self.shape)

    def log_density(self, x: Tensor, h: Tensor) -> Tensor:
        """Returns log p(x | h) by hand for flat x `(..., values)`, `(...)`."""
        return densities.bernoulli(x, h)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Returns the h at which x has this mean, the logits; means are limited to 0.001 to 0.999."""
        return mean.clamp(0.001, 0.999).logit()


class DiagonalNormal(nn.Module):
    """p(x | h) = N(x; h, diag scale^2), for vectors; scale `(d,)` is learned and does not depend on h.

    Args:
        shape: the shape of a data point, `(d,)`.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(math.prod(shape)))

    @property
    def scale(self) -> Tensor:
        """The standard deviation of each dimension, see `bounded_scale`, `(d,)`."""
        return bounded_scale(self.log_scale)

    def distribution(self, h: Tensor) -> TorchDistribution:
        """Returns p(x | h) for h `(..., d)`."""
        return Normal(h, self.scale).to_event(1)

    def log_density(self, x: Tensor, h: Tensor) -> Tensor:
        """Returns log p(x | h) by hand for x `(..., d)`, `(...)`."""
        return densities.normal(x, h, self.scale)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """Returns the h at which x has this mean, the mean itself."""
        return mean


def build(name: str, shape: tuple[int, ...]) -> Bernoulli | DiagonalNormal:
    """Returns the likelihood that a name means for data of a shape, as a module with its parameters."""
    return (Bernoulli if chosen(name, shape) == "bernoulli" else DiagonalNormal)(shape)
