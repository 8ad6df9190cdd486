"""Coupling layers with monotonic linear rational splines, without masked indexing."""

from functools import partial
from typing import Any

import torch
from pyro.distributions import transforms
from pyro.distributions.transforms.spline import ConditionalSpline, ConditionedSpline
from pyro.nn import DenseNN
from torch import Tensor
from torch.nn import functional as F

# Minimum width and height of a bin, slope at a knot, and fraction of a bin on either side of its split.
MIN_BIN, MIN_SLOPE, MIN_SPLIT = 1e-3, 1e-3, 0.025
EDGE = 1e-6  # a point less than this above a knot belongs to the bin on the knot's left


def linear_rational_spline(
    x: Tensor,
    widths: Tensor,
    heights: Tensor,
    slopes: Tensor,
    splits: Tensor,
    bound: float,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Applies a monotonic spline of [-bound, bound], or its inverse, to each element; the identity elsewhere.

    Each bin has two pieces, and each piece is a ratio of two linear functions. Every branch is a
    `torch.where`, so that no shape depends on the values and the function can be captured or compiled.

    Dolatabadi, Erfani and Leckie 2020, Invertible Generative Modeling using Linear Rational Splines
    (arXiv 2001.05168), section 3. The limits on the parameters are those of
    `pyro.distributions.transforms.Spline`.

    Args:
        x: points, `(*, d)`.
        widths: the bins' widths as fractions of the interval, `(*, d, bins)`.
        heights: the bins' heights as fractions of the interval, `(*, d, bins)`.
        slopes: the positive slopes at the inner knots, `(*, d, bins - 1)`.
        splits: the position of each bin's split as a fraction of its width, in (0, 1), `(*, d, bins)`.
        bound: half the length of the interval.
        inverse: whether to apply the inverse of the spline.

    Returns:
        The transformed points and log |dy/dx| (of the inverse: log |dx/dy|), both `(*, d)`.
    """
    bins = widths.shape[-1]
    knots_x, knots_y = (_knots(MIN_BIN + (1 - MIN_BIN * bins) * part, bound) for part in (widths, heights))
    slopes = F.pad(slopes + MIN_SLOPE, (1, 1), value=1 - MIN_SLOPE)
    splits = MIN_SPLIT + (1 - 2 * MIN_SPLIT) * splits

    inside = x.abs() <= bound
    point = x.clamp(-bound, bound)
    knots = knots_y if inverse else knots_x
    index = ((point[..., None] >= knots + EDGE).sum(-1, keepdim=True) - 1).clamp(0, bins - 1)

    def at(values: Tensor) -> Tensor:  # selects the value of each point's bin
        return values.expand(*x.shape, -1).gather(-1, index).squeeze(-1)

    x_a, x_b = at(knots_x[..., :-1]), at(knots_x[..., 1:])
    y_a, y_b = at(knots_y[..., :-1]), at(knots_y[..., 1:])
    slope_a, slope_b, split = at(slopes[..., :-1]), at(slopes[..., 1:]), at(splits)
    width = x_b - x_a
    # Weights of the bin's right end and of the split point c; the weight of the left end is 1.
    w_b = (slope_a / slope_b).sqrt()
    w_c = (split * slope_a + (1 - split) * w_b * slope_b) * width / (y_b - y_a)
    y_c = ((1 - split) * y_a + split * w_b * y_b) / ((1 - split) + split * w_b)

    piece = _inverse_piece if inverse else _forward_piece
    result, denominator, left = piece(point, x_a, width, split, (y_a, y_b, y_c), (w_b, w_c))
    slope = torch.where(left, w_c * split * (y_c - y_a), w_b * w_c * (1 - split) * (y_b - y_c))
    slope = slope * width if inverse else slope / width
    log_slope = slope.log() - 2 * denominator.abs().log()
    return torch.where(inside, result, x), torch.where(inside, log_slope, 0.0)


def _inverse_piece(
    y: Tensor, x_a: Tensor, width: Tensor, split: Tensor, ends: tuple[Tensor, ...], w: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x, its denominator, and whether y is in the left piece of its bin."""
    (y_a, y_b, y_c), (w_b, w_c) = ends, w
    left = y <= y_c
    numerator = torch.where(left, split * (y_a - y), (w_c - split * w_b) * y + split * w_b * y_b - w_c * y_c)
    denominator = torch.where(left, (w_c - 1) * y + y_a - w_c * y_c, (w_c - w_b) * y + w_b * y_b - w_c * y_c)
    return x_a + width * numerator / denominator, denominator, left


def _forward_piece(
    x: Tensor, x_a: Tensor, width: Tensor, split: Tensor, ends: tuple[Tensor, ...], w: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y, its denominator, and whether x is in the left piece of its bin."""
    (y_a, y_b, y_c), (w_b, w_c) = ends, w
    theta = (x - x_a) / width
    left = theta <= split
    numerator = torch.where(
        left,
        y_a * (split - theta) + w_c * y_c * theta,
        w_c * y_c * (1 - theta) + w_b * y_b * (theta - split),
    )
    denominator = torch.where(left, split - theta + w_c * theta, w_c * (1 - theta) + w_b * (theta - split))
    return numerator / denominator, denominator, left


def _knots(fractions: Tensor, bound: float) -> Tensor:
    """Returns the bins' ends in [-bound, bound], `(*, bins + 1)`, from the bins' fractions `(*, bins)`."""
    inner = 2 * bound * fractions.cumsum(-1)[..., :-1] - bound
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


class _Conditioned(ConditionedSpline):
    def spline_op(self, x: Tensor, **keywords: Any) -> tuple[Tensor, Tensor]:
        widths, heights, slopes, splits = self._params()
        return linear_rational_spline(x, widths, heights, slopes, splits, self.bound, **keywords)


class _Conditional(ConditionalSpline):
    def condition(self, context: Tensor) -> ConditionedSpline:
        return _Conditioned(partial(self._params, context), self.bound)


class SplineCoupling(transforms.SplineCoupling):
    """Transforms the second half of the axes by splines that depend on the first half.

    Pyro's `SplineCoupling` with `linear_rational_spline`, which has no masked indexing.

    Args:
        d: the number of axes.
        hidden: the width of the two hidden layers of the network that computes the splines' parameters.
        bins: the number of bins per spline.
        bound: the splines are the identity outside [-bound, bound].
    """

    def __init__(self, d: int, hidden: int, bins: int, bound: float):
        fixed, transformed = d // 2, d - d // 2
        outputs = [transformed * size for size in (bins, bins, bins - 1, bins)]
        network = DenseNN(fixed, [hidden, hidden], outputs)
        super().__init__(d, fixed, network, bins, bound, identity=True)
        del self.lower_spline  # it would transform the first half
        self.upper_spline = _Conditional(network, transformed, bins, bound)
