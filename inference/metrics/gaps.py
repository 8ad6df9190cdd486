"""The gaps between log p(x), the best ELBO of a guide's family, and the ELBO of the encoder."""

import copy
import math
from typing import NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from inference.backend.device import double_precision, rng_state_preserved
from inference.data.held_out import HeldOut
from inference.errors import UserError
from inference.metrics.annealing import Annealing
from inference.metrics.estimate import Estimate
from inference.metrics.importance import K_HAT_THRESHOLD, MEMORY, bytes_per_sample, pareto_k
from inference.metrics.local_guide import (
    PARTICLES,
    LocalGuide,
    Particles,
    fit_local_guide,
    sample_particles,
)
from ppl_models.base import LatentVariableModel

BLOCK = 100  # most images at once
BLOCK_MEMORY = 2**28  # approximate working memory of the optimiser, bytes


class Gaps(NamedTuple):
    """The gaps of each image.

    Attributes:
        metrics: their means, and the bounds, by name.
        amortization: ELBO of the best guide of the family - ELBO of the encoder, in nats, (images,).
        approximation: log p(x) - ELBO of the best guide of the family, (images,).
        how: how log p(x) was computed.
    """

    metrics: dict[str, dict[str, float]]
    amortization: Tensor
    approximation: Tensor
    how: str


class _LogP(NamedTuple):
    """log p(x), (batch,), the log-weights of its estimate, (samples, batch), or None, and the method."""

    value: Tensor
    log_weights: Tensor | None
    how: str


@rng_state_preserved()
def inference_gaps(model: LatentVariableModel, test: HeldOut, particles: int, annealing: int = 0) -> Gaps:
    """Measures the amortisation gap and the approximation gap of a model on held-out images.

    log p(x) is computed in closed form if the model has one. Otherwise it is estimated by importance sampling
    from the best guide, or by annealed importance sampling. Both estimates are at most log p(x) in the mean,
    and the best guide is found up to the noise of the optimiser. Cremer, Li and Duvenaud 2018, Inference
    Suboptimality in Variational Autoencoders (arXiv 1801.03558), section 3.

    Args:
        model: the model; it is not changed. The RNG state is preserved.
        test: the images.
        particles: samples per image of each bound.
        annealing: temperatures of annealed importance sampling; 0 means none.

    Raises:
        UserError: the guide has no location and scale to optimise, or a bound is not finite.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    values = _labels(frozen, test)
    if annealing and values > 1:
        raise UserError("annealed importance sampling needs continuous latents. Leave out annealing.")
    size = bytes_per_sample(frozen, test) * values
    images = max(min(BLOCK, BLOCK_MEMORY // (size * PARTICLES)), 1)
    found: dict[str, list[Estimate]] = {}
    k_hat: dict[str, list[np.ndarray]] = {"": [], "_optimized": []}
    how = ""
    bar = tqdm(total=len(test), unit="image", desc="optimised guides", disable=None)
    with pyro.validation_enabled(False), bar:
        for number, (inputs, _, _) in enumerate(test.chunks(images)):
            torch.manual_seed(number)
            local = fit_local_guide(frozen, inputs)
            rows = max(MEMORY * 2**20 // (size * len(inputs["x"])), 1)
            encoder, best = (_pool(frozen, inputs, particles, rows, guide) for guide in (None, local))
            for name, pool in (("", encoder), ("_optimized", best)):
                k_hat[name].append(pareto_k(pool.log_weights, next(frozen.parameters()).dtype))
            log_p = _log_p(frozen, inputs, best, local, annealing)
            how = log_p.how
            for name, estimate in _estimates(encoder, best, log_p).items():
                found.setdefault(name, []).append(estimate)
            bar.update(len(inputs["x"]))
    joined = {name: Estimate(*map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}
    if not all(estimate.value.isfinite().all() for estimate in joined.values()):
        raise UserError("a bound is not finite, so the gaps are undefined. Train the model again.")
    metrics = {name.replace("iwae", f"iwae_{particles}"): part.metric() for name, part in joined.items()}
    for name, parts in k_hat.items():
        above = float((np.concatenate(parts) > K_HAT_THRESHOLD).mean())
        se = math.sqrt(above * (1 - above) / len(test))
        metrics[f"k_hat_above_{K_HAT_THRESHOLD}{name}"] = {"value": above, "se": se}
    return Gaps(metrics, joined["amortization_gap"].value, joined["approximation_gap"].value, how)


def _labels(model: LatentVariableModel, test: HeldOut) -> int:
    """Returns how many values the guide's enumerated labels have. Raises UserError without a family."""
    inputs, _, _ = next(test.chunks(1))
    local = LocalGuide()
    with torch.no_grad(), pyro.validation_enabled(False):
        sample_particles(model, inputs, 1, local)
    return math.prod(parts[0].shape[-1] for parts in local.offsets.values() if len(parts) == 1)


