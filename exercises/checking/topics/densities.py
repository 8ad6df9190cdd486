"""Exercises 1 to 3: densities without latents, KL divergences and changes of variables."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from ppl_models.nets.masked import MaskedMLP

REVERSED = "You exchanged the two distributions. The expectation is under the first one, q."
VARIANCE = (
    "You used a standard deviation as a variance, or a variance as a standard deviation. Look at each square."
)
NO_LOG_DET = "The log-determinant of the Jacobian is missing."
WRONG_LOG_DET = (
    "The log-determinant has the wrong sign. Is it the Jacobian of the map to the noise, or of its inverse?"
)


def leaf(*shape: int) -> Tensor:
    """Returns a random tensor that requires a gradient."""
    return torch.randn(*shape).requires_grad_()


def positive(*shape: int) -> Tensor:
    """Returns a random tensor between 0.5 and 2 that requires a gradient."""
    return (0.5 + 1.5 * torch.rand(*shape)).requires_grad_()


@exercise(
    "01",
    "the chain rule and MADE",
    "01-chain-rule-and-made.md",
    "hidden_mask",
    "output_mask",
    "log_density",
    "log_mixture",
)
def made(given: Any) -> Iterator[Row]:
    """The masks against `MaskedMLP`, the densities against torch."""
    yield from mask_rows(given)
    x, logits = torch.randint(2, (7, 4)).double(), leaf(7, 4)
    yield row(
        "log p(x)",
        given.log_density,
        (x, logits),
        lambda x, logits: Bernoulli(logits=logits).log_prob(x).sum(-1),
        {
            "You exchanged the pixels 0 and 1.": lambda x, logits: (
                Bernoulli(logits=-logits).log_prob(x).sum(-1)
            ),
            "You gave p(x), and log p(x) is needed.": lambda x, logits: (
                Bernoulli(logits=logits).log_prob(x).sum(-1).exp()
            ),
            "You left out the pixels that are 0. Both values have a probability.": lambda x, logits: (
                x * Bernoulli(logits=logits).log_prob(x)
            ).sum(-1),
            "The normaliser log(1 + exp(logit)) is missing.": lambda x, logits: (x * logits).sum(-1),
        },
        {"pixels": 4},
    )
    each = leaf(3, 7)
    yield row(
        "log p(x), 3 orderings",
        given.log_mixture,
        (each,),
        lambda each: each.exp().mean(0).log(),
        {
            "This is a mean of logarithms. The mean of the densities must be inside the "
            "logarithm.": lambda each: each.mean(0),
            "You reduced over the wrong axis: the orderings are the first axis.": lambda each: (
                each.exp().mean(1).log()
            ),
        },
    )


def mask_rows(given: Any) -> Iterator[Row]:
    """Yields the rows of the two masks, against `MaskedMLP`."""
    network = MaskedMLP(4, [9], random_order=True)
    units = network.degrees()
    for term, answer, mask, (a, b) in zip(
        ("hidden mask", "output mask"),
        (given.hidden_mask, given.output_mask),
        network.connections(),
        (units[:2], units[1:]),
        strict=True,
    ):
        yield row(
            term,
            answer,
            (a, b),
            lambda a, b, mask=mask: mask,
            {
                "An equal number is treated wrongly. May a unit see an input of its own number? "
                "Read the rule "
                "for this layer again.": lambda a, b, last=term == "output mask": (
                    (b[:, None] >= a) if last else (b[:, None] > a)
                ).double(),
                "The comparison is reversed: information flows from a lower to a higher "
                "number.": lambda a, b: (b[:, None] <= a).double(),
                "The comparison is reversed: information flows only from a lower to a higher "
                "number.": lambda a, b: (b[:, None] < a).double(),
            },
        )


@exercise(
    "02",
    "KL divergences between Gaussians",
    "02-kl-between-gaussians.md",
    "kl_standard",
    "kl_normals",
    "kl_full",
)
def gaussians(given: Any) -> Iterator[Row]:
    """The three KL divergences against torch's `kl_divergence`."""
    loc, scale, loc2, scale2 = leaf(7, 3), positive(7, 3), leaf(7, 3), positive(7, 3)

    def kl(loc: Tensor, scale: Tensor, loc2: Any = 0.0, scale2: Any = 1.0) -> Tensor:
        return kl_divergence(Normal(loc, scale), Normal(torch.as_tensor(loc2), torch.as_tensor(scale2))).sum(
            -1
        )

    zero, one = torch.zeros(()), torch.ones(())
    yield row(
        "KL to N(0, I)",
        given.kl_standard,
        (loc, scale),
        kl,
        {
            REVERSED: lambda loc, scale: kl(zero, one, loc, scale),
            VARIANCE: lambda loc, scale: kl(loc, scale.sqrt()),
            "log scale^2 is 2 log scale. Your factor is wrong.": lambda loc, scale: (
                kl(loc, scale) + scale.log().sum(-1) / 2
            ),
            "The square of loc is missing.": lambda loc, scale: kl(0 * loc, scale),
            "The -1 stands inside the sum: there is one for each dimension.": lambda loc, scale: (
                kl(loc, scale) + 1.0
            ),
        },
        {"dimensions": 3},
    )
    yield row(
        "KL, general",
        given.kl_normals,
        (loc, scale, loc2, scale2),
        kl,
        {
            REVERSED: lambda a, b, c, d: kl(c, d, a, b),
            VARIANCE: lambda a, b, c, d: kl(a, b.sqrt(), c, d.sqrt()),
            "The logarithm of the scales has the wrong sign.": lambda a, b, c, d: (
                kl(a, b, c, d) - 2 * (d / b).log().sum(-1)
            ),
        },
        {"dimensions": 3},
    )
    yield full_row(given, loc)


