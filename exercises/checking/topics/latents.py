"""Exercises 11 and 12: several levels of latents, and discrete latents."""

import math
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from exercises.checking.bounds import answered, bound_rows, original
from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.bounds import SIZES, real, standard
from exercises.checking.topics.densities import REVERSED, VARIANCE
from ppl_models import densities
from ppl_models.nets.fsq import FSQ
from ppl_models.nets.heads import loc_scale


def guide_rows(given: Any, x: Tensor) -> Iterator[Row]:
    """Yields rows of loc and scale of q(z2 | x, z1), against those of our guide, at the same z1 and noise."""
    student, ours = answered(given, "guide"), original(given.number)().double()
    ours.load_state_dict(student.state_dict())

    def site(model: Any) -> Any:
        torch.manual_seed(1)
        with pyro.validation_enabled(False):  # a TODO is not a number
            return poutine.trace(model.guide).get_trace(x).nodes["z2"]["fn"].base_dist

    def parts() -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        z1 = poutine.trace(ours.guide).get_trace(x).nodes["z1"]["value"]
        return (*loc_scale(ours.encoder2(x, z1)), ours.prior_net(z1), ours.prior_log_scale.exp())

    relative = "loc2 is the difference from the prior's mean. The prior's mean is missing."
    yield Row(
        "guide z2, mean",
        lambda: site(student).loc,
        lambda: site(ours).loc,
        (),
        {
            relative: lambda: parts()[0],
            "The mean is that of the prior. loc2, which depends on x, is missing.": lambda: parts()[2],
            "loc2 is not in units of the prior's scale here: it is added as it is.": lambda: (
                parts()[2] + parts()[3] * parts()[0]
            ),
        },
    )
    yield Row(
        "guide z2, scale",
        lambda: site(student).scale,
        lambda: site(ours).scale,
        (),
        {
            "scale2 is relative to the prior's scale, which is missing.": lambda: parts()[1],
            "The scale is that of the prior. scale2, which depends on x, is missing.": lambda: parts()[
                3
            ].expand(7, 3),
            "The scales are multiplied, not added.": lambda: parts()[3] + parts()[1],
        },
    )


