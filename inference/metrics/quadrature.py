"""log p(x) by quadrature over a latent of one or two dimensions."""

import itertools
import math
from typing import NamedTuple

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from inference.errors import UserError
from inference.metrics.importance import sample_pool
from ppl_models.base import LatentVariableModel

MIN_POINTS = 64  # of the first grid, along each axis
MAX_POINTS = 4096  # of the last
TOLERANCE = 1e-4  # nats by which twice as many points along each axis may change an image's log p(x)
EDGE_TOLERANCE = 1e-9  # the fraction of p(x) that may lie on the grid's edge
MAX_NUMBERS = 2**19  # in the largest tensor, so that it fits in a processor's cache
MIN_CHUNK = 400  # points at a time; smaller batches make the networks inefficient


class Quadrature(NamedTuple):
    """log p(x) as a sum over a grid of z.

    Attributes:
        log_p: log p(x) of each image in nats, (batch,).
        points: grid points along each axis.
        box: the ends of the grid along each axis.
        change: the largest change of an image's log p(x) from half as many points along each axis.
        summed: names of the discrete latents that are summed over.
        values: the number of their joint values.
    """

    log_p: Tensor
    points: int
    box: list[tuple[float, float]]
    change: float
    summed: str
    values: int

    def __str__(self) -> str:
        axes = " x ".join([str(self.points)] * len(self.box))
        box = " x ".join(f"[{low:.1f}, {high:.1f}]" for low, high in self.box)
        text = f"quadrature, {axes} points over z in {box}"
        if self.values > 1:
            text += f", summed over {self.values} values of {self.summed}"
        return f"{text}; half as many along each axis are within {self.change:.0e} for every image"


@torch.no_grad()
def quadrature(model: LatentVariableModel, x: Tensor) -> Quadrature:
    """Computes log p(x) = log sum_y integral p(x, y, z) dz with z on a regular grid.

    If the integrand is smooth and vanishes before the grid's ends, the sum converges faster than any power of
    the step. The grid spans samples of z from the prior and from the guide. It is widened until the mass on
    its edge is negligible, and its points are doubled along each axis until log p(x) no longer changes.

    Args:
        model: the model, in float64. It has one continuous latent z of one or two dimensions; its other
            latents have finitely many values.
        x: images (batch, *shape).

    Raises:
        UserError: the model has other latents, or too many points would be needed.
    """
    name, dims, discrete = _latents(model)
    samples = sample_pool(model, {"x": x}, 100, 10_000).latents[name].double()
    span = torch.cat([samples.reshape(-1, dims), model.prior(10_000)[name]])
    low, high = span.amin(0), span.amax(0)
    points, last, change = MIN_POINTS, None, math.inf
    while points <= MAX_POINTS:
        log_p, edge = _sum_over_grid(model, x, name, discrete, low, high, points)
        if edge > EDGE_TOLERANCE:
            low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
            last = None
            continue
        if last is not None:
            change = (log_p - last).abs().max().item()
            if change <= TOLERANCE:
                box = list(zip(low.tolist(), high.tolist(), strict=True))
                values = math.prod(len(support) for support in discrete.values())
                return Quadrature(log_p, points, box, change, ", ".join(discrete), values)
        last, points = log_p, 2 * points
    raise UserError(
        f"a grid of {points // 2} points along each axis is too coarse for this z, because p(x | z) is too "
        "narrow for quadrature. Use the bounds of inference.evaluate."
    )


def _latents(model: LatentVariableModel) -> tuple[str, int, dict[str, Tensor]]:
    """Returns the continuous latent's name and dimensions, and all values of the others, (values, 1, ...)."""
    continuous, discrete = {}, {}
    for name, site in model.generate(1).nodes.items():
        if site["type"] == "sample" and name != "x" and not site_is_subsample(site):
            if site["fn"].has_enumerate_support:
                discrete[name] = site["fn"].enumerate_support(expand=False)
            else:
                continuous[name] = site["value"].numel()
    if len(continuous) != 1 or max(continuous.values()) > 2:
        found = ", ".join(f"{name} of {size}" for name, size in continuous.items()) or "none"
        raise UserError(
            "log p(x) cannot be computed: quadrature supports one z of at most 2 dimensions, but the latents "
            f"are {found}. Train with --z-dim 2."
        )
    return *continuous.popitem(), discrete


def _sum_over_grid(
    model: LatentVariableModel,
    x: Tensor,
    name: str,
    discrete: dict[str, Tensor],
    low: Tensor,
    high: Tensor,
    points: int,
) -> tuple[Tensor, float]:
    """Returns log p(x), (batch,), from `points` points along each axis, and the largest mass on the edge."""
    axes = [torch.linspace(a, b, points) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    z = torch.cartesian_prod(*axes).view(-1, len(axes))  # (points^d, d)
    on_edge = ((z == z.amin(0)) | (z == z.amax(0))).any(-1)
    log_cell = math.log(math.prod((axis[1] - axis[0]).item() for axis in axes))
    combinations = [
        dict(zip(discrete, values, strict=True)) for values in itertools.product(*discrete.values())
    ]
    total, outermost = (x.new_full((len(x),), -math.inf) for _ in range(2))
    size = max(MAX_NUMBERS // x.numel(), MIN_CHUNK)
    for part, edge in zip(z.split(size), on_edge.split(size), strict=True):
        log_p = torch.stack(
            [_log_joint(model, x, {name: part[:, None], **y}) for y in combinations]
        ).logsumexp(0)
        torch.logaddexp(total, log_p.logsumexp(0), out=total)
        torch.logaddexp(outermost, log_p[edge].logsumexp(0), out=outermost)  # log 0 without points
    return total + log_cell, (outermost - total).exp().max().item()


def _log_joint(model: LatentVariableModel, x: Tensor, latents: dict[str, Tensor]) -> Tensor:
    """Returns log p(x, latents), (points, batch), at latents (points, 1, d) or (1, d)."""
    trace = poutine.trace(poutine.condition(model.model, data=latents)).get_trace(x)
    densities = [trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in ("x", *latents)]
    return sum(densities[1:], densities[0])
