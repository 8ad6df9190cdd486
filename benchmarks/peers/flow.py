"""The suite's normalising flow in JAX: four couplings with monotonic linear rational splines, two axes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

LAYERS, HIDDEN, BINS, BOUND = 4, 64, 16, 4.0
MIN_BIN, MIN_SLOPE, MIN_SPLIT, EDGE = 1e-3, 1e-3, 0.025, 1e-6  # Pyro's limits on a spline's parameters


class Flow(nn.Module):
    """f, a chain of layers from points to noise: a shift and scale per axis, then couplings."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the noise, `(batch, 2)`, and the log-determinants, `(batch,)`."""
        loc, log_scale = (self.param(name, nn.initializers.zeros, (2,)) for name in ("loc", "log_scale"))
        x, log_det = (x - loc) * jnp.exp(-log_scale), -log_scale.sum()
        for _ in range(LAYERS):
            fixed, moved = x[..., 0], x[..., 1]
            h = fixed[..., None]
            for _ in range(2):
                h = nn.relu(nn.Dense(HIDDEN)(h))
            parts = jnp.split(nn.Dense(4 * BINS - 1)(h), (BINS, 2 * BINS, 3 * BINS - 1), -1)
            moved, log_slope = spline(moved, *parts)
            x, log_det = jnp.stack([moved, fixed], -1), log_det + log_slope
        return x, log_det


def spline(
    x: jax.Array, widths: jax.Array, heights: jax.Array, slopes: jax.Array, splits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The spline of Dolatabadi, Erfani and Leckie 2020 (arXiv 2001.05168), section 3.

    Args:
        x: points, `(batch,)`.
        widths: the network's output for the widths of the bins, `(batch, bins)`.
        heights: for their heights, `(batch, bins)`.
        slopes: for the slopes at the inner knots, `(batch, bins - 1)`.
        splits: for the position of each bin's split, `(batch, bins)`.

    Returns:
        The transformed points and the logarithms of the slopes, both `(batch,)`.
    """
    knots_x, knots_y = _knots(nn.softmax(widths)), _knots(nn.softmax(heights))
    slopes = jnp.pad(nn.softplus(slopes) + MIN_SLOPE, ((0, 0), (1, 1)), constant_values=1.0)
    splits = MIN_SPLIT + (1 - 2 * MIN_SPLIT) * nn.sigmoid(splits)
    inside, point = jnp.abs(x) <= BOUND, jnp.clip(x, -BOUND, BOUND)
    index = jnp.clip((point[:, None] >= knots_x + EDGE).sum(-1, keepdims=True) - 1, 0, BINS - 1)

    def at(values: Any) -> jax.Array:
        return jnp.take_along_axis(values, index, -1)[:, 0]

    x_a, x_b, y_a, y_b = at(knots_x[:, :-1]), at(knots_x[:, 1:]), at(knots_y[:, :-1]), at(knots_y[:, 1:])
    slope_a, slope_b, split = at(slopes[:, :-1]), at(slopes[:, 1:]), at(splits)
    width = x_b - x_a
    w_b = jnp.sqrt(slope_a / slope_b)
    w_c = (split * slope_a + (1 - split) * w_b * slope_b) * width / (y_b - y_a)
    y_c = ((1 - split) * y_a + split * w_b * y_b) / ((1 - split) + split * w_b)
    theta = (point - x_a) / width
    left = theta <= split
    numerator = jnp.where(
        left,
        y_a * (split - theta) + w_c * y_c * theta,
        w_c * y_c * (1 - theta) + w_b * y_b * (theta - split),
    )
    denominator = jnp.where(left, split - theta + w_c * theta, w_c * (1 - theta) + w_b * (theta - split))
    slope = jnp.where(left, w_c * split * (y_c - y_a), w_b * w_c * (1 - split) * (y_b - y_c)) / width
    log_slope = jnp.log(slope) - 2 * jnp.log(jnp.abs(denominator))
    return jnp.where(inside, numerator / denominator, x), jnp.where(inside, log_slope, 0.0)


def _knots(fractions: jax.Array) -> jax.Array:
    """Returns the ends of the bins, `(batch, bins + 1)`."""
    inner = jnp.cumsum(MIN_BIN + (1 - MIN_BIN * BINS) * fractions, -1)[:, :-1]
    edges = jnp.pad(2 * BOUND * inner - BOUND, ((0, 0), (1, 0)), constant_values=-BOUND)
    return jnp.pad(edges, ((0, 0), (0, 1)), constant_values=BOUND)