@torch.no_grad()
def _pool(
    model: LatentVariableModel,
    inputs: dict[str, Tensor],
    particles: int,
    rows: int,
    local: LocalGuide | None,
) -> Particles:
    """Returns the samples of all particles, in float64 on the CPU. Both guides get the same noise."""
    torch.manual_seed(1)
    parts = []
    for done in range(0, particles, rows):
        parts.append(sample_particles(model, inputs, min(rows, particles - done), local))
    elbo, weights = (torch.cat([part.double().cpu() for part in each]) for each in zip(*parts, strict=True))
    return Particles(elbo, weights)


def _log_p(
    model: LatentVariableModel,
    inputs: dict[str, Tensor],
    best: Particles,
    local: LocalGuide,
    annealing: int,
) -> _LogP:
    """Returns log p(x) of each image, from the samples `best` unless it has a closed form."""
    with torch.no_grad(), double_precision():
        closed = copy.deepcopy(model).double().log_likelihood(inputs["x"].double())
    if closed is not None:
        return _LogP(closed.cpu(), None, "closed form")
    log_w, how = best.log_weights, f"importance sampling, {len(best.elbo)} samples of the best guide"
    if annealing:
        log_w = Annealing(model, inputs, annealing, local=local).forward().cpu()
        how = f"annealed importance sampling, {annealing} temperatures from the best guide"
    return _LogP(log_w.logsumexp(0) - math.log(len(log_w)), log_w, how)


def _estimates(encoder: Particles, best: Particles, log_p: _LogP) -> dict[str, Estimate]:
    """Returns the bounds and the gaps of each image, with Monte Carlo variances.

    The logarithm of a mean of weights changes by the relative change of a weight, to first order. So the
    variance of log p(x) - ELBO is the variance over samples of the relative weight less the ELBO's term. Both
    guides have the same noise, so that the difference of their ELBOs varies less than each of them.
    """
    value, log_w = log_p.value, log_p.log_weights

    def mean(terms: Tensor) -> Estimate:
        return Estimate(terms.mean(0), terms.var(0) / len(terms))

    def log_mean(log_weights: Tensor) -> Estimate:
        relative = log_weights.softmax(0) * len(log_weights)
        mean_weight = log_weights.logsumexp(0) - math.log(len(log_weights))
        return Estimate(-mean_weight, relative.var(0) / len(relative))

    def gap(elbo: Tensor) -> Estimate:
        if log_w is not None and log_w is best.log_weights:  # with the noise of the ELBO's samples
            terms = log_w.softmax(0) * len(log_w) - elbo
            return Estimate(value - elbo.mean(0), terms.var(0) / len(terms))
        apart = torch.zeros_like(value) if log_w is None else log_mean(log_w).variance
        return Estimate(value - elbo.mean(0), apart + elbo.var(0) / len(elbo))

    exact = Estimate(-value, torch.zeros_like(value)) if log_w is None else log_mean(log_w)
    return {
        "negative_elbo": mean(-encoder.elbo),
        "negative_elbo_optimized": mean(-best.elbo),
        "iwae": log_mean(encoder.log_weights),
        "iwae_optimized": log_mean(best.log_weights),
        "negative_log_p": exact,
        "inference_gap": gap(encoder.elbo),
        "amortization_gap": mean(best.elbo - encoder.elbo),
        "approximation_gap": gap(best.elbo),
    }
