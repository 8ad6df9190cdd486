"""Distributions that Pyro lacks, or works out more slowly than need be."""

from ppl_models.distributions.autoregressive import AutoregressiveImage
from ppl_models.distributions.bernoulli import BernoulliImage
from ppl_models.distributions.mixture import MixtureOfNormals
from ppl_models.distributions.normal import NormalImage

__all__ = ["AutoregressiveImage", "BernoulliImage", "MixtureOfNormals", "NormalImage"]
