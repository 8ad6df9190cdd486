"""Which Pyro ELBO by which name, and the loss that training minimises."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from inference.errors import UserError
from ppl_models.base import KL, LatentVariableModel


class ImportanceSamples(NamedTuple):
    """Samples from a guide, with particles and images leading, and what they weigh."""

    latents: dict[str, Tensor]  # name -> (particles, batch, ...)
    log_likelihood: Tensor  # log p(x | z), (particles, batch)
    log_weights: Tensor  # log p(x, z) - log q(z | x), (particles, batch)


class ImportanceWeighted(ELBO):
    """The importance-weighted bound, image by image: -sum_b log 1/K sum_k p(x_b, z_bk) / q(z_bk | x_b).

    For pairs whose sample sites all lie in one plate of images at dimension -1. The sites may be scaled
    alike, and the scale then stands outside of the logarithm; weights that differ from site to site, as a
    beta does, raise ValueError. With `doubly` the value is the same and the gradient doubly reparameterised:
    the guide is reached through its samples alone, and these take the squared normalised weights.

    Burda, Grosse and Salakhutdinov 2016, Importance Weighted Autoencoders (arXiv 1509.00519); Tucker, Lawson,
    Gu and Maddison 2019, Doubly Reparameterized Gradient Estimators (arXiv 1810.04152), equation 8.
    """

    def __init__(self, particles: int, doubly: bool = False):
        super().__init__(num_particles=particles)
        self.doubly = doubly

    def draw(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> ImportanceSamples:
        """Samples from the guide and what they weigh, unscaled."""
        p, q = self._get_trace(model, guide, args, kwargs)
        latents = {name: site["value"] for name, site in _latents(q).items()}
        log_p = _log_densities(_sites(p))
        return ImportanceSamples(latents, log_p["x"], _total(log_p) - _total(_log_densities(_latents(q))))

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        if not self.doubly:
            p, q = self._get_trace(model, guide, args, kwargs)
            log_w = _total(_log_densities(_sites(p))) - _total(_log_densities(_latents(q)))
            return -_common_scale(p, q) * self._bound(log_w)

        # Both programs at samples z that are leaves of the graph: what flows into a leaf is the gradient
        # along the guide's path, whatever lies between two levels of latents.
        q = self._run(guide, None, args, kwargs)
        sampled = {name: site["value"] for name, site in _latents(q).items()}
        leaves = {name: z.detach().requires_grad_() for name, z in sampled.items()}
        for name, z in leaves.items():
            q.nodes[name]["value"] = z
        p, q = (self._run(program, q, args, kwargs) for program in (model, guide))
        log_p, log_q = _total(_log_densities(_sites(p))), _total(_log_densities(_latents(q)))
        log_w = log_p - log_q
        w = log_w.detach().softmax(0)
        along = torch.autograd.grad((w**2 * log_w).sum(), list(leaves.values()), retain_graph=True)
        path = sum((g * z).sum() for g, z in zip(along, sampled.values(), strict=True))
        surrogate = (w * log_p).sum() + path
        value = self._bound(log_w.detach())
        return -_common_scale(p, q) * (surrogate + (value - surrogate).detach())

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The value alone, as `pyro.infer.SVI.evaluate_loss` asks for it."""
        with torch.no_grad():
            p, q = self._get_trace(model, guide, args, kwargs)
            log_w = _total(_log_densities(_sites(p))) - _total(_log_densities(_latents(q)))
            return -_common_scale(p, q) * self._bound(log_w).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The value, after a backward pass, as `pyro.infer.SVI.step` asks for it."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _bound(self, log_w: Tensor) -> Tensor:
        """sum_b log 1/K sum_k w_bk, from log-weights (particles, batch)."""
        return (log_w.logsumexp(0) - math.log(self.num_particles)).sum()

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: Mapping[str, Any]
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """The model's trace and the guide's."""
        q = self._run(guide, None, args, kwargs)
        return self._run(model, q, args, kwargs), q

    def _run(
        self, program: Callable, values: poutine.Trace | None, args: tuple, kwargs: Mapping[str, Any]
    ) -> poutine.Trace:
        """A program's trace with all particles at dimension -2, its latents as in `values` if given."""
        plate = pyro.plate("particles", self.num_particles, dim=-2)
        held = nullcontext() if values is None else poutine.replay(trace=values)
        with poutine.trace() as tracer, plate, held:
            program(*args, **kwargs)
        return tracer.trace