def full_row(given: Any, loc: Tensor) -> Row:
    """Returns the row of the KL divergence with a full covariance."""
    factor = (0.3 * torch.randn(3, 3).tril(-1) + torch.diag(0.5 + torch.rand(3))).requires_grad_()

    def full(loc: Tensor, tril: Tensor) -> Tensor:
        standard = MultivariateNormal(torch.zeros(3), torch.eye(3))
        return kl_divergence(MultivariateNormal(loc, scale_tril=tril), standard)

    def trace(tril: Tensor) -> Tensor:
        return (tril**2).sum() / 2

    return row(
        "KL, full covariance",
        given.kl_full,
        (loc, factor),
        full,
        {
            "tr(L L^T) is not the trace of L. It is the sum of all squares of L.": lambda loc, tril: (
                full(loc, tril) - trace(tril) + tril.trace() / 2
            ),
            "Only the diagonal of L is squared. tr(L L^T) has all elements of L.": lambda loc, tril: (
                full(loc, tril) - trace(tril) + trace(tril.diagonal())
            ),
            "The log-determinant is missing.": lambda loc, tril: (
                full(loc, tril) + tril.diagonal().log().sum()
            ),
            "The log-determinant has the wrong sign.": lambda loc, tril: (
                full(loc, tril) + 2 * tril.diagonal().log().sum()
            ),
            "The factor 1/2 also belongs to -d.": lambda loc, tril: full(loc, tril) - 1.5,
        },
    )


@exercise("03", "change of variables", "03-change-of-variables.md", "shift_and_scale", "linear", "coupling")
def change_of_variables(given: Any) -> Iterator[Row]:
    """Each log density against the Jacobian that autograd returns."""
    x, b, s, v = leaf(7, 2), leaf(2), positive(2), leaf(2)
    a = torch.tensor([[0.3, 1.2], [0.9, -0.4]]).requires_grad_()  # its determinant is negative

    def noise(e: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(e).sum(-1)

    maps = {
        "shift and scale": (given.shift_and_scale, (x, b, s), lambda x, b, s: (x - b) / s),
        "linear map": (given.linear, (x, a), lambda x, a: x @ a.T),
        "coupling": (
            given.coupling,
            (x, v),
            lambda x, v: torch.stack(
                [x[..., 0], x[..., 1] * (v[0] * x[..., 0]).exp() + v[1] * x[..., 0]], -1
            ),
        ),
    }
    for term, (answer, inputs, f) in maps.items():

        def log_det(x: Tensor, *rest: Tensor, f: Any = f) -> Tensor:
            columns = f(x, *rest).unbind(-1)
            rows = [torch.autograd.grad(column.sum(), x, create_graph=True)[0] for column in columns]
            return torch.stack(rows, -2).det().abs().log()

        def base(x: Tensor, *rest: Tensor, f: Any = f) -> Tensor:
            return noise(f(x, *rest))

        yield row(
            term,
            answer,
            inputs,
            lambda *p, base=base, log_det=log_det: base(*p) + log_det(*p),
            {
                NO_LOG_DET: base,
                WRONG_LOG_DET: lambda *p, base=base, log_det=log_det: base(*p) - log_det(*p),
                "The determinant stands without its logarithm.": lambda *p, base=base, log_det=log_det: (
                    base(*p) + log_det(*p).exp()
                ),
                "The constant 1/2 log(2 pi) belongs to each "
                "dimension.": lambda *p, base=base, log_det=log_det: (
                    base(*p) + log_det(*p) + 0.5 * math.log(2 * math.pi)
                ),
            },
            {"dimensions": 2},
        )
