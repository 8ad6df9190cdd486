"""Exercises 17 to 22: find the bug. The hint of the bug itself names the symptom, not the correction."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from exercises.checking.bounds import bound_rows
from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.bits import dequantised, nats_to_bits
from exercises.checking.topics.bounds import KL_Z, SIZES, binary, log_weight_row, real, standard
from exercises.checking.topics.densities import REVERSED, WRONG_LOG_DET, leaf, positive
from ppl_models import densities


@exercise("17", "find the bug in a VAE", "02-kl-between-gaussians.md", "bound")
def vae(given: Any) -> Iterator[Row]:
    """The KL divergence is reversed."""
    symptom = "Let the scale go to 0. The true KL term grows like -log(scale). How fast does yours grow?"
    kl_z = {symptom: KL_Z[REVERSED], **{hint: wrong for hint, wrong in KL_Z.items() if hint != REVERSED}}
    yield from bound_rows(given, {"x": binary()}, {"kl_z": kl_z}, SIZES)


@exercise(
    "18", "find the bug in an importance-weighted VAE", "06-importance-weighted-bound.md", "log_weights"
)
def iwae(given: Any) -> Iterator[Row]:
    """The closed form of the KL divergence is in a weight."""
    yield log_weight_row(given, "Which parts of a weight depend on the sample z? Which parts of yours do?")


@exercise("19", "find the bug in the bound of a network's head", "02-kl-between-gaussians.md", "bound")
def scale(given: Any) -> Iterator[Row]:
    """The softplus of a variance is taken as a scale."""

    def kl(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return densities.normal(z, loc, scale) - standard(z)

    def parts(m: Any, i: Any) -> tuple[Tensor, Tensor]:
        loc, raw = m.encoder(i["x"]).chunk(2, dim=-1)
        return loc, raw

    kl_z = {
        "The head gives a variance. What does densities.normal take?": lambda m, i, z: kl(
            z["z"], parts(m, i)[0], softplus(parts(m, i)[1]) + 1e-8
        ),
        "The root is right, but you squared again: look at the guide.": lambda m, i, z: kl(
            z["z"], parts(m, i)[0], (softplus(parts(m, i)[1]) + 1e-8) ** 2
        ),
        "This head is not exp: look at the guide.": lambda m, i, z: kl(
            z["z"], parts(m, i)[0], parts(m, i)[1].exp()
        ),
        "This head is not exp of half the raw value: look at the guide.": lambda m, i, z: kl(
            z["z"], parts(m, i)[0], (0.5 * parts(m, i)[1]).exp()
        ),
        "The guide adds 1e-8 to the variance. It belongs inside the root.": lambda m, i, z: kl(
            z["z"], parts(m, i)[0], softplus(parts(m, i)[1]).sqrt() + 1e-8
        ),
        "The guide adds 1e-8 to the variance. Add it too.": lambda m, i, z: kl(
            z["z"], parts(m, i)[0], softplus(parts(m, i)[1]).sqrt()
        ),
    }
    yield from bound_rows(given, {"x": binary()}, {"kl_z": kl_z}, SIZES)


@exercise("20", "find the bug in a VAE that ignores its latent", "10-beta-as-a-variance.md", "bound")
def reconstruction(given: Any) -> Iterator[Row]:
    """The reconstruction is a mean over the dimensions of x."""
    mistakes = {
        "reconstruction": {
            "Copy each image, so that x has 12 dimensions. -log p(x | z) must double. What does yours do?": (
                lambda m, i, z: -densities.normal(i["x"], m.decoder(z["z"]), 0.1**0.5) / 6
            ),
            "The variance is 1/10: the squared error is divided by twice the variance.": lambda m, i, z: (
                -densities.normal(i["x"], m.decoder(z["z"]), 0.1**0.5)
                - 5 * error(m, i, z)
                + error(m, i, z) / 2
            ),
            "The constant is missing. It is needed for each dimension.": lambda m, i, z: 5 * error(m, i, z),
            "The squared error is divided by twice the variance, which is not squared.": lambda m, i, z: (
                -densities.normal(i["x"], m.decoder(z["z"]), 0.1**0.5) + 45 * error(m, i, z)
            ),
            "1/10 is the variance, and you used it as a standard deviation.": lambda m, i, z: (
                -densities.normal(i["x"], m.decoder(z["z"]), 0.1)
            ),
        },
        "kl_z": KL_Z,
    }
    yield from bound_rows(given, {"x": real()}, mistakes, SIZES)


def error(m: Any, i: Any, z: Any) -> Tensor:
    """Returns the squared error, summed over the dimensions of x."""
    return ((i["x"] - m.decoder(z["z"])) ** 2).sum(-1)


@exercise(
    "21", "find the bug in bits per dimension", "15-bits-per-dimension.md", "dequantise", "bits_per_dimension"
)
def bits(given: Any) -> Iterator[Row]:
    """127.5 instead of 128."""
    yield dequantised(given)
    yield nats_to_bits(given)


@exercise("22", "find the bug in a normalizing flow", "03-change-of-variables.md", "log_density")
def flow(given: Any) -> Iterator[Row]:
    """The log-determinant is missing."""
    x, b, s, v = leaf(7, 2), leaf(2), positive(1), leaf(1)

    def noise(x: Tensor, b: Tensor, s: Tensor, v: Tensor) -> Tensor:
        return torch.stack([(x[:, 0] - b[0]) / s, (x[:, 1] - b[1]) * (v * x[:, 0]).exp()], -1)

    def log_det(*p: Tensor) -> Tensor:
        rows = [torch.autograd.grad(e.sum(), p[0], create_graph=True)[0] for e in noise(*p).unbind(-1)]
        return torch.stack(rows, -2).det().abs().log()

    yield row(
        "log p(x)",
        lambda x, b, s, v: given.log_density(x, b, s[0], v[0]),
        (x, b, s, v),
        lambda *p: standard(noise(*p)) + log_det(*p),
        {
            "What happens to your density if f sends all points near 0? It must still integrate to one.": (
                lambda *p: standard(noise(*p))
            ),
            WRONG_LOG_DET: lambda *p: standard(noise(*p)) - log_det(*p),
            "The second axis is missing in the log-determinant.": lambda x, b, s, v: (
                standard(noise(x, b, s, v)) - s.log()
            ),
            "The first axis is missing in the log-determinant.": lambda x, b, s, v: (
                standard(noise(x, b, s, v)) + v * x[:, 0]
            ),
            "The determinant stands without its logarithm.": lambda *p: (
                standard(noise(*p)) + log_det(*p).exp()
            ),
            "The signs of the two axes are exchanged in the log-determinant.": lambda x, b, s, v: (
                standard(noise(x, b, s, v)) + s.log() + v * x[:, 0]
            ),
        },
    )