def _sites(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites of a trace, plates left out."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }


def _latents(trace: poutine.Trace) -> dict[str, Any]:
    return {name: site for name, site in _sites(trace).items() if not site["is_observed"]}


def penalties(guide_trace: poutine.Trace) -> dict[str, Any]:
    """The sites of a guide that are no latents but `pyro.factor`s: what is minimised beside the bound."""
    return {name: site for name, site in _sites(guide_trace).items() if site["is_observed"]}


def _log_densities(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """The log-density of each site, unscaled: name -> (particles, batch)."""
    return {name: site["fn"].log_prob(site["value"]) for name, site in sites.items()}


def _total(log_densities: dict[str, Tensor]) -> Tensor:
    first, *rest = log_densities.values()
    return sum(rest, first)


def _common_scale(p: poutine.Trace, q: poutine.Trace) -> float:
    """The scale that all sites share.

    Raises ValueError where they differ, or some are masked, or the guide has a penalty.
    """
    if penalties(q):
        raise ValueError(f"an importance-weighted bound takes no penalty: {', '.join(penalties(q))}")
    sites = [site for trace in (p, q) for site in _sites(trace).values()]
    scales = {float(site["scale"]) for site in sites}
    if len(scales) > 1 or any(site["mask"] is not None for site in sites):
        raise ValueError("an importance-weighted bound takes no weights: beta must be 1")
    return scales.pop()


class Estimator(NamedTuple):
    """A Pyro ELBO, from its number of particles, and what `bound` does of the same by hand."""

    elbo: Callable[[int], ELBO]
    kl: KL  # how a divergence that has a closed form is worked out
    particles: int = 1  # by default; an estimator whose default is one takes no other number


# `max_plate_nesting` is always given: without it Pyro runs model and guide once more to find it out, and
# draws noise for that.
ESTIMATORS = {
    "trace": Estimator(partial(Trace_ELBO, max_plate_nesting=1), "sampled"),
    "mean_field": Estimator(partial(TraceMeanField_ELBO, max_plate_nesting=1), "closed"),
    "enum": Estimator(
        partial(TraceEnum_ELBO, max_plate_nesting=1, strict_enumeration_warning=False), "sampled"
    ),
    "iwae": Estimator(ImportanceWeighted, "sampled", 50),
    "iwae_dreg": Estimator(lambda particles: ImportanceWeighted(particles, doubly=True), "sampled", 50),
}


@contextmanager
def checked_by_pyro() -> Iterator[None]:
    """Turns Pyro's warning that the mean-field restriction fails into an error, and silences that of NaN.

    Pyro checks the restriction if its validation is on. Training reports a loss that is not finite itself.

    Raises:
        UserError: the guide's latents come in another order than the model's, so that
            `TraceMeanField_ELBO` may not be a bound.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered (NaN|inf)", category=UserWarning)
        warnings.filterwarnings("error", message="Failed to verify mean field", category=UserWarning)
        try:
            yield
        except UserWarning as warning:
            if "mean field" not in str(warning):
                raise
            raise UserError(
                "the mean_field estimator needs the same order of latents in model and guide. "
                "Reorder the guide's sample statements or use the trace estimator"
            ) from None


class Loss(nn.Module):
    """The negative ELBO per image as one module: Pyro's own estimator on a model's pair, by the batch's size.

    Args:
        model: the model; its parameters are the module's.
        estimator: a name in `ESTIMATORS`.
        particles: samples per image of an importance-weighted estimator (default: 50).

    Raises:
        ValueError: the estimator does not apply to the model's settings.
    """

    def __init__(self, model: LatentVariableModel, estimator: str, particles: int | None = None):
        super().__init__()
        usual = ESTIMATORS[estimator].particles
        if usual > 1 and getattr(model, "beta", 1.0) != 1.0:
            raise ValueError(f"{estimator} takes no weights: beta must be 1, not {model.beta:g}")
        if usual > 1 and getattr(model, "free_bits", 0.0) > 0:
            raise ValueError(f"{estimator} takes no penalty: free bits must be 0, not {model.free_bits:g}")
        if usual == 1 and particles not in (None, 1):
            raise ValueError(f"{estimator} takes one sample an image: leave out particles, or choose iwae")
        self.model = model
        self.elbo = ESTIMATORS[estimator].elbo(particles or usual)

    def forward(self, **inputs: Tensor) -> Tensor:
        """The objective of one batch, a scalar in nats per image.

        Raises:
            UserError: Pyro's validation is on, and the mean-field restriction fails.
        """
        with checked_by_pyro():
            loss = self.elbo.differentiable_loss(self.model.model, self.model.guide, **inputs)
        return loss / len(inputs["x"])
