"""Importance weights of a guide, image by image: tighter bounds, and how far they can be trusted."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from inference.backend import distributed
from inference.data.batches import HeldOut
from inference.elbo.estimators import ImportanceSamples, ImportanceWeighted
from inference.rundir.files import replacing
from ppl_models.base import LatentVariableModel

MEMORY = 64  # MiB at a time, by default: what stays in a processor's last cache is fastest too
FEWEST = 100  # draws an image: from fewer the weights' tail cannot be judged
BLOCK = 100  # images at most whose weights are judged at once
KEPT = 100  # draws an image that are kept
EQUAL = 1e-9  # nats over which the log-weights of one and the same p(x) may spread
THRESHOLD = 0.7  # of k-hat: above it an importance-weighted estimate cannot be trusted. Vehtari et al. 2024


class ImportanceSamplingResult(NamedTuple):
    """What the draws of a test set weigh."""

    figures: dict[str, dict[str, float]]  # iwae_1, ..., k_hat_above_0.7
    k_hat: np.ndarray  # (images,)
    kept: ImportanceSamples  # at most a hundred draws an image: (draws, images, ...)


class Chunk(NamedTuple):
    """The same of a chunk of its images."""

    bounds: dict[int, tuple[Tensor, Tensor]]  # of m: -IWAE-m of each image, and its Monte-Carlo variance
    k_hat: np.ndarray
    kept: ImportanceSamples


@torch.no_grad()
def importance_sample(
    model: LatentVariableModel, test: HeldOut, particles: Sequence[int], memory: int = MEMORY
) -> ImportanceSamplingResult:
    """-IWAE-m on the whole test set for every m of `particles`, and the Pareto k-hat of each image's weights.

    One pool of draws an image, as many as the largest m and a hundred at least, is cut into disjoint groups
    of m. `se` is over images; `mc_se` is from the spread between groups, or, where all draws are one group,
    by the jackknife over its draws. At most about `memory` MiB are in use at a time, however large m is,
    besides the draws kept. torch's generator is left as it was found. Several processes share the images.

    Burda, Grosse and Salakhutdinov 2016 (arXiv 1509.00519); Vehtari, Simpson, Gelman, Yao and Gabry 2024,
    Pareto Smoothed Importance Sampling (arXiv 1507.02646).
    """
    pool = max(*particles, FEWEST)
    rows = max(memory * 2**20 // _bytes_a_row(model, test), 1)
    images = max(min(BLOCK, memory * 2**20 // (32 * pool)), 1)  # whose weights are judged together
    hidden = True if distributed.rank() else None
    words = f"{pool} draws an image"
    bar = tqdm(total=len(test), unit="image", desc=words, disable=hidden, dynamic_ncols=True)
    quiet = torch.random.fork_rng([test.x.device] if test.x.is_cuda else [])
    found: dict[int, Chunk] = {}  # by number
    with quiet, pyro.validation_enabled(False), bar:
        for number, (inputs, _, _) in enumerate(test.chunks(images)):
            if number % distributed.world_size() == distributed.rank():
                torch.manual_seed(number)
                draw = sample_pool(model, inputs, pool, rows)
                each = {m: _bound(draw.log_weights, m) for m in particles}
                k = pareto_k(draw.log_weights, next(model.parameters()).dtype)
                kept = ImportanceSamples(draw.latents, draw.log_likelihood[:KEPT], draw.log_weights[:KEPT])
                found[number] = Chunk(each, k, kept)
            bar.update(len(inputs["x"]))
    of_all = {number: chunk for part in distributed.all_gather(found) for number, chunk in part.items()}
    chunks = [of_all[number] for number in sorted(of_all)]
    figures = {}
    for m in sorted(particles):
        bounds, variances = zip(*(chunk.bounds[m] for chunk in chunks), strict=True)
        figures[f"iwae_{m}"] = _summary(torch.cat(bounds), torch.cat(variances))
    k = np.concatenate([chunk.k_hat for chunk in chunks])
    share = float((k > THRESHOLD).mean())
    figures[f"k_hat_above_{THRESHOLD}"] = {"value": share, "se": math.sqrt(share * (1 - share) / len(k))}
    return ImportanceSamplingResult(figures, k, _join([chunk.kept for chunk in chunks], dim=1))


def sample_pool(
    model: LatentVariableModel, inputs: dict[str, Tensor], pool: int, rows: int
) -> ImportanceSamples:
    """`pool` draws of each image, at most `rows` at a time; of the latents only those that may be kept."""
    images, at_once = max(rows // pool, 1), min(pool, rows)
    blocks = []
    for first in range(0, len(inputs["x"]), images):
        part = {name: value[first : first + images] for name, value in inputs.items()}
        draws = []
        for begun in range(0, pool, at_once):
            elbo = ImportanceWeighted(min(at_once, pool - begun))
            latents, log_likelihood, log_weights = elbo.draw(model.model, model.guide, **part)
            keep = max(KEPT - begun, 0)
            latents = {name: z[:keep].float().cpu() for name, z in latents.items()}
            draws.append(ImportanceSamples(latents, log_likelihood.float().cpu(), log_weights.double().cpu()))
        blocks.append(_join(draws, dim=0))
    return _join(blocks, dim=1)


def _join(draws: list[ImportanceSamples], dim: int) -> ImportanceSamples:
    """Draws laid end to end, along particles or images."""
    latents = {name: torch.cat([draw.latents[name] for draw in draws], dim) for name in draws[0].latents}
    log_likelihood = torch.cat([draw.log_likelihood for draw in draws], dim)
    return ImportanceSamples(latents, log_likelihood, torch.cat([draw.log_weights for draw in draws], dim))


def _bound(log_w: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """-log 1/m sum_k w_k of each image and its Monte-Carlo variance, from log-weights (draws, images)."""
    groups = len(log_w) // m
    cut = log_w[: groups * m].unflatten(0, (groups, m))  # (groups, m, images)
    bounds = math.log(m) - cut.logsumexp(1)
    if groups > 1:
        return bounds.mean(0), bounds.var(0) / groups
    shares = log_w.softmax(0)
    without = math.log(m - 1) - log_w.logsumexp(0) - torch.log1p(-shares.clamp(max=1 - 1e-15))
    return bounds[0], without.var(0, correction=0) * (m - 1)


def _summary(values: Tensor, variances: Tensor) -> dict[str, float]:
    n = len(values)
    figure = {"value": values.mean().item()}
    if n > 1:
        figure["se"] = (values.std() / n**0.5).item()
    return figure | {"mc_se": (variances.sum().sqrt() / n).item()}


def pareto_k(log_w: Tensor, precision: torch.dtype = torch.float64) -> np.ndarray:
    """The Pareto k-hat of each image's importance weights, from log-weights (draws, images): (images,).

    Weights that are equal to rounding, in the `precision` that they were worked out in, have no tail: their
    k-hat is minus infinity, as of a guide that is the posterior.
    """
    arviz = import_arviz()
    _, k = arviz.psislw(log_w.T.numpy())
    rounding = 64 * torch.finfo(precision).eps * log_w.abs().amax(0)
    equal = log_w.amax(0) - log_w.amin(0) <= rounding.clamp(min=EQUAL)
    return np.where(equal.numpy(), -np.inf, np.atleast_1d(k))


def _bytes_a_row(model: LatentVariableModel, test: HeldOut) -> int:
    """About what one draw of one image needs: the outputs of all layers, and a few images."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not list(module.children()):
            sizes.append(output.numel())

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    inputs, _, _ = next(test.chunks(1))
    with torch.random.fork_rng([test.x.device] if test.x.is_cuda else []), pyro.validation_enabled(False):
        ImportanceWeighted(1).draw(model.model, model.guide, **inputs)
    for hook in hooks:
        hook.remove()
    return 4 * (sum(sizes) + 4 * inputs["x"].numel())


