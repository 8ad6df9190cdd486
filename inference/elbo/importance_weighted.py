"""Importance-weighted bounds per data point, and their doubly reparameterised gradient."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.elbo import ELBO
from torch import Tensor

from inference.elbo.traces import latent_sites, penalty_sites, sample_sites


class ImportanceSamples(NamedTuple):
    """Samples of the latents from a guide, with their importance weights.

    Attributes:
        latents: the samples by name of the latent, (particles, batch, ...).
        log_likelihood: log p(x | z), (particles, batch).
        log_weights: log p(x, z) - log q(z | x), (particles, batch).
    """

    latents: dict[str, Tensor]
    log_likelihood: Tensor
    log_weights: Tensor


class ImportanceWeighted(ELBO):
    """The importance-weighted bound per data point, as a Pyro ELBO.

    The loss is -sum_b log 1/K sum_k p(x_b, z_bk) / q(z_bk | x_b), in nats, summed over the batch. Burda,
    Grosse and Salakhutdinov 2016, Importance Weighted Autoencoders (arXiv 1509.00519). With `doubly` the loss
    has the same value and the doubly reparameterised gradient: the gradient reaches the guide's parameters
    through the samples only, with squared normalised weights. Tucker, Lawson, Gu and Maddison 2019, Doubly
    Reparameterized Gradient Estimators (arXiv 1810.04152), equation 8.

    All sample sites must be in one plate over the data at dimension -1. A scale that all sites share is
    applied outside of the logarithm. Without a scale, the value is that of Pyro's `RenyiELBO(alpha=0)` with
    vectorised particles, which applies scales inside of the logarithm and has no `differentiable_loss`.

    Args:
        particles: samples per data point, K.
        doubly: whether the gradient is doubly reparameterised.
    """

    def __init__(self, particles: int, doubly: bool = False):
        super().__init__(num_particles=particles)
        self.doubly = doubly

    def sample(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> ImportanceSamples:
        """Samples the latents from the guide and returns them with their weights; scales are ignored."""
        p, q = self._get_trace(model, guide, args, kwargs)
        latents = {name: site["value"] for name, site in latent_sites(q).items()}
        log_p = _log_densities(sample_sites(p))
        return ImportanceSamples(latents, log_p["x"], _total(log_p) - _total(_log_densities(latent_sites(q))))

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss, a scalar with its graph.

        Raises:
            ValueError: the sites differ in scale, some are masked, or the guide has a penalty.
        """
        if not self.doubly:
            p, q = self._get_trace(model, guide, args, kwargs)
            log_w = _total(_log_densities(sample_sites(p))) - _total(_log_densities(latent_sites(q)))
            return -_common_scale(p, q) * self._bound(log_w)

        # Both programs run with samples z that are leaves of the graph. The gradient that reaches a leaf is
        # the one along the guide's path, also if one latent depends on another.
        q = self._run(guide, None, args, kwargs)
        sampled = {name: site["value"] for name, site in latent_sites(q).items()}
        leaves = {name: z.detach().requires_grad_() for name, z in sampled.items()}
        for name, z in leaves.items():
            q.nodes[name]["value"] = z
        p, q = (self._run(program, q, args, kwargs) for program in (model, guide))
        log_p, log_q = _total(_log_densities(sample_sites(p))), _total(_log_densities(latent_sites(q)))
        log_w = log_p - log_q
        w = log_w.detach().softmax(0)
        path_gradients = torch.autograd.grad((w**2 * log_w).sum(), list(leaves.values()), retain_graph=True)
        path = sum((g * z).sum() for g, z in zip(path_gradients, sampled.values(), strict=True))
        surrogate = (w * log_p).sum() + path
        value = self._bound(log_w.detach())
        return -_common_scale(p, q) * (surrogate + (value - surrogate).detach())

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Returns the value of the loss, as `pyro.infer.SVI.evaluate_loss` expects it."""
        with torch.no_grad():
            p, q = self._get_trace(model, guide, args, kwargs)
            log_w = _total(_log_densities(sample_sites(p))) - _total(_log_densities(latent_sites(q)))
            return -_common_scale(p, q) * self._bound(log_w).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Runs a backward pass and returns the value of the loss, as `pyro.infer.SVI.step` expects it."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _bound(self, log_w: Tensor) -> Tensor:
        """Returns sum_b log 1/K sum_k w_bk, from log-weights (particles, batch)."""
        return (log_w.logsumexp(0) - math.log(self.num_particles)).sum()

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: Mapping[str, Any]
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """Returns the model's trace and the guide's."""
        q = self._run(guide, None, args, kwargs)
        return self._run(model, q, args, kwargs), q

    def _run(
        self, program: Callable, values: poutine.Trace | None, args: tuple, kwargs: Mapping[str, Any]
    ) -> poutine.Trace:
        """Returns a program's trace with particles at dimension -2 and latents from `values` if given."""
        plate = pyro.plate("particles", self.num_particles, dim=-2)
        replayed = nullcontext() if values is None else poutine.replay(trace=values)
        with poutine.trace() as tracer, plate, replayed:
            program(*args, **kwargs)
        return tracer.trace


def _log_densities(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the unscaled log density of each site by name, (particles, batch)."""
    return {name: site["fn"].log_prob(site["value"]) for name, site in sites.items()}


def _total(log_densities: dict[str, Tensor]) -> Tensor:
    first, *rest = log_densities.values()
    return sum(rest, first)


def _common_scale(p: poutine.Trace, q: poutine.Trace) -> float:
    """Returns the scale that all sites share.

    Raises ValueError if the sites differ in scale, some are masked, or the guide has a penalty.
    """
    if penalty_sites(q):
        raise ValueError(
            f"an importance-weighted bound does not support penalties: {', '.join(penalty_sites(q))}. "
            "Remove them, or use another estimator."
        )
    sites = [site for trace in (p, q) for site in sample_sites(trace).values()]
    scales = {float(site["scale"]) for site in sites}
    if len(scales) > 1 or any(site["mask"] is not None for site in sites):
        raise ValueError("an importance-weighted bound does not support KL weights. Set beta to 1.")
    return scales.pop()
