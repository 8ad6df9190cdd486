"""Couplings by monotonic linear rational splines, without masked indexing."""

from functools import partial
from typing import Any

import torch
from pyro.distributions import transforms
from pyro.distributions.transforms.spline import ConditionalSpline, ConditionedSpline
from pyro.nn import DenseNN
from torch import Tensor
from torch.nn import functional as F

# Smallest width and height of a bin, slope at a knot, and share of a bin on either side of its split.
MIN_BIN, MIN_SLOPE, MIN_SPLIT = 1e-3, 1e-3, 0.025
EDGE = 1e-6  # a point this close above a knot still belongs to the bin on the knot's left


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
    `torch.where`, so that the shapes do not depend on the values and the function can be captured or
    compiled.

    Args:
        x: points, `(*, d)`.
        widths: of the bins, as shares of the interval, `(*, d, bins)`.
        heights: of the bins, as shares of the interval, `(*, d, bins)`.
        slopes: at the inner knots, positive, `(*, d, bins - 1)`.
        splits: where a bin is cut in two, as shares of its width, in (0, 1), `(*, d, bins)`.
        bound: half the length of the interval.
        inverse: whether to apply the inverse of the spline.

    Returns:
        The transformed points and log |dy/dx| (of the inverse: log |dx/dy|), both `(*, d)`.

    Dolatabadi, Erfani and Leckie 2020, Invertible Generative Modeling using Linear Rational Splines
    (arXiv 2001.05168), section 3. The limits on the parameters are those of
    `pyro.distributions.transforms.Spline`.
    """
    bins = widths.shape[-1]
    knots_x, knots_y = (_knots(MIN_BIN + (1 - MIN_BIN * bins) * share, bound) for share in (widths, heights))
    slopes = F.pad(slopes + MIN_SLOPE, (1, 1), value=1 - MIN_SLOPE)
    splits = MIN_SPLIT + (1 - 2 * MIN_SPLIT) * splits

    inside = x.abs() <= bound
    point = x.clamp(-bound, bound)
    knots = knots_y if inverse else knots_x
    index = ((point[..., None] >= knots + EDGE).sum(-1, keepdim=True) - 1).clamp(0, bins - 1)

    def at(values: Tensor) -> Tensor:  # the value of each point's bin
        return values.expand(*x.shape, -1).gather(-1, index).squeeze(-1)

    x_a, x_b = at(knots_x[..., :-1]), at(knots_x[..., 1:])
    y_a, y_b = at(knots_y[..., :-1]), at(knots_y[..., 1:])
    slope_a, slope_b, split = at(slopes[..., :-1]), at(slopes[..., 1:]), at(splits)
    width = x_b - x_a
    # Weights of the bin's left end (1), its right end and the point c where the two pieces meet.
    w_b = (slope_a / slope_b).sqrt()
    w_c = (split * slope_a + (1 - split) * w_b * slope_b) * width / (y_b - y_a)
    y_c = ((1 - split) * y_a + split * w_b * y_b) / ((1 - split) + split * w_b)

    if inverse:
        left = point <= y_c
        numerator = torch.where(
            left, split * (y_a - point), (w_c - split * w_b) * point + split * w_b * y_b - w_c * y_c
        )
        denominator = torch.where(
            left, (w_c - 1) * point + y_a - w_c * y_c, (w_c - w_b) * point + w_b * y_b - w_c * y_c
        )
        result = x_a + width * numerator / denominator
    else:
        theta = (point - x_a) / width
        left = theta <= split
        numerator = torch.where(
            left,
            y_a * (split - theta) + w_c * y_c * theta,
            w_c * y_c * (1 - theta) + w_b * y_b * (theta - split),
        )
        denominator = torch.where(
            left, split - theta + w_c * theta, w_c * (1 - theta) + w_b * (theta - split)
        )
        result = numerator / denominator
    slope = torch.where(left, w_c * split * (y_c - y_a), w_b * w_c * (1 - split) * (y_b - y_c))
    slope = slope * width if inverse else slope / width
    log_slope = slope.log() - 2 * denominator.abs().log()
    return torch.where(inside, result, x), torch.where(inside, log_slope, 0.0)


def _knots(shares: Tensor, bound: float) -> Tensor:
    """The ends of bins that share [-bound, bound], (*, bins + 1), from shares (*, bins) that sum to one."""
    inner = 2 * bound * shares.cumsum(-1)[..., :-1] - bound
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


class _Conditioned(ConditionedSpline):
    def spline_op(self, x: Tensor, **keywords: Any) -> tuple[Tensor, Tensor]:
        widths, heights, slopes, splits = self._params()
        return linear_rational_spline(x, widths, heights, slopes, splits, self.bound, **keywords)


class _Conditional(ConditionalSpline):
    def condition(self, context: Tensor) -> ConditionedSpline:
        return _Conditioned(partial(self._params, context), self.bound)


class SplineCoupling(transforms.SplineCoupling):
    """Moves the second half of the axes by splines that depend on the first half, and keeps the first half.

    Pyro's coupling with the spline above, which has no masked indexing.

    Args:
        d: number of axes.
        hidden: width of the two hidden layers of the network that gives the splines.
        bins: of each spline.
        bound: half the length of the interval outside of which the spline is the identity.
    """

    def __init__(self, d: int, hidden: int, bins: int, bound: float):
        kept, moved = d // 2, d - d // 2
        outputs = [moved * bins, moved * bins, moved * (bins - 1), moved * bins]
        network = DenseNN(kept, [hidden, hidden], outputs)
        super().__init__(d, kept, network, bins, bound, identity=True)
        del self.lower_spline  # it would move the half that is kept
        self.upper_spline = _Conditional(network, moved, bins, bound)