def write_netcdf(sampled_result: ImportanceSamplingResult, y: Tensor | None, path: Path) -> None:
    """Write the draws that were kept as ArviZ's InferenceData, whole or not at all.

    `posterior` holds draws of the latents from the guide, (chain, draw, image, ...); `log_likelihood`
    log p(x | z); `sample_stats` the log-weights log p(x, z) - log q(z | x), by which the draws stand for the
    posterior; `observed_data` the labels; `constant_data` each image's k-hat.
    """
    arviz, kept = import_arviz(), sampled_result.kept
    dims = {name: ["image"] for name in ("x", "log_weight", "k_hat", "label")}
    dims |= {
        name: ["image", *(f"{name}_dim_{i}" for i in range(z.dim() - 2))] for name, z in kept.latents.items()
    }
    data = arviz.from_dict(
        posterior={name: z.numpy()[None] for name, z in kept.latents.items()},
        log_likelihood={"x": kept.log_likelihood.numpy()[None]},
        sample_stats={"log_weight": kept.log_weights.numpy()[None]},
        observed_data=None if y is None else {"label": y.cpu().numpy()},
        constant_data={"k_hat": sampled_result.k_hat},
        dims=dims,
    )
    with replacing(path) as temporary:
        data.to_netcdf(str(temporary))


def import_arviz() -> Any:
    """ArviZ, imported late for its two seconds, without what it announces of its next version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    return arviz
