"""Random inputs for a model, for comparisons and benchmarks."""

import torch
from torch import Tensor

from inference.data.observations import OBSERVATIONS
from ppl_models.base import LatentVariableModel


def example_inputs(model: LatentVariableModel, batch: int) -> dict[str, Tensor]:
    """Returns random inputs for a model, sampled from torch's generator.

    Args:
        model: the model. Its shape, kind of observation, dtype and classes decide what the inputs are.
        batch: the number of images.

    Returns:
        The inputs that the model names: `x` (batch, *shape), `y` (batch,), and two labelled images per class
        as `x_labelled` and `y_labelled`.
    """
    dtype, classes = next(model.parameters()).dtype, model.classes

    def observations(n: int) -> Tensor:
        kind = OBSERVATIONS[model.observation]
        example = kind.example or kind.data.example
        return kind.train(example(model.shape, n, model.levels)).to(dtype)

    makers = {
        "x": lambda: observations(batch),
        "y": lambda: torch.randint(classes, (batch,)),
        "x_labelled": lambda: observations(2 * classes),
        "y_labelled": lambda: torch.arange(2 * classes) % classes,
    }
    return {name: makers[name]() for name in model.inputs}
