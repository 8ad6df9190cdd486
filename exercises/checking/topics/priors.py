"""Exercises 32 and 33: two stochastic layers, and the VampPrior."""

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from exercises.checking.bounds import answered, bound_rows, term_of
from exercises.checking.rows import Row, row
from exercises.checking.run import exercise
from exercises.checking.topics.bounds import GUIDE, PRIOR, SIZES, head, real, standard
from exercises.checking.topics.densities import REVERSED, VARIANCE
from inference.elbo.traces import terms_per_point
from ppl_models import densities
from ppl_models.distributions import MixtureOfNormals
from ppl_models.nets.heads import loc_scale

CONDITIONAL = (
    "KL(q(z1 | x) || p(z1 | z2)) at the sampled z2 has the wrong mean: z2 depends on z1. Use the sample z1."
)


def layer1(m: Any, i: Any, z: Any) -> tuple[Tensor, Tensor]:
    """Returns log q(z1 | x) and log p(z1 | z2)."""
    prior = densities.normal(z["z1"], *loc_scale(m.prior_net(z["z2"])))
    return densities.normal(z["z1"], *loc_scale(m.encoder1(i["x"]))), prior


def layer2(m: Any, z: Any) -> tuple[Tensor, Tensor]:
    """Returns loc and scale of q(z2 | z1)."""
    return loc_scale(m.encoder2(z["z1"]))


TWO_LAYERS = {
    "reconstruction": {
        "The decoder needs the sample z1, not loc1.": lambda m, i, z: (
            -densities.normal(i["x"], m.decoder(loc_scale(m.encoder1(i["x"]))[0]), 1.0)
        ),
    },
    "kl_z1": {
        CONDITIONAL: lambda m, i, z: densities.kl_normals(
            *loc_scale(m.encoder1(i["x"])), *loc_scale(m.prior_net(z["z2"]))
        ),
        "The prior of z1 is not N(0, I): it depends on z2.": lambda m, i, z: (
            layer1(m, i, z)[0] - standard(z["z1"])
        ),
        PRIOR: lambda m, i, z: layer1(m, i, z)[0],
        GUIDE: lambda m, i, z: -layer1(m, i, z)[1],
        "This is the KL term to N(0, I). The prior of z1 is p(z1 | z2).": lambda m, i, z: (
            densities.kl_normal_standard(*loc_scale(m.encoder1(i["x"])))
        ),
    },
    "kl_z2": {
        VARIANCE: lambda m, i, z: (
            densities.normal(z["z2"], layer2(m, z)[0], layer2(m, z)[1] ** 2) - standard(z["z2"])
        ),
        PRIOR: lambda m, i, z: densities.normal(z["z2"], *layer2(m, z)),
        GUIDE: lambda m, i, z: -standard(z["z2"]),
    },
}


@exercise("32", "two stochastic layers", "26-two-stochastic-layers.md", "bound")
def two_layers(given: Any) -> Iterator[Row]:
    """The bound against Pyro's sites, with the sample and with the closed form of z2 alone."""
    inputs = {"x": real()}
    yield from bound_rows(given, inputs, TWO_LAYERS, {"dimensions of x": 6})
    model = answered(given, "bound")
    torch.manual_seed(1)
    guide = poutine.trace(model.guide).get_trace(**inputs)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(**inputs)
    z = {name: guide.nodes[name]["value"] for name in ("z1", "z2")}
    sampled = terms_per_point(trace, guide, "sampled")
    loc, scale = layer2(model, z)
    closed = kl_divergence(guide.nodes["z2"]["fn"], dist.Normal(torch.zeros_like(loc), 1.0).to_event(1))
    conditional = TWO_LAYERS["kl_z1"][CONDITIONAL](model, inputs, z)
    yield Row(
        "kl_z1 (closed)",
        term_of(model, inputs, z, "closed", "kl_z1"),
        lambda: sampled["kl_z1"],
        list(model.parameters()),
        {CONDITIONAL: lambda: conditional},
    )
    yield Row(
        "kl_z2 (closed)",
        term_of(model, inputs, z, "closed", "kl_z2"),
        lambda: closed,
        list(model.parameters()),
        {
            'kl="closed" asks for the closed form of the KL divergence. You used the sample z2.': lambda: (
                sampled["kl_z2"]
            ),
            VARIANCE: lambda: densities.kl_normal_standard(loc, scale**2),
            REVERSED: lambda: densities.kl_normals(0 * loc, 0 * scale + 1, loc, scale),
        },
    )


