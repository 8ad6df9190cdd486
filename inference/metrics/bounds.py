"""The negative ELBO and its terms on held-out data."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from inference.backend import distributed
from inference.data.held_out import HeldOut
from ppl_models.base import LatentVariableModel
from ppl_models.programs import sample_latents

CHUNK = 500  # images of at most 32 x 32 at a time


class Terms(NamedTuple):
    """What `evaluate_bounds` finds of a chunk of images.

    Attributes:
        values: the terms of the bound and the other metrics by name, (samples, chunk).
        logits: of q(y | x) of the images without noise, (chunk, classes), if the model classifies.
        code_counts: how often each entry of a codebook is chosen, (codes,), if the model has one.
    """

    values: dict[str, Tensor]
    logits: Tensor | None
    code_counts: Tensor | None


def chunk_terms(
    model: LatentVariableModel, inputs: dict[str, Tensor], without_noise: Tensor, samples: int
) -> Terms:
    """Computes the terms of one chunk of images.

    Args:
        model: the model, in evaluation mode.
        inputs: its inputs, `x` (chunk, *shape) among them.
        without_noise: the images without noise, (chunk, *shape).
        samples: samples of the latents per image.
    """
    latents = sample_latents(model, **inputs)
    bounds = [model.bound(**inputs, latents=latents)]
    chosen = model.code_counts(latents)
    if latents:  # without latents every sample is the same
        more = (sample_latents(model, **inputs) for _ in range(samples - 1))
        bounds += [model.bound(**inputs, latents=latents) for latents in more]
    reports = [bound.report() for bound in bounds]
    values = {
        name: torch.stack([report[name].expand(len(inputs["x"])) for report in reports])
        for name in reports[0]
    }
    return Terms(values, model.classify(without_noise), chosen)


@torch.no_grad()
def evaluate_bounds(
    model: LatentVariableModel,
    test: HeldOut,
    samples: int = 1,
    terms: Callable[[LatentVariableModel, dict[str, Tensor], Tensor, int], Terms] = chunk_terms,
) -> dict[str, dict[str, float]]:
    """Computes the negative ELBO and its terms on held-out data, and the accuracy if the model classifies.

    The RNG state and the model's mode are preserved. Several processes share the images.

    Args:
        model: the model.
        test: the held-out data.
        samples: samples of the latents per image.
        terms: computes what `chunk_terms` does.

    Returns:
        By name of the term: `value`, the mean in nats per image; `se`, its standard error over images; and,
        with two samples or more, `mc_se`, the Monte Carlo error: the part of the standard error that more
        samples would remove. `accuracy` is a fraction, of images without noise. For a model with a codebook
        also `usage`, the fraction of its entries that are chosen at all, and `perplexity`, the exponential of
        the entropy of the choices; they have a `value` only. For a model of sequences also `nats_per_token`,
        the negative ELBO of all sequences divided by the number of their tokens, and `token_perplexity`, the
        exponential of it.
    """
    was_training = model.training
    model.eval()
    per_image: dict[str, dict[int, Tensor]] = {}  # (samples, chunk) by name and number of the chunk
    counts = None  # how often each entry of a codebook is chosen
    devices = [test.device] if test.device.type == "cuda" else []
    with torch.random.fork_rng(devices), pyro.validation_enabled(False):
        for number, (inputs, without_noise, y) in enumerate(test.chunks(test.chunk_size(CHUNK))):
            if number % distributed.world_size() != distributed.rank():
                continue
            torch.manual_seed(number)
            values, logits, chosen = terms(model, inputs, without_noise, samples)
            if chosen is not None:  # each process may have a GPU of its own
                counts = chosen.cpu() if counts is None else counts + chosen.cpu()
            if logits is not None and y is not None:
                values["accuracy"] = (logits.argmax(-1) == y).float()[None]
            for name, value in values.items():
                per_image.setdefault(name, {})[number] = value.double().cpu()
    model.train(was_training)
    of_all = distributed.all_gather((per_image, counts))
    found = {}
    for name in of_all[0][0]:
        chunks = {number: part for images, _ in of_all for number, part in images.get(name, {}).items()}
        found[name] = torch.cat([chunks[number] for number in sorted(chunks)], dim=1)
    metrics = {name: summary(values) for name, values in found.items()}
    if model.has_tokens:
        metrics |= _token_metrics(found)
    return metrics | _codebook_metrics([part for _, part in of_all if part is not None])


def _token_metrics(values: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Returns the negative ELBO per token, and the perplexity, from values (samples, sequences).

    The ratio of two means is not the mean of the ratios: long sequences count more. The standard error is
    that of the linearised ratio.
    """
    bound = values["negative_elbo"] if "negative_elbo" in values else values["negative_log_p"]
    nats, tokens = bound.mean(0), values["tokens"].mean(0)
    ratio = (nats.sum() / tokens.sum()).item()
    perplexity = math.exp(min(ratio, 700.0))
    metrics = {"nats_per_token": {"value": ratio}, "token_perplexity": {"value": perplexity}}
    if len(nats) > 1:
        se = ((nats - ratio * tokens).std() / len(nats) ** 0.5 / tokens.mean()).item()
        metrics["nats_per_token"]["se"], metrics["token_perplexity"]["se"] = se, se * perplexity
    return metrics


def _codebook_metrics(counts: list[Tensor]) -> dict[str, dict[str, float]]:
    """Returns the usage and the perplexity of a codebook, from the counts of each process."""
    if not counts:
        return {}
    total = sum(counts[1:], counts[0])
    fraction = total.double() / total.sum()
    return {
        "usage": {"value": (total > 0).double().mean().item()},
        "perplexity": {"value": torch.special.entr(fraction).sum().exp().item()},
    }


def summary(values: Tensor) -> dict[str, float]:
    """Returns mean, standard error over images, and Monte Carlo error of values (samples, images)."""
    samples, images = values.shape
    metric = {"value": values.mean().item()}
    if images > 1:
        metric["se"] = (values.mean(0).std() / images**0.5).item()
    if samples > 1:
        metric["mc_se"] = (values.var(0).mean() / (samples * images)).sqrt().item()
    return metric
