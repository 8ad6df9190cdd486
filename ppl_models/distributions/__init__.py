"""Distributions that Pyro lacks, and faster versions of some that it has."""

from ppl_models.distributions.autoregressive import AutoregressiveImage, AutoregressiveVector
from ppl_models.distributions.autoregressive_grid import AutoregressiveGrid
from ppl_models.distributions.autoregressive_map import AutoregressiveMap
from ppl_models.distributions.bernoulli import BernoulliImage, GreyBernoulliImage
from ppl_models.distributions.codes import UniformCodes
from ppl_models.distributions.logistic_mixture import LogisticMixtureImage
from ppl_models.distributions.mixture import MixtureOfNormals
from ppl_models.distributions.normal import NormalImage
from ppl_models.distributions.spline import SplineCoupling
from ppl_models.distributions.token_sequence import TokenSequence

__all__ = [
    "AutoregressiveGrid",
    "AutoregressiveImage",
    "AutoregressiveMap",
    "AutoregressiveVector",
    "BernoulliImage",
    "GreyBernoulliImage",
    "LogisticMixtureImage",
    "MixtureOfNormals",
    "NormalImage",
    "SplineCoupling",
    "TokenSequence",
    "UniformCodes",
]
