"""The negative ELBO and its terms on held-out data."""

import pyro
import torch
from torch import Tensor

from inference.backend import distributed
from inference.data.held_out import HeldOut
from ppl_models.base import LatentVariableModel
from ppl_models.programs import sample_latents

CHUNK = 500  # images at a time


@torch.no_grad()
def evaluate_bounds(
    model: LatentVariableModel, test: HeldOut, samples: int = 1
) -> dict[str, dict[str, float]]:
    """Computes the negative ELBO and its terms on held-out data, and the accuracy if the model classifies.

    The RNG state and the model's mode are preserved. Several processes share the images.

    Args:
        model: the model.
        test: the held-out data.
        samples: samples of the latents per image.

    Returns:
        By name of the term: `value`, the mean in nats per image; `se`, its standard error over images; and,
        with two samples or more, `mc_se`, the Monte Carlo error: the part of the standard error that more
        samples would remove. `accuracy` is a fraction, of images without noise. For a model with a codebook
        also `usage`, the fraction of its entries that are chosen at all, and `perplexity`, the exponential of
        the entropy of the choices; they have a `value` only.
    """
    was_training = model.training
    model.eval()
    per_image: dict[str, dict[int, Tensor]] = {}  # (samples, chunk) by name and number of the chunk
    counts = None  # how often each entry of a codebook is chosen
    devices = [test.x.device] if test.x.is_cuda else []
    with torch.random.fork_rng(devices), pyro.validation_enabled(False):
        for number, (inputs, without_noise, y) in enumerate(test.chunks(CHUNK)):
            if number % distributed.world_size() != distributed.rank():
                continue
            torch.manual_seed(number)
            values, chosen = _terms(model, inputs, samples)
            if chosen is not None:
                counts = chosen if counts is None else counts + chosen
            logits = model.classify(without_noise)
            if logits is not None and y is not None:
                values["accuracy"] = (logits.argmax(-1) == y).float()[None]
            for name, value in values.items():
                per_image.setdefault(name, {})[number] = value.double().cpu()
    model.train(was_training)
    of_all = distributed.all_gather((per_image, counts))
    metrics = {}
    for name in of_all[0][0]:
        chunks = {number: part for images, _ in of_all for number, part in images.get(name, {}).items()}
        metrics[name] = _summary(torch.cat([chunks[number] for number in sorted(chunks)], dim=1))
    return metrics | _codebook_metrics([part for _, part in of_all if part is not None])


def _terms(
    model: LatentVariableModel, inputs: dict[str, Tensor], samples: int
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Returns the terms of one chunk by name, (samples, chunk), and counts of codebook entries on the CPU."""
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
    return values, None if chosen is None else chosen.cpu()  # each process may have a GPU of its own


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


def _summary(values: Tensor) -> dict[str, float]:
    """Returns mean, standard error over images, and Monte Carlo error of values (samples, images)."""
    samples, images = values.shape
    metric = {"value": values.mean().item()}
    if images > 1:
        metric["se"] = (values.mean(0).std() / images**0.5).item()
    if samples > 1:
        metric["mc_se"] = (values.var(0).mean() / (samples * images)).sqrt().item()
    return metric