@exercise("33", "the VampPrior", "27-vampprior.md", "bound", "shares", "largest_kl")
def vampprior(given: Any) -> Iterator[Row]:
    """A VAE whose prior is the guide at five pseudo-inputs, and two properties of this prior."""

    def log_q(m: Any, i: Any, z: Any) -> Tensor:
        return densities.normal(z["z"], *head(m, i["x"]))

    def each(m: Any, z: Any) -> Tensor:
        return densities.normal(z["z"][:, None], *head(m, m.pseudo_inputs))

    kl_z = {
        "This is a mean of log densities. The mean of the densities must be inside the "
        "logarithm.": lambda m, i, z: log_q(m, i, z) - each(m, z).mean(-1),
        "The weights 1/5 of the pseudo-inputs are missing.": lambda m, i, z: (
            log_q(m, i, z) - each(m, z).logsumexp(-1)
        ),
        "log 5 has the wrong sign. Five components of weight 1/5 have the density of their "
        "mean.": lambda m, i, z: log_q(m, i, z) - each(m, z).logsumexp(-1) - math.log(5),
        "You took only the nearest pseudo-input.": lambda m, i, z: (
            log_q(m, i, z) - each(m, z).amax(-1) + math.log(5)
        ),
        "This is the guide at the mean pseudo-input. The prior is the mean of the guides.": lambda m, i, z: (
            log_q(m, i, z) - densities.normal(z["z"], *head(m, m.pseudo_inputs.mean(0)))
        ),
        "This is the KL term of a standard normal prior. The prior is the mixture.": lambda m, i, z: (
            log_q(m, i, z) - standard(z["z"])
        ),
        PRIOR: log_q,
        GUIDE: lambda m, i, z: math.log(5) - each(m, z).logsumexp(-1),
    }
    yield from bound_rows(given, {"x": real()}, {"kl_z": kl_z}, SIZES)
    yield from properties(given)


def properties(given: Any) -> Iterator[Row]:
    """Yields the rows of the shares, against autograd, and of the largest KL term, at distant components."""
    far = (torch.randn(7, 5) - 1000).requires_grad_()

    def derivative(each: Tensor) -> Tensor:
        log_p = ((each + 1000).exp().mean(-1).log() - 1000).sum()
        return torch.autograd.grad(log_p, each, create_graph=True)[0]

    yield row(
        "shares",
        given.shares,
        (far,),
        derivative,
        {
            "The shares of a data point sum to one over the pseudo-inputs, the last axis.": lambda each: (
                each.softmax(0)
            ),
            "This is the logarithm of the shares.": lambda each: each.log_softmax(-1),
            "All pseudo-inputs have the same share. A share depends on z.": lambda each: torch.full(
                (7, 5), 0.2
            ),
        },
    )

    def at_distant_components(j: int) -> Tensor:
        loc = 100.0 * torch.arange(j)[:, None]
        return standard(loc[0] - loc[0]) - MixtureOfNormals(loc, torch.ones(j, 1)).log_prob(loc[0])

    yield Row(
        "largest KL, 8 pseudo-inputs",
        lambda: given.largest_kl(8),
        lambda: at_distant_components(8),
        (),
        {
            "p(z) is at least q(z | x) / J. The KL term is a logarithm of the ratio.": lambda: torch.tensor(
                8.0
            ),
            "This is in bits. The KL term is in nats.": lambda: torch.tensor(3.0),
            "p(z) is at least q(z | x) / J, but it is not q(z | x) itself.": lambda: torch.tensor(0.0),
        },
    )
