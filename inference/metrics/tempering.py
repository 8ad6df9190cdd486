"""Temperature: sharper or flatter distributions to sample from."""

import copy
import math
from typing import Any, cast

import pyro.distributions as dist
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution

from inference.errors import UserError
from ppl_models.distributions import (
    AutoregressiveGrid,
    AutoregressiveImage,
    AutoregressiveMap,
    BernoulliImage,
    LogisticMixtureImage,
    MixtureOfNormals,
    TokenSequence,
    UniformCodes,
)


class Tempered(Messenger):
    """Samples the latents of a model with a temperature, and x if p(x | latents) has no mean.

    Observed sites and the noise of a decoder with a mean do not change.

    Args:
        temperature: T above 0; see `tempered`.
        with_x: whether the site x is sampled with it too.
    """

    def __init__(self, temperature: float, with_x: bool):
        super().__init__()
        self.temperature, self.with_x = temperature, with_x

    def _pyro_sample(self, msg: Any) -> None:
        sampled = not (msg["is_observed"] or site_is_subsample(msg))
        if self.temperature != 1 and sampled and (self.with_x or msg["name"] != "x"):
            msg["fn"] = tempered(msg["fn"], self.temperature)


class _TemperedMap(AutoregressiveMap):
    """An autoregressive flow whose noise has another standard deviation."""

    noise = 1.0

    def from_noise(self, e: Tensor) -> Tensor:
        """Returns the z of noise e with the other standard deviation."""
        return super().from_noise(self.noise * e)


def tempered(fn: Distribution, temperature: float) -> Distribution:
    """Returns a distribution with a temperature T.

    A normal gets T times its standard deviation; so do the components of a mixture, the logistic components
    of a pixel, and the noise of a flow. Logits of discrete values are divided by T: the distribution is
    proportional to p(x)^(1 / T). In an autoregressive distribution this applies to each factor.

    Args:
        fn: the distribution.
        temperature: T above 0. Below 1 samples are closer to the modes.

    Raises:
        UserError: the distribution has no temperature.
    """
    t = temperature
    match fn:
        case dist.Normal():
            return dist.Normal(fn.loc, t * fn.scale)
        case MixtureOfNormals():
            return MixtureOfNormals(fn.loc, t * fn.scale)
        case dist.OneHotCategorical() | dist.Categorical() | dist.Bernoulli():
            return type(fn)(logits=fn.logits / t)
        case BernoulliImage():
            return BernoulliImage(fn.logits / t, fn.event_shape)
        case LogisticMixtureImage():
            return _logistic_mixture(fn, t)
        case dist.Independent():
            return dist.Independent(tempered(fn.base_dist, t), fn.reinterpreted_batch_ndims)
        case ExpandedDistribution():
            return cast(Any, tempered(fn.base_dist, t)).expand(fn.batch_shape)
        case dist.TransformedDistribution():
            return dist.TransformedDistribution(tempered(fn.base_dist, t), fn.transforms)
        case AutoregressiveMap():
            flow = _TemperedMap(fn.networks, fn.event_shape, fn.batch_shape)
            flow.noise = t
            return flow
        case AutoregressiveGrid():
            return _grid(fn, t)
        case TokenSequence():
            sequence = copy.copy(fn)
            sequence.temperature = t
            return sequence
        case AutoregressiveImage():
            networks = [lambda x, network=network: network(x) / t for network in fn.networks]
            return AutoregressiveImage(networks, fn.orders, fn.event_shape, fn.dtype, fn.batch_shape)
        case UniformCodes():
            advice = "Its prior is uniform: train a prior on the codes with --code-prior, and sample its run."
            raise UserError(f"a temperature does not change this model. {advice}")
    raise UserError(f"a temperature is undefined for {type(fn).__name__}. Leave out the temperature.")


def _logistic_mixture(fn: LogisticMixtureImage, t: float) -> LogisticMixtureImage:
    """Divides the logits of the components by T and multiplies their scales by T."""
    other = copy.copy(fn)
    other.logits, other.log_scale = fn.logits / t, fn.log_scale + math.log(t)
    return other


def _grid(fn: AutoregressiveGrid, t: float) -> AutoregressiveGrid:
    def family(raw: Tensor) -> Any:
        return tempered(fn.family(raw), t)

    return AutoregressiveGrid(fn.network, family, fn.event_shape, fn.condition, fn.batch_shape)