@exercise("11", "two levels, and the residual normal", "11-residual-normal.md", "guide", "bound")
def residual_normal(given: Any) -> Iterator[Row]:
    """The guide of the second level, and the bound."""

    def first(m: Any, i: Any, z: Any) -> tuple[Tensor, Tensor]:
        return loc_scale(m.encoder1(i["x"]))

    def second(m: Any, i: Any, z: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prior_scale = m.prior_log_scale.exp().expand(7, 3)
        return *loc_scale(m.encoder2(i["x"], z["z1"])), m.prior_net(z["z1"]), prior_scale

    def kl2(m: Any, i: Any, z: Any, loc: bool = True, scale: bool = True) -> Tensor:
        """KL of z2 where the prior's scale is left out under loc2, or kept in the scale."""
        loc2, scale2, _, prior_scale = second(m, i, z)
        return densities.kl_normal_standard(
            loc2 / prior_scale if loc else loc2, scale2 if scale else scale2 * prior_scale
        )

    def log_q2(m: Any, i: Any, z: Any) -> Tensor:
        loc2, scale2, loc, scale = second(m, i, z)
        return densities.normal(z["z2"], loc + loc2, scale * scale2)

    mistakes = {
        "reconstruction": {},
        "kl_z1": {
            VARIANCE: lambda m, i, z: densities.kl_normal_standard(first(m, i, z)[0], first(m, i, z)[1] ** 2),
            "The log density of the prior is missing.": lambda m, i, z: densities.normal(
                z["z1"], *first(m, i, z)
            ),
        },
        "kl_z2": {
            "The prior's scale is missing: loc2 must be measured in units of it.": lambda m, i, z: kl2(
                m, i, z, False
            ),
            "The prior's scale cancels in the ratio of the two scales.": lambda m, i, z: kl2(
                m, i, z, True, False
            ),
            "This is the KL term to N(0, I). The prior of z2 is N(prior(z1), "
            "prior_scale^2).": lambda m, i, z: densities.kl_normal_standard(
                second(m, i, z)[2] + second(m, i, z)[0], second(m, i, z)[3] * second(m, i, z)[1]
            ),
            "The mean prior(z1) cancels. Only the difference loc2 is left.": lambda m, i, z: (
                densities.kl_normal_standard(
                    (second(m, i, z)[2] + second(m, i, z)[0]) / second(m, i, z)[3], second(m, i, z)[1]
                )
            ),
            REVERSED: lambda m, i, z: densities.kl_normals(
                second(m, i, z)[2],
                second(m, i, z)[3],
                second(m, i, z)[2] + second(m, i, z)[0],
                second(m, i, z)[3] * second(m, i, z)[1],
            ),
            "The prior of z2 is not N(0, I): it depends on z1.": lambda m, i, z: (
                log_q2(m, i, z) - standard(z["z2"])
            ),
            "The log density of the prior is missing.": log_q2,
        },
    }
    yield from guide_rows(given, real())
    yield from bound_rows(given, {"x": real()}, mistakes, {**SIZES, "dimensions of z1": 2})


def grid_row(given: Any) -> Row:
    """Returns the row of a grid with 5 levels per dimension, against `FSQ`."""
    e = (2 * torch.rand(7, 4) - 1).requires_grad_()
    grid = FSQ((5, 5, 5, 5)).double()
    return row(
        "grid",
        given.on_a_grid,
        (e,),
        lambda e: e + (grid(e[..., None, None]).flatten(1) - e).detach(),
        {
            "The value of z is a level. You gave e, which is not rounded.": lambda e: e,
            "The levels are half a unit apart. You rounded to whole numbers.": lambda e: e.round(),
            "You rounded 2 e, but did not divide by 2 again.": lambda e: (2 * e).round(),
            "You rounded down. The nearest level is needed.": lambda e: (2 * e).floor() / 2,
            "The highest level is 1, so 5 levels are 1/2 apart, not 2/5.": lambda e: (2.5 * e).round() / 2.5,
        },
    )


@exercise("12", "the VQ-VAE", "12-vq-vae.md", "straight_through", "on_a_grid", "bound")
def vq_vae(given: Any) -> Iterator[Row]:
    """The straight-through estimator, the bound and two penalties."""
    e, c = torch.randn(7, 4).requires_grad_(), torch.randn(7, 4).requires_grad_()
    yield row(
        "straight-through",
        given.straight_through,
        (e, c),
        lambda e, c: e + (c - e).detach(),
        {"The value of z is c, the entry. The decoder never sees e.": lambda e, c: e},
    )
    yield grid_row(given)

    def error(m: Any, i: Any, z: Any) -> Tensor:
        return (i["x"] - m.decoder(z["z"].flatten(-3))) ** 2

    def distance(m: Any, i: Any) -> Tensor:
        e = m.encode_map(i["x"])
        return (m.codebook(e) - e) ** 2

    def kl(value: float) -> Any:
        return lambda m, i, z: torch.full((7,), value)

    penalty = {
        "This is a sum, and the mean over batch, dimensions and positions is needed.": lambda m, i, z: (
            distance(m, i).sum()
        ),
        "Sum over nothing: take the mean over the dimensions too.": lambda m, i, z: (
            distance(m, i).sum(1).mean()
        ),
    }
    mistakes = {
        "reconstruction": {
            "Look at the variance 1 / (2 pi): the squared error is divided by twice the "
            "variance.": lambda m, i, z: error(m, i, z).sum(-1),
            "1 / (2 pi) is the variance, not the standard deviation.": lambda m, i, z: (
                2 * math.pi**2 * error(m, i, z).sum(-1) + 6 * math.log((2 * math.pi) ** -0.5)
            ),
            "The constant is zero at this variance. You added one.": lambda m, i, z: (
                math.pi * error(m, i, z).sum(-1) + 3 * math.log(2 * math.pi)
            ),
        },
        "kl_z": {
            "There are 2 x 3 positions, and each has its own code.": kl(math.log(8)),
            "A code has one of K values, whatever the dimension of an entry.": kl(4 * 2 * 3 * math.log(8)),
            "KL is positive: the guide has entropy zero.": kl(-6 * math.log(8)),
            "The guide is certain, but its KL term is not zero. What is the prior probability of "
            "its codes?": kl(0.0),
            "You used bits (log2). The terms are in nats.": kl(6 * math.log2(8)),
        },
        "codebook": penalty,
        "commitment": penalty,
    }
    yield from bound_rows(given, {"x": real()}, mistakes, SIZES)
