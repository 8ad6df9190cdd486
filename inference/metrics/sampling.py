"""Samples of a trained model, as raw values of a data set."""

from collections.abc import Sequence
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from inference.data.observations import OBSERVATIONS
from inference.errors import UserError
from inference.metrics.tempering import Tempered
from inference.rundir.kinds import COUNT, POSITIVE
from ppl_models.base import LatentVariableModel
from ppl_models.programs import latents_of

CHUNK = 500  # samples at a time


class Samples(NamedTuple):
    """Samples of a model.

    Attributes:
        x: levels 0..255, uint8, of images (n, channels, height, width); codes, uint8; points (n, d), float;
            sequences of tokens (n, length), int32.
        y: labels (n,), or None if the model has no label.
        latents: the other latents by name, (n, *event).
        drawn: how `inference.plots` draws x, see `DataKind`.
        lines: of text, if the model's run is on a text.
    """

    x: Tensor
    y: Tensor | None
    latents: dict[str, Tensor]
    drawn: str | None
    lines: list[str] | None = None


@torch.no_grad()
def sample_model(
    model: LatentVariableModel,
    n: int,
    labels: Sequence[int] | None = None,
    temperature: float = 1.0,
    same_latents: bool = False,
    seed: int = 0,
    means: bool = False,
) -> Samples:
    """Samples x from a model; see `inference.sample`.

    Args:
        model: the model. Its mode and the RNG state are preserved.
        n: the number of samples.
        labels: the labels of the samples, in turn; by default they are random.
        temperature: of the latents, and of x if p(x | latents) has no mean.
        same_latents: whether all samples have the same latents. If there are several labels, the samples of
            one round of labels have.
        seed: the seed of all random numbers.
        means: whether x is the mean of p(x | latents) instead of a sample of it.

    Raises:
        UserError: the model cannot be sampled so.
    """
    _check(model, n, labels, temperature, means)
    was_training, like = model.training, next(model.parameters())
    devices = [like.device] if like.is_cuda else []
    steps = Tempered(temperature, with_x=not model.has_mean)
    model.eval()
    try:
        with torch.random.fork_rng(devices), pyro.validation_enabled(False), steps:
            torch.manual_seed(seed)
            if labels is None and model.has_label and same_latents:
                labels = range(model.classes)
            given = _given_labels(model, n, labels)
            if same_latents:
                given |= _shared_latents(model, n, len(labels or ()))
            parts = [
                _chunk(
                    model,
                    min(CHUNK, n - start),
                    {name: z[start : start + CHUNK] for name, z in given.items()},
                    means,
                )
                for start in range(0, n, CHUNK)
            ]
    finally:
        model.train(was_training)
    merged = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    x, y = raw_values(model, merged.pop("x")), merged.pop("y", None)
    return Samples(x, y, merged, OBSERVATIONS[model.observation].data.drawn)


def raw_values(model: LatentVariableModel, x: Tensor) -> Tensor:
    """Converts observations to raw values of a data set: levels 0..255 of images, the nearest ones.

    Args:
        model: the model that observes them.
        x: observations (n, *shape).
    """
    kind = OBSERVATIONS[model.observation]
    return kind.data.raw(kind.shown(x))


def _check(
    model: LatentVariableModel, n: int, labels: Sequence[int] | None, temperature: float, means: bool
) -> None:
    """Raises UserError unless the numbers are above zero and the model has the labels and the means."""
    COUNT.check("n", n)
    POSITIVE.check("temperature", temperature)
    if means and not model.has_mean:
        raise UserError(f"{type(model).__name__} has no means of p(x | latents). Leave out means.")
    if labels is None:
        return
    if not model.has_label:
        raise UserError(f"{type(model).__name__} has no label. Leave out the labels.")
    wrong = [label for label in labels if not 0 <= label < model.classes]
    if wrong or not labels:
        given = f"label {wrong[0]} is none of this model's" if wrong else "no label is given"
        raise UserError(f"{given}. Give labels from 0 to {model.classes - 1}.")


def _given_labels(model: LatentVariableModel, n: int, labels: Sequence[int] | None) -> dict[str, Tensor]:
    """Returns the labels of the samples as `y`, (n,); nothing if the model samples them itself."""
    device = next(model.parameters()).device
    if labels is not None:
        return {"y": torch.tensor(labels, device=device).repeat(-(-n // len(labels)))[:n]}
    return {"y": torch.randint(model.classes, (n,), device=device)} if "y" in model.inputs else {}


def _shared_latents(model: LatentVariableModel, n: int, labels: int) -> dict[str, Tensor]:
    """Samples latents that all n samples share, or those of one round of several labels."""
    size = labels if labels > 1 else n
    found = {k: z for k, z in model.prior(-(-n // size)).items() if k not in model.label_latents}
    if not found:
        raise UserError(f"{type(model).__name__} has no latents to share. Leave out same_latents.")
    return {name: z.repeat_interleave(size, 0)[:n] for name, z in found.items()}


def _chunk(model: LatentVariableModel, n: int, given: dict[str, Tensor], means: bool) -> dict[str, Tensor]:
    """Samples x or its mean, the label as y if the model has one, and the latents by name."""
    latents = {name: z for name, z in given.items() if name != "y"}
    trace = model.generate(n, latents, given.get("y"))
    if "x" not in trace.nodes:
        raise UserError(f"{type(model).__name__} has no p(x) with these options. Choose another model.")
    found = latents_of(trace) | given
    if means:
        found["x"] = trace.nodes["x"]["fn"].mean
    if "y" in found and found["y"].is_floating_point():  # a latent label is one-hot
        found["y"] = found["y"].argmax(-1)
    return found
