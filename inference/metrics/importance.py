"""Importance-weighted bounds on held-out data, and Pareto k-hat, which tells whether to trust them."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from inference.backend import distributed
from inference.backend.files import replacing
from inference.compiled.function import CompiledFunction
from inference.data.held_out import HeldOut
from inference.elbo.importance_weighted import ImportanceSamples, ImportanceWeighted
from inference.metrics.estimate import Estimate
from ppl_models.base import LatentVariableModel

MEMORY = 32  # default working memory, MiB; what fits in a processor's last cache is fastest too
MIN_POOL = 100  # samples per image; fewer do not show the tail of the weights
BLOCK = 100  # maximum number of images whose weights are processed at once
KEPT = 100  # samples per image in the result
MIN_VALUES = 2 * 10**9  # least number of observed values in a compiled estimate, over all samples
EQUAL = 1e-9  # log-weights that differ by less (nats) are equal
K_HAT_THRESHOLD = 0.7  # above it an importance-weighted estimate cannot be trusted. Vehtari et al. 2024


class ImportanceSamplingResult(NamedTuple):
    """The result of `importance_sample`.

    Attributes:
        metrics: `iwae_m`, the negative importance-weighted bound for each m, and `k_hat_above_0.7`, the
            fraction of images whose k-hat is above 0.7.
        k_hat: the Pareto k-hat of each image, (images,).
        samples: at most a hundred samples per image with their weights, (samples, images, ...).
    """

    metrics: dict[str, dict[str, float]]
    k_hat: np.ndarray
    samples: ImportanceSamples


class _Chunk(NamedTuple):
    """The result for a chunk of the images. `bounds` holds -IWAE-m and its Monte Carlo variance."""

    bounds: dict[int, tuple[Tensor, Tensor]]
    k_hat: np.ndarray
    samples: ImportanceSamples


@torch.no_grad()
def importance_sample(
    model: LatentVariableModel, test: HeldOut, particles: Sequence[int], memory: int = MEMORY
) -> ImportanceSamplingResult:
    """Computes importance-weighted bounds on held-out data, and the Pareto k-hat of each image's weights.

    Each image has one pool of samples, as many as the largest m and at least a hundred, which is divided into
    disjoint groups of m. The RNG state is preserved. Several processes share the images. Burda, Grosse and
    Salakhutdinov 2016 (arXiv 1509.00519); Vehtari, Simpson, Gelman, Yao and Gabry 2024, Pareto Smoothed
    Importance Sampling (arXiv 1507.02646).

    Args:
        model: the model.
        test: the held-out data.
        particles: numbers m of samples per image in the bounds.
        memory: approximate working memory in MiB, without the samples in the result. It does not depend on m.

    Returns:
        The bounds in nats per image. `se` is the standard error over images, `mc_se` the Monte Carlo error
        from the spread between groups, or by the jackknife if all samples are one group.
    """
    found: dict[int, _Chunk] = {}  # by number
    for number, samples in importance_samples(model, test, max(*particles, MIN_POOL), memory):
        bounds = {m: bound_of_weights(samples.log_weights, m) for m in particles}
        k = pareto_k(samples.log_weights, next(model.parameters()).dtype)
        kept = ImportanceSamples(samples.latents, samples.log_likelihood[:KEPT], samples.log_weights[:KEPT])
        found[number] = _Chunk(bounds, k, kept)
    of_all = {number: chunk for part in distributed.all_gather(found) for number, chunk in part.items()}
    return _merge([of_all[number] for number in sorted(of_all)], particles)


def importance_samples(
    model: LatentVariableModel, test: HeldOut, pool: int, memory: int = MEMORY
) -> Iterator[tuple[int, ImportanceSamples]]:
    """Yields this process's chunks of the images, in order: the number of the chunk, and `sample_pool`.

    Args:
        model: the model.
        test: the held-out data.
        pool: samples per image.
        memory: approximate working memory in MiB.
    """
    rows = max(memory * 2**20 // bytes_per_sample(model, test), 1)
    sample = _sampler(model, test, pool, rows)
    images = max(min(BLOCK, memory * 2**20 // (32 * pool)), 1)  # images per chunk
    hidden = True if distributed.rank() else None
    title = f"{pool} samples per image"
    bar = tqdm(total=len(test), unit="image", desc=title, disable=hidden, dynamic_ncols=True)
    rng = torch.random.fork_rng([test.device] if test.device.type == "cuda" else [])
    with rng, pyro.validation_enabled(False), bar:
        for number, (inputs, _, _) in enumerate(test.chunks(images)):
            if number % distributed.world_size() == distributed.rank():
                torch.manual_seed(number)
                yield number, sample_pool(model, inputs, pool, rows, sample)
            bar.update(len(inputs["x"]))


Sampler = Callable[..., dict[str, Tensor]]


def _sampler(model: LatentVariableModel, test: HeldOut, pool: int, rows: int) -> Sampler:
    """Returns `_weighted_samples`, or a compiled version of it if the estimate is large.

    Compiling takes seconds, which a small estimate does not pay back.
    """
    values = len(test) * math.prod(test.data.shape) * pool
    if test.device.type == "cuda" or distributed.world_size() > 1 or values < MIN_VALUES:
        return _weighted_samples
    most = _at_once(pool, rows)
    function, say = partial(_weighted_samples, particles=most), partial(print, file=sys.stderr)
    program = CompiledFunction(function, model, f"sampling of {most} latents per image", say)

    def sample(model: LatentVariableModel, particles: int, **inputs: Tensor) -> dict[str, Tensor]:
        same = particles == most
        return program(**inputs) if same else _weighted_samples(model, particles, **inputs)

    return sample


def _at_once(pool: int, rows: int) -> int:
    """Returns how many samples of an image to compute at once: equal parts of the pool if possible."""
    return math.ceil(pool / math.ceil(pool / rows))


def _weighted_samples(model: LatentVariableModel, particles: int, **inputs: Tensor) -> dict[str, Tensor]:
    """Returns `ImportanceWeighted.sample`: the log-weights, log-likelihoods, and the latents by name."""
    found = ImportanceWeighted(particles).sample(model.model, model.guide, **inputs)
    latents = {f"latent {name}": z for name, z in found.latents.items()}
    return {"log_weights": found.log_weights, "log_likelihood": found.log_likelihood} | latents


def _merge(chunks: list[_Chunk], particles: Sequence[int]) -> ImportanceSamplingResult:
    """Combines the results of all chunks."""
    metrics = {}
    for m in sorted(particles):
        bounds, variances = zip(*(chunk.bounds[m] for chunk in chunks), strict=True)
        metrics[f"iwae_{m}"] = Estimate(torch.cat(bounds), torch.cat(variances)).metric()
    k = np.concatenate([chunk.k_hat for chunk in chunks])
    above = float((k > K_HAT_THRESHOLD).mean())
    se = math.sqrt(above * (1 - above) / len(k))
    metrics[f"k_hat_above_{K_HAT_THRESHOLD}"] = {"value": above, "se": se}
    return ImportanceSamplingResult(metrics, k, _concatenate([chunk.samples for chunk in chunks], dim=1))


def sample_pool(
    model: LatentVariableModel,
    inputs: dict[str, Tensor],
    pool: int,
    rows: int,
    sample: Sampler = _weighted_samples,
) -> ImportanceSamples:
    """Samples the latents of each image with their weights.

    Args:
        model: the model.
        inputs: its inputs, `x` (batch, *shape) among them.
        pool: samples per image.
        rows: the maximum number of samples, over all images, that are computed at once.
        sample: does what `_weighted_samples` does.

    Returns:
        Weights of all samples, (pool, batch), in float64, and the latents of the first hundred per image, on
        the CPU.
    """
    images, at_once = max(rows // pool, 1), _at_once(pool, rows)
    blocks = []
    for first in range(0, len(inputs["x"]), images):
        part = {name: value[first : first + images] for name, value in inputs.items()}
        samples = []
        for done in range(0, pool, at_once):
            found = sample(model, min(at_once, pool - done), **part)
            log_weights, log_likelihood = found.pop("log_weights"), found.pop("log_likelihood")
            keep = max(KEPT - done, 0)
            latents = {name.removeprefix("latent "): z[:keep].float().cpu() for name, z in found.items()}
            samples.append(
                ImportanceSamples(latents, log_likelihood.float().cpu(), log_weights.double().cpu())
            )
        blocks.append(_concatenate(samples, dim=0))
    return _concatenate(blocks, dim=1)


def _concatenate(samples: list[ImportanceSamples], dim: int) -> ImportanceSamples:
    """Concatenates samples along particles, dimension 0, or images, dimension 1."""
    latents = {name: torch.cat([part.latents[name] for part in samples], dim) for name in samples[0].latents}
    log_likelihood = torch.cat([part.log_likelihood for part in samples], dim)
    return ImportanceSamples(latents, log_likelihood, torch.cat([part.log_weights for part in samples], dim))


def bound_of_weights(log_w: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Returns -log 1/m sum_k w_k and its Monte Carlo variance, (images,), from (samples, images)."""
    groups = len(log_w) // m
    grouped = log_w[: groups * m].unflatten(0, (groups, m))  # (groups, m, images)
    bounds = math.log(m) - grouped.logsumexp(1)
    if groups > 1:
        return bounds.mean(0), bounds.var(0) / groups
    normalised = log_w.softmax(0)
    left_out = math.log(m - 1) - log_w.logsumexp(0) - torch.log1p(-normalised.clamp(max=1 - 1e-15))
    return bounds[0], left_out.var(0, correction=0) * (m - 1)


