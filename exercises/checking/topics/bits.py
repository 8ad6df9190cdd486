"""Exercise 15: bits per dimension, and dequantisation."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.densities import leaf
from inference.data.observations import dequantize
from ppl_models.gated_vae import with_bits_per_dim

VALUES = 12  # D


def scaled(bound: Tensor, constant: float) -> Tensor:
    """Returns bits per dimension with another constant of the scale."""
    return bound / (VALUES * math.log(2)) + constant


@exercise(
    "15",
    "bits per dimension, and dequantisation",
    "15-bits-per-dimension.md",
    "dequantise",
    "bits_per_dimension",
    "bits_of_scale",
    "bits_of_terms",
)
def bits(given: Any) -> Iterator[Row]:
    """The suite's dequantisation and its bits per dimension."""
    yield dequantised(given)
    yield nats_to_bits(given)
    bound = leaf(7)

    yield row(
        "bits, other width",
        lambda bound: given.bits_of_scale(bound, VALUES, 6.0),
        (bound,),
        lambda bound: in_bits(bound + VALUES * math.log(2 / 6)),  # the density of 3 x
        {
            "The constant is that of the scale from -1 to 1. It depends on the width.": lambda bound: scaled(
                bound, 7
            ),
            "The constant is that of the scale from 0 to 1. It depends on the width.": lambda bound: scaled(
                bound, 8
            ),
            "The width is in the wrong place: a wider scale has a smaller density.": lambda bound: scaled(
                bound, math.log2(256 * 6)
            ),
            "The constant is in nats. Use log2.": lambda bound: scaled(bound, math.log(256 / 6)),
            "There are 256 levels, not 255.": lambda bound: scaled(bound, math.log2(255 / 6)),
        },
    )
    terms = leaf(7), leaf(7)
    yield row(
        "bits of two terms",
        lambda a, b: given.bits_of_terms(a, b, VALUES),
        terms,
        lambda a, b: in_bits(a, b),
        {
            "The KL term is still in nats. -ELBO is divided by D log 2 as a whole.": lambda a, b: (
                in_bits(a) + b
            ),
            "The KL term is still per image. It is divided by D too.": lambda a, b: (
                in_bits(a) + b / math.log(2)
            ),
            "The KL term is missing. It is a part of the bound.": lambda a, b: in_bits(a),
            "The KL term is added to the reconstruction, not subtracted.": lambda a, b: in_bits(a, -b),
            "The constant of the scale is counted twice.": lambda a, b: in_bits(a, b) + 7,
            "The constant of the scale is missing.": lambda a, b: in_bits(a, b) - 7,
        },
    )


def in_bits(reconstruction: Tensor, kl: Tensor | None = None) -> Tensor:
    """Returns the bits per dimension that the suite reports for two terms in nats."""
    kl = torch.zeros_like(reconstruction) if kl is None else kl
    return with_bits_per_dim(reconstruction, kl, VALUES).metrics["bits_per_dim"]


def dequantised(given: Any) -> Row:
    """Returns the row of `dequantise`, against the suite's with the same noise."""
    level = torch.randint(256, (7, VALUES)).double()
    torch.manual_seed(1)
    noise = torch.rand(7, VALUES)

    def truth(level: Tensor, noise: Tensor) -> Tensor:
        torch.manual_seed(1)
        return dequantize(level)

    return row(
        "dequantise",
        given.dequantise,
        (level, noise),
        truth,
        {
            "256 levels of width 1 fill an interval of 256. With your divisor they fill more than [-1, 1].": (
                lambda k, a: (k + a) / 127.5 - 1
            ),
            "Your scale is from 0 to 1, and -1 to 1 is needed.": lambda k, a: (k + a) / 256,
            "The noise is missing.": lambda k, a: k / 128 - 1,
            "The noise must be as wide as a level: add it before the division.": lambda k, a: k / 128 - 1 + a,
            "The noise is only half as wide as a level.": lambda k, a: (k + a / 2) / 128 - 1,
            "x must begin at -1: subtract 1.": lambda k, a: (k + a) / 128,
        },
    )


def nats_to_bits(given: Any) -> Row:
    """Returns the row of `bits_per_dimension`."""
    bound = leaf(7)

    return row(
        "bits per dimension",
        lambda bound: given.bits_per_dimension(bound, VALUES),
        (bound,),
        in_bits,
        {
            "A level on this scale is not 1/127.5 wide. Is the constant that of your scale?": lambda bound: (
                scaled(bound, math.log2(127.5))
            ),
            "The constant of the scale is missing: this is a density of x, not a probability of levels.": (
                lambda bound: scaled(bound, 0)
            ),
            "The constant has the wrong sign.": lambda bound: scaled(bound, -7),
            "This is the constant of the scale from 0 to 1. Here a level is 1/128 wide.": lambda bound: (
                scaled(bound, 8)
            ),
            "This is still in nats: divide by log 2.": lambda bound: bound / VALUES + 7,
            "Divide by the number of values D.": lambda bound: bound / math.log(2) + 7,
            "From nats to bits you divide by log 2, you do not multiply.": lambda bound: (
                bound * math.log(2) / VALUES + 7
            ),
        },
    )
