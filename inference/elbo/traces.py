"""Sample sites of Pyro traces, and the terms of the bound from them."""

from contextlib import suppress
from typing import Any

import pyro.distributions as dist
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_models.elbo_terms import KL


def sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """Returns the sample sites of a trace by name, without plates."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }


def latent_sites(trace: poutine.Trace) -> dict[str, Any]:
    """Returns the sample sites of a trace that are not observed, by name."""
    return {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}


def _plates(site: dict[str, Any]) -> set[str]:
    """Returns the names of the plates of a site."""
    return {frame.name for frame in site["cond_indep_stack"]}


def penalty_sites(guide_trace: poutine.Trace) -> dict[str, Any]:
    """Returns the observed sites of a guide, by name.

    These come from `pyro.factor` and are penalties: training minimises them, but they are not part of the
    bound.
    """
    return {name: site for name, site in sample_sites(guide_trace).items() if site["is_observed"]}


def terms_of(model_trace: poutine.Trace, guide_trace: poutine.Trace, kl: KL) -> dict[str, Tensor]:
    """Returns the batch mean of each of `terms_per_point` by name, unweighted, in nats."""
    return {name: term.mean() for name, term in terms_per_point(model_trace, guide_trace, kl).items()}


def terms_per_point(model_trace: poutine.Trace, guide_trace: poutine.Trace, kl: KL) -> dict[str, Tensor]:
    """Computes the terms of the bound from the distributions at the traces' sites.

    An enumerated latent adds a leading dimension with its values. Every term is then the sum over them,
    weighted with their probabilities under the guide.

    Args:
        model_trace: a trace of the model with the guide's latents.
        guide_trace: the trace of the guide.
        kl: whether a KL term that has a closed form is computed by it ("closed") or from the samples.

    Returns:
        Each term by name, `(..., batch)`, unweighted, in nats. A term of another plate than that of the
        data has the size of its plate, and is not summed over the latents of that of the data.
    """
    latents, penalties = latent_sites(guide_trace), penalty_sites(guide_trace)
    log_q = {name: site["fn"].log_prob(site["value"]) for name, site in latents.items()}
    enumerated = {name: log_q[name] for name in latents if latents[name]["infer"].get("enumerate")}

    def expected(term: Tensor, site: dict[str, Any]) -> Tensor:
        log_probs = [value for name, value in enumerated.items() if _plates(latents[name]) == _plates(site)]
        return (term * sum(log_probs[1:], log_probs[0]).exp()).sum(0) if log_probs else term

    terms = {}
    for name, site in sample_sites(model_trace).items():
        if name in latents:
            guide_site = latents[name]
            if guide_site["mask"] is False and isinstance(guide_site["fn"], dist.Delta):
                continue  # an auto-encoder's code, which has no KL term on either side
            log_ratio = log_q[name] - site["fn"].log_prob(site["value"])
            if kl == "closed" and name not in enumerated:
                with suppress(NotImplementedError):  # Pyro uses the sample too if there is no closed form
                    log_ratio = kl_divergence(guide_site["fn"], site["fn"])
            terms[f"kl_{name}"] = expected(log_ratio, site)
        elif name == "x":
            terms["reconstruction"] = expected(-site["fn"].log_prob(site["value"]), site)
        else:  # another observed site is a penalty
            terms[name] = -site["fn"].log_prob(site["value"])
    for name, site in penalties.items():
        terms[name] = site["fn"].log_prob(site["value"])
    return terms