def pareto_k(log_w: Tensor, precision: torch.dtype = torch.float64) -> np.ndarray:
    """Returns the Pareto k-hat of each image's importance weights.

    Weights that are equal to rounding have no tail, as those of a guide that is the posterior: their k-hat is
    minus infinity.

    Args:
        log_w: log-weights, (samples, images).
        precision: the precision in which they were computed, which determines the rounding error.

    Returns:
        k-hat, (images,).
    """
    arviz = import_arviz()
    _, k = arviz.psislw(log_w.T.numpy())
    rounding = 64 * torch.finfo(precision).eps * log_w.abs().amax(0)
    equal = log_w.amax(0) - log_w.amin(0) <= rounding.clamp(min=EQUAL)
    return np.where(equal.numpy(), -np.inf, np.atleast_1d(k))


def bytes_per_sample(model: LatentVariableModel, test: HeldOut) -> int:
    """Estimates the memory for one sample of one image: the outputs of all layers, and a few images."""
    sizes: list[int] = []

    def add_size(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not list(module.children()):
            sizes.append(output.numel())

    hooks = [module.register_forward_hook(add_size) for module in model.modules()]
    inputs, _, _ = next(test.chunks(1))
    with (
        torch.random.fork_rng([test.device] if test.device.type == "cuda" else []),
        pyro.validation_enabled(False),
    ):
        ImportanceWeighted(1).sample(model.model, model.guide, **inputs)
    for hook in hooks:
        hook.remove()
    return 4 * (sum(sizes) + 4 * inputs["x"].numel())


def write_netcdf(result: ImportanceSamplingResult, y: Tensor | None, path: Path) -> None:
    """Writes the samples of a result as ArviZ's InferenceData; an error leaves an older file in place.

    `posterior` holds samples of the latents from the guide, (chain, draw, image, ...); `log_likelihood`
    log p(x | z); `sample_stats` the log-weights log p(x, z) - log q(z | x), with which the samples represent
    the posterior; `observed_data` the labels; `constant_data` each image's k-hat.

    Args:
        result: the result of `importance_sample`.
        y: labels (images,), or None.
        path: the file.
    """
    arviz, samples = import_arviz(), result.samples
    dims = {name: ["image"] for name in ("x", "log_weight", "k_hat", "label")}
    dims |= {
        name: ["image", *(f"{name}_dim_{i}" for i in range(z.dim() - 2))]
        for name, z in samples.latents.items()
    }
    data = arviz.from_dict(
        posterior={name: z.numpy()[None] for name, z in samples.latents.items()},
        log_likelihood={"x": samples.log_likelihood.numpy()[None]},
        sample_stats={"log_weight": samples.log_weights.numpy()[None]},
        observed_data=None if y is None else {"label": y.cpu().numpy()},
        constant_data={"k_hat": result.k_hat},
        dims=dims,
    )
    with replacing(path) as temporary:
        data.to_netcdf(str(temporary))


def import_arviz() -> Any:
    """Returns ArviZ, imported late because it takes two seconds, without its deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    return arviz
