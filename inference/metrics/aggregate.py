"""The aggregate posterior of a set of images: its mismatch with the prior, and the information in z."""

import math
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from inference.backend.device import rng_state_preserved
from inference.data.held_out import HeldOut
from inference.elbo.traces import latent_sites
from inference.metrics.bounds import summary
from inference.metrics.importance import bytes_per_sample
from ppl_models.base import LatentVariableModel

SAMPLES = 4  # of the latents per image
MEMORY = 2**28  # approximate working memory, bytes


class Aggregate(NamedTuple):
    """The decomposition of the KL term, and its parts by dimension.

    Attributes:
        metrics: `kl`, `mutual_information`, `aggregate_kl`, and for new images `mutual_information_upper`,
            `aggregate_kl_lower` and, if it exists, `aggregate_kl_marginals`, in nats per image.
        kl_of_dimensions: the mean KL term of each dimension by name of the latent, (d,), as far as prior and
            guide are products over the dimensions.
    """

    metrics: dict[str, dict[str, float]]
    kl_of_dimensions: dict[str, Tensor]


@torch.no_grad()
@rng_state_preserved()
def aggregate_posterior(model: LatentVariableModel, test: HeldOut) -> Aggregate:
    """Splits the mean KL term into a mutual information and the mismatch of the aggregate posterior.

    Of N images the aggregate posterior is q(z) = 1/N sum_n q(z | x_n), and

        1/N sum_n KL(q(z | x_n) || p(z)) = I(n; z) + KL(q(z) || p(z)).

    Both parts are means over samples z of q(z | x_n), so that the samples are the only error. For the
    population that the images are from, I is too small, at most log N, and the KL divergence too large.
    Without the component of its own image q(z) errs to the other side: `mutual_information_upper` is too
    large and `aggregate_kl_lower` too small, in the mean. z are all latents together, labels among them. For
    a single latent with a prior that is a product, `aggregate_kl_marginals` is the sum over dimensions of
    KL(q(z_j) || p(z_j)), another lower bound of KL(q(z) || p(z)), which is also a little too small.

    Hoffman and Johnson 2016, ELBO Surgery; for the bounds, Poole, Ozair, van den Oord, Alemi and Tucker 2019,
    On Variational Bounds of Mutual Information (arXiv 1905.06922).

    Args:
        model: the model, in evaluation mode. The RNG state is preserved.
        test: two images or more.
    """
    torch.manual_seed(0)
    size = max(MEMORY // (SAMPLES * bytes_per_sample(model, test)), 1)
    with pyro.validation_enabled(False):
        chunks = [_sample(model, inputs) for inputs, _, _ in test.chunks(size)]
        log_q, log_p = (torch.cat(parts, dim=1) for parts in list(zip(*chunks, strict=True))[:2])
        latents = {name: torch.cat([c.latents[name] for c in chunks], dim=1) for name in chunks[0].latents}
        inputs, _, _ = next(test.chunks(len(test)))
        mixture = _log_aggregate(model, test, inputs, latents)
    values = {
        "kl": log_q - log_p,
        "mutual_information": log_q - mixture.every,
        "aggregate_kl": mixture.every - log_p,
        "mutual_information_upper": log_q - mixture.without,
        "aggregate_kl_lower": mixture.without - log_p,
    }
    priors = [chunk.prior_terms for chunk in chunks if chunk.prior_terms is not None]
    if mixture.marginals is not None and priors:
        values["aggregate_kl_marginals"] = (mixture.marginals - torch.cat(priors, dim=1)).sum(-1)
    dimensions = {name: torch.cat([c.kl_terms[name] for c in chunks]).mean(0) for name in chunks[0].kl_terms}
    return Aggregate({name: summary(value) for name, value in values.items()}, dimensions)


class _Chunk(NamedTuple):
    """Samples of the latents of a chunk of the images, of shape (samples, chunk, ...).

    Attributes:
        log_q: log q(z | x) of its own image.
        log_p: log p(z).
        latents: by name.
        kl_terms: KL terms of single dimensions by name of the latent, (chunk, d), as far as they exist.
        prior_terms: log p(z_j) of single dimensions, (samples, chunk, d), if the prior is a product and the
            same for all images; else None.
    """

    log_q: Tensor
    log_p: Tensor
    latents: dict[str, Tensor]
    kl_terms: dict[str, Tensor]
    prior_terms: Tensor | None


def _sample(model: LatentVariableModel, inputs: dict[str, Tensor]) -> _Chunk:
    """Samples the latents of a chunk of the images."""
    with poutine.trace() as q, _plate(SAMPLES):
        model.guide(**inputs)
    with poutine.trace() as p, _plate(SAMPLES), poutine.replay(trace=q.trace):
        model.model(**inputs)
    sites, priors = latent_sites(q.trace), p.trace.nodes
    log_q, log_p = (
        sum(of[name]["fn"].log_prob(of[name]["value"]).double().cpu() for name in sites)
        for of in (q.trace.nodes, priors)
    )
    terms = {name: _kl_terms(site, priors[name]["fn"], model) for name, site in sites.items()}
    latents = {name: site["value"] for name, site in sites.items()}
    known = {name: term for name, term in terms.items() if term is not None}
    prior = _factors(priors[next(iter(sites))]["fn"]) if len(sites) == 1 else None
    prior_terms = prior.log_prob(*latents.values()).double().flatten(2).cpu() if prior else None
    return _Chunk(log_q, log_p, latents, known, prior_terms)


def _plate(particles: int) -> pyro.plate:
    return pyro.plate("particles", particles, dim=-2)


class _Mixture(NamedTuple):
    """log q(z) of samples, (samples, images, ...), in float64 on the CPU.

    Attributes:
        every: with all images as components.
        without: without the component of its own image.
        marginals: log q(z_j) of each dimension without the own image, (samples, images, d), if there is a
            single latent and its guide is a product; else None.
    """

    every: Tensor
    without: Tensor
    marginals: Tensor | None


def _log_aggregate(
    model: LatentVariableModel, test: HeldOut, inputs: dict[str, Tensor], latents: dict[str, Tensor]
) -> _Mixture:
    """Computes the aggregate posterior at samples of the latents.

    Args:
        model: the model.
        test: the images.
        inputs: all of them as the model's inputs, (n, ...).
        latents: samples by name, (samples, n, *event).
    """
    n = len(inputs["x"])
    single = next(iter(model.posterior(**inputs).values())) if len(latents) == 1 else None
    factors = _factors(single) if single else None
    flat = {name: z.flatten(0, 1) for name, z in latents.items()}
    size = 32 * sum(z[0].numel() for z in flat.values()) if single else bytes_per_sample(model, test)
    rows = torch.arange(SAMPLES * n, device=inputs["x"].device)
    found: list[list[Tensor]] = []
    for some in rows.split(max(MEMORY // (size * n), 1)):
        part, own = {name: z[some] for name, z in flat.items()}, (some - some[0], some % n)
        if factors:
            terms = factors.log_prob(*(z[:, None] for z in part.values())).double().flatten(2)
            log_q = terms.sum(-1)  # (rows, n)
            marginals = [_log_mean_of_others(terms, own)]
        else:
            marginals = []
            if single:
                log_q = single.log_prob(*(z[:, None] for z in part.values())).double()
            else:
                log_q = _log_guide(model, inputs, part)
        every = log_q.logsumexp(1) - math.log(n)
        found.append([every, _log_mean_of_others(log_q, own), *marginals])
    joined = [torch.cat(parts).unflatten(0, (SAMPLES, n)).cpu() for parts in zip(*found, strict=True)]
    return _Mixture(joined[0], joined[1], joined[2] if factors else None)


def _log_mean_of_others(log_q: Tensor, own: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the log of the mean of exp(log_q) over dimension 1 without the entries at `own`, in place."""
    log_q[own] = -math.inf
    return log_q.logsumexp(1) - math.log(log_q.shape[1] - 1)


def _log_guide(model: LatentVariableModel, inputs: dict[str, Tensor], latents: dict[str, Tensor]) -> Tensor:
    """Returns log q(z | x) of each z with each x, (rows, n): the guide runs with given latents."""
    n, rows = len(inputs["x"]), len(next(iter(latents.values())))
    given = {name: z[:, None].expand(rows, n, *z.shape[1:]) for name, z in latents.items()}
    with poutine.trace() as q, _plate(rows), poutine.condition(data=given):
        model.guide(**inputs)
    sites = (q.trace.nodes[name] for name in given)
    return sum(site["fn"].log_prob(site["value"]).double() for site in sites)


def _kl_terms(site: dict[str, Any], prior: Distribution, model: LatentVariableModel) -> Tensor | None:
    """Returns the KL term of each dimension of a latent, (chunk, d); None if prior or guide is not a product.

    The closed form is used where it is valid, which is where the guide samples in the model's order.
    """
    q, p = _factors(site["fn"]), _factors(prior)
    if q is None or p is None:
        return None
    z = site["value"]
    terms = kl_divergence(q, p) if "mean_field" in model.estimators else q.log_prob(z) - p.log_prob(z)
    return terms.expand_as(z).double().mean(0).flatten(1).cpu()


def _factors(fn: Distribution) -> Distribution | None:
    """Returns the independent normals that a distribution is a product of, or None."""
    return (
        fn.base_dist if isinstance(fn, dist.Independent) and isinstance(fn.base_dist, dist.Normal) else None
    )
