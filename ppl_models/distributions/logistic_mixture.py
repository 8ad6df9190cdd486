"""The discretised mixture of logistics over images of 256 levels."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

HALF_LEVEL = 1 / 255  # half the distance between two of the 256 levels from -1 to 1
MAX_LOG_SCALE = 7.0  # log scales are clamped to [-7, 7]: from 1/8 of a level to nearly uniform


def num_outputs(channels: int, components: int) -> int:
    """Returns the number of parameters per pixel: weights, locs, log scales and channel coefficients."""
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


class LogisticMixtureImage(TorchDistribution):
    """p(pixel) = sum_i w_i prod_c P(level_c; loc_ic + sum_{b<c} coefficient_icb level_b, scale_ic).

    P of a level is the mass of a logistic distribution between the level's borders; the first and the last
    level include the mass beyond, so that the 256 probabilities sum to one. The loc of a channel is linear in
    the channels before it, with coefficients between -1 and 1. All channels of a pixel share the component.

    Values `(..., channels, height, width)` are 2 k / 255 - 1 for levels k from 0 to 255, one event.
    Salimans, Karpathy, Chen and Kingma 2017, PixelCNN++ (arXiv 1701.05517).

    Args:
        raw: `(..., num_outputs, height, width)`, per component: the logit of its weight, each channel's loc,
            each channel's log scale, and the coefficients before tanh, by rows of the lower triangle.
        channels: the channels of an image.
        components: the number of components.

    Raises:
        ValueError: `raw` has another number of parameters per pixel.
    """

    arg_constraints = {"raw": constraints.independent(constraints.real, 3)}
    has_rsample = False

    def __init__(self, raw: Tensor, channels: int, components: int = 10, validate_args: bool | None = None):
        if raw.shape[-3] != num_outputs(channels, components):
            need = num_outputs(channels, components)
            raise ValueError(
                f"{raw.shape[-3]} parameters per pixel do not fit {components} components. Pass {need}."
            )
        self.raw, self.components = raw, components
        parts = raw.unflatten(-3, (-1, components))  # (..., parts, components, height, width)
        pairs = channels * (channels - 1) // 2
        sizes = [1, channels, channels, pairs]
        logits, self.loc, log_scale, coefficients = parts.split(sizes, dim=-4)
        self.logits, self.log_scale = logits.squeeze(-4), log_scale.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)
        self.coefficients = coefficients.tanh()
        super().__init__(raw.shape[:-3], (channels, *raw.shape[-2:]), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.interval(-1, 1), 3)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(value) of images `(..., channels, height, width)`, with the broadcast batch shape.

        sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - e^(l - u)), whose logarithm is accurate for wide
        and narrow scales; u - l depends only on the scale.
        """
        if self._validate_args:
            self._validate_sample(value)
        x = value.unsqueeze(-3)  # (..., channels, 1, height, width)
        per_unit = (-self.log_scale).exp()
        upper, lower = (per_unit * (x - self._locs(x) + border) for border in (HALF_LEVEL, -HALF_LEVEL))
        below, above = logsigmoid(upper), logsigmoid(-lower)
        between = below + above + (-torch.expm1(-2 * HALF_LEVEL * per_unit)).log()
        level = torch.where(x < HALF_LEVEL - 1, below, torch.where(x > 1 - HALF_LEVEL, above, between))
        return (self.logits.log_softmax(-3) + level.sum(-4)).logsumexp(-3).sum((-1, -2))

    def _locs(self, x: Tensor) -> Tensor:
        """Returns each channel's loc given the channels before it, `(..., channels, components, h, w)`."""
        locs = list(self.loc.unbind(-4))
        pairs = [(c, before) for c in range(len(locs)) for before in range(c)]
        for (c, before), coefficient in zip(pairs, self.coefficients.unbind(-4), strict=True):
            locs[c] = locs[c] + coefficient * x.select(-4, before)
        return torch.stack(torch.broadcast_tensors(*locs), dim=-4)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples `(*sample_shape, ..., channels, height, width)`: a component, then channel by channel."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        weights = self.logits.softmax(-3).movedim(-3, -1).expand(*shape[:-3], *shape[-2:], self.components)
        index = weights.flatten(0, -2).multinomial(1).view(*shape[:-3], 1, 1, *shape[-2:])

        def select(parts: Tensor) -> Tensor:  # (..., parts, components, height, width) to (..., parts, ...)
            parts = parts.expand(*shape[:-3], *parts.shape[-4:])
            return parts.gather(-3, index.expand(*parts.shape[:-3], 1, *shape[-2:])).squeeze(-3)

        loc, scale, coefficients = map(select, (self.loc, self.log_scale.exp(), self.coefficients))
        u = torch.rand(shape, dtype=loc.dtype, device=loc.device)
        noise, pair = scale * (u.log() - (-u).log1p()), 0
        x: list[Tensor] = []
        for c in range(shape[-3]):
            value = loc[..., c, :, :] + noise[..., c, :, :]
            for before in x:
                value = value + coefficients[..., pair, :, :] * before
                pair += 1
            x.append(2 / 255 * ((value + 1) * 255 / 2).round().clamp(0, 255) - 1)
        return torch.stack(x, dim=-3)
