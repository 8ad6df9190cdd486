"""What a model is worth on a test set: the bound and its terms, with their errors, and accuracy."""

import pyro
import torch
from pyro import poutine
from torch import Tensor

from inference.data import HeldOut
from ppl_models.base import LatentVariableModel, latents_of

CHUNK = 500  # test images at a time


@torch.no_grad()
def draw_latents(model: LatentVariableModel, **inputs: Tensor) -> dict[str, Tensor]:
    """Latents from the guide, every value of an enumerated one: name -> (..., batch, event)."""
    with poutine.trace() as tracer, poutine.enum(first_available_dim=-2):
        model.guide(**inputs)
    return latents_of(tracer.trace)


@torch.no_grad()
def evaluate(model: LatentVariableModel, test: HeldOut, draws: int = 1) -> dict[str, dict[str, float]]:
    """The negative ELBO and its terms over the whole test set, and accuracy where the model classifies.

    Each figure is `value`, in nats per image (accuracy: a share), with `se`, the standard error over
    images, and, with two `draws` of the latents an image or more, `mc_se`, the part of it that more draws
    would take away. Accuracy is read on grey levels, as the course does. torch's generator is left as it
    was found.
    """
    was_training = model.training
    model.eval()
    per_image: dict[str, list[Tensor]] = {}  # (draws, chunk) each
    devices = [test.x.device] if test.x.is_cuda else []
    with torch.random.fork_rng(devices), pyro.validation_enabled(False):
        torch.manual_seed(0)
        for inputs, grey, y in test.chunks(CHUNK):
            bounds = [model.bound(**inputs, latents=draw_latents(model, **inputs)) for _ in range(draws)]
            reports = [bound.report() for bound in bounds]
            figures = {
                name: torch.stack([report[name].expand(len(grey)) for report in reports])  # (draws, chunk)
                for name in reports[0]
            }
            logits = model.classify(grey)
            if logits is not None and y is not None:
                figures["accuracy"] = (logits.argmax(-1) == y).float()[None]
            for name, values in figures.items():
                per_image.setdefault(name, []).append(values.double())
    model.train(was_training)
    return {name: _summary(torch.cat(chunks, dim=1)) for name, chunks in per_image.items()}


def _summary(values: Tensor) -> dict[str, float]:
    """Mean, standard error over images, and Monte-Carlo standard error of values (draws, images)."""
    draws, images = values.shape
    figure = {"value": values.mean().item()}
    if images > 1:
        figure["se"] = (values.mean(0).std() / images**0.5).item()
    if draws > 1:
        figure["mc_se"] = (values.var(0).mean() / (draws * images)).sqrt().item()
    return figure
