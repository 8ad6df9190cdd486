"""The continuous latents of data, as vectors, and how many of their dimensions are active."""

import torch
from torch import Tensor

from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from ppl_models.base import LatentVariableModel

ACTIVE = 0.01  # a latent dimension is active if its mean varies by more than this over a data set
CHUNK = 1_000  # images encoded at a time


def flat_codes(model: LatentVariableModel, **inputs: Tensor) -> Tensor:
    """Returns the guide's most probable latents, except a label, flattened and concatenated.

    Args:
        model: the model.
        **inputs: x (batch, *shape), and y (batch,) if the model takes it.

    Returns:
        Codes (batch, d). d is 0 if there are no such latents.
    """
    latents = [z.flatten(1) for name, z in model.encode(**inputs).items() if name != "y"]
    return torch.cat([inputs["x"].new_empty(len(inputs["x"]), 0), *latents], dim=1)


def codes_of_levels(model: LatentVariableModel, x: Tensor) -> Tensor:
    """Returns the codes of raw images or points without noise, on the CPU.

    Args:
        model: the model.
        x: levels 0..255 (n, channels, height, width), or points (n, d).

    Returns:
        Codes (n, d), see `flat_codes`.
    """
    device, levels = next(model.parameters()).device, OBSERVATIONS[model.observation].levels
    return torch.cat([flat_codes(model, x=levels(part.to(device))) for part in x.split(CHUNK)]).cpu()


@torch.no_grad()
def code_variances(model: LatentVariableModel, test: HeldOut) -> dict[str, Tensor]:
    """Returns the variance over a test set of the mean of each latent dimension, without a label.

    A latent that depends on others has its mean at the modes of these.

    Args:
        model: the model.
        test: the test set.

    Returns:
        Variances (d,) by name of the latent, on the CPU.
    """
    was_training, found = model.training, []
    model.eval()
    for inputs, x, _ in test.chunks(test.chunk_size(CHUNK)):
        codes = model.encode(**inputs | {"x": x})
        found.append({name: z.flatten(1).cpu() for name, z in codes.items() if name != "y"})
    model.train(was_training)
    return {name: torch.cat([part[name] for part in found]).var(0) for name in found[0]} if found else {}


def active_units(model: LatentVariableModel, test: HeldOut) -> int | None:
    """Returns the number of active latent dimensions: those whose mean depends on x.

    A dimension is active if the variance of its mean over the test set is above 0.01: Burda, Grosse and
    Salakhutdinov 2016 (arXiv 1509.00519), section 5.

    Args:
        model: the model.
        test: the test set.

    Returns:
        The number, or None if no latent is continuous or the test set has a single image.
    """
    if len(test) < 2:
        return None
    variances = code_variances(model, test)
    return sum(int((of > ACTIVE).sum()) for of in variances.values()) if variances else None
