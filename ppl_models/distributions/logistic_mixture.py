"""Images of 256 levels, each a mixture of logistic distributions cut at the levels' borders."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_models.nets.precision import at_least_float32

HALF = 1 / 255  # half of what lies between two levels, from -1 to 1
LIMIT = 7.0  # of the logarithms of the scales, either way: from an eighth of a level to all of them alike


def outputs(channels: int, components: int) -> int:
    """How many numbers a pixel takes: weights, and locs, scales and coefficients of the channels."""
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


class LogisticMixtureImage(TorchDistribution):
    """p(pixel) = sum_i w_i prod_c P(level_c; loc_ic + what the channels before say, scale_ic), as one event.

    P of a level is what a logistic distribution has between its borders, and for the first and the last
    beyond them too: so the 256 levels' probabilities sum to one. A channel's loc is linear in the channels
    before it, with coefficients between -1 and 1. All channels of a pixel are of one component.

    Values (..., channels, height, width) are levels k from 0 to 255 as 2 k / 255 - 1. `raw` (..., outputs,
    height, width) is what a network gives, for each component: the logit of its weight, each channel's loc,
    each one's logarithm of the scale, and the coefficients before tanh, row by row below the diagonal.

    Salimans, Karpathy, Chen and Kingma 2017, PixelCNN++ (arXiv 1701.05517).
    """

    arg_constraints = {"raw": constraints.independent(constraints.real, 3)}
    has_rsample = False

    def __init__(self, raw: Tensor, channels: int, components: int = 10, validate_args: bool | None = None):
        if raw.shape[-3] != outputs(channels, components):
            need = outputs(channels, components)
            raise ValueError(
                f"{raw.shape[-3]} numbers a pixel for {components} components: {need} are needed"
            )
        raw = at_least_float32(raw)
        self.raw, self.components = raw, components
        parts = raw.unflatten(-3, (-1, components))  # (..., parts, components, height, width)
        pairs = channels * (channels - 1) // 2
        sizes = [1, channels, channels, pairs]
        logits, self.loc, log_scale, coefficients = parts.split(sizes, dim=-4)
        self.logits, self.log_scale = logits.squeeze(-4), log_scale.clamp(-LIMIT, LIMIT)
        self.coefficients = coefficients.tanh()
        super().__init__(raw.shape[:-3], (channels, *raw.shape[-2:]), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.interval(-1, 1), 3)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) of images (..., channels, height, width), in the shape their batch broadcasts to.

        sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - e^(l - u)), whose logarithm is exact for the
        widest and the narrowest scales, and u - l depends on the scale alone.
        """
        if self._validate_args:
            self._validate_sample(value)
        x = value.unsqueeze(-3)  # (..., channels, 1, height, width)
        per_unit = (-self.log_scale).exp()
        upper, lower = (per_unit * (x - self._locs(x) + border) for border in (HALF, -HALF))
        below, above = logsigmoid(upper), logsigmoid(-lower)
        between = below + above + (-torch.expm1(-2 * HALF * per_unit)).log()
        level = torch.where(x < HALF - 1, below, torch.where(x > 1 - HALF, above, between))
        return (self.logits.log_softmax(-3) + level.sum(-4)).logsumexp(-3).sum((-1, -2))

    def _locs(self, x: Tensor) -> Tensor:
        """Every channel's loc, given the channels before it: (..., channels, components, height, width)."""
        locs = list(self.loc.unbind(-4))
        pairs = [(c, before) for c in range(len(locs)) for before in range(c)]
        for (c, before), coefficient in zip(pairs, self.coefficients.unbind(-4), strict=True):
            locs[c] = locs[c] + coefficient * x.select(-4, before)
        return torch.stack(torch.broadcast_tensors(*locs), dim=-4)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Levels (*sample_shape, ..., channels, height, width): a component, then a channel after another."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        weights = self.logits.softmax(-3).movedim(-3, -1).expand(*shape[:-3], *shape[-2:], self.components)
        index = weights.flatten(0, -2).multinomial(1).view(*shape[:-3], 1, 1, *shape[-2:])

        def chosen(parts: Tensor) -> Tensor:  # (..., parts, components, height, width) to (..., parts, ...)
            parts = parts.expand(*shape[:-3], *parts.shape[-4:])
            return parts.gather(-3, index.expand(*parts.shape[:-3], 1, *shape[-2:])).squeeze(-3)

        loc, scale, coefficients = map(chosen, (self.loc, self.log_scale.exp(), self.coefficients))
        u = torch.rand(shape, dtype=loc.dtype, device=loc.device)
        noise, at = scale * (u.log() - (-u).log1p()), 0
        x: list[Tensor] = []
        for c in range(shape[-3]):
            value = loc[..., c, :, :] + noise[..., c, :, :]
            for before in x:
                value = value + coefficients[..., at, :, :] * before
                at += 1
            x.append(2 / 255 * ((value + 1) * 255 / 2).round().clamp(0, 255) - 1)
        return torch.stack(x, dim=-3)
