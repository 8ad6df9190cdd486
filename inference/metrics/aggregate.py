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
        metrics: `kl`, `mutual_information`, `aggregate_kl`, and for new images `mutual_information_upper` and
            `aggregate_kl_lower`, in nats per image.
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
    large and `aggregate_kl_lower` too small, in the mean. z are all latents together, labels among them.

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
        with_own, without = _log_aggregate(model, test, inputs, latents)
    values = {
        "kl": log_q - log_p,
        "mutual_information": log_q - with_own,
        "aggregate_kl": with_own - log_p,
        "mutual_information_upper": log_q - without,
        "aggregate_kl_lower": without - log_p,
    }
    dimensions = {name: torch.cat([c.kl_terms[name] for c in chunks]).mean(0) for name in chunks[0].kl_terms}
    return Aggregate({name: summary(value) for name, value in values.items()}, dimensions)


class _Chunk(NamedTuple):
    """Samples of the latents of a chunk of the images, of shape (samples, chunk, ...).

    Attributes:
        log_q: log q(z | x) of its own image.
        log_p: log p(z).
        latents: by name.
        kl_terms: KL terms of single dimensions by name of the latent, (chunk, d), as far as they exist.
    """

    log_q: Tensor
    log_p: Tensor
    latents: dict[str, Tensor]
    kl_terms: dict[str, Tensor]


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
    return _Chunk(log_q, log_p, latents, {name: term for name, term in terms.items() if term is not None})


def _plate(particles: int) -> pyro.plate:
    return pyro.plate("particles", particles, dim=-2)


def _log_aggregate(
    model: LatentVariableModel, test: HeldOut, inputs: dict[str, Tensor], latents: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns log q(z) of each sample, and the same without the component of its own image.

    Args:
        model: the model.
        test: the images.
        inputs: all of them as the model's inputs, (n, ...).
        latents: samples by name, (samples, n, *event).

    Returns:
        Two tensors (samples, n), in float64 on the CPU.
    """
    n = len(inputs["x"])
    single = model.posterior(**inputs) if len(latents) == 1 else None
    flat = {name: z.flatten(0, 1) for name, z in latents.items()}
    size = 32 * sum(z[0].numel() for z in flat.values()) if single else bytes_per_sample(model, test)
    rows = torch.arange(SAMPLES * n, device=inputs["x"].device)
    found: list[Tensor] = []
    for some in rows.split(max(MEMORY // (size * n), 1)):
        part = {name: z[some] for name, z in flat.items()}
        if single:
            ((name, fn),) = single.items()
            log_q = fn.log_prob(part[name][:, None]).double()  # (rows, n)
        else:
            log_q = _log_guide(model, inputs, part)
        every = log_q.logsumexp(1) - math.log(n)
        log_q[some - some[0], some % n] = -math.inf  # of its own image
        found.append(torch.stack([every, log_q.logsumexp(1) - math.log(n - 1)]).cpu())
    with_own, without = torch.cat(found, dim=1).unflatten(1, (SAMPLES, n))
    return with_own, without


def _log_guide(model: LatentVariableModel, inputs: dict[str, Tensor], latents: dict[str, Tensor]) -> Tensor:
    """Returns log q(z | x) of each z with each x, (rows, n): the guide runs with given latents."""
    n, rows = len(inputs["x"]), len(next(iter(latents.values())))
    given = {name: z[:, None].expand(rows, n, *z.shape[1:]) for name, z in latents.items()}
    with poutine.trace() as q, _plate(rows), poutine.condition(data=given):
        model.guide(**inputs)
    sites = (q.trace.nodes[name] for name in given)
    return sum(site["fn"].log_prob(site["value"]).double() for site in sites)  # type: ignore[return-value]


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
