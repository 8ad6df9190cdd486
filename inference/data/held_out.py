"""Held-out data, on which a model is evaluated."""

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from inference.data.dataset import Dataset
from inference.data.observations import OBSERVATIONS
from inference.data.stored import Data, Rows
from ppl_models.base import LatentVariableModel

PIXELS = 32 * 32  # of an image up to which chunks have their full size


class HeldOut:
    """The whole test set as a model observes it, with fixed noise. What is on disk is read in chunks.

    Args:
        data: the data set.
        model: the class that is evaluated. It names the inputs and the kind of observation.
        device: where the images are kept.

    Attributes:
        raw: the test images as levels 0..255, or points or codes, (n, *shape).
        x: the same as the model observes them, (n, *shape); None if they are on disk.
        y: labels (n,), or None.
    """

    def __init__(self, data: Dataset, model: type[LatentVariableModel], device: torch.device):
        self.data, self.model, self.device = data, model, device
        x, self.observation = data.x_test, OBSERVATIONS[model.observation_of(data.shape)]
        self.raw: Data = x if isinstance(x, Rows) else x.to(device)
        self.x = None if isinstance(self.raw, Rows) else self.observation.test(self.raw)
        self.y = None if data.y_test is None else data.y_test.to(device)
        self.inputs = model.inputs

    def __len__(self) -> int:
        return len(self.raw)

    @cached_property
    def others(self) -> dict[str, "HeldOut"]:
        """The other held-out parts of the data set: `independent` and `validation`, if it has them."""
        data = self.data
        parts = {"independent": (data.x_independent, None), "validation": (data.x_valid, data.y_valid)}
        return {
            name: HeldOut(Dataset(data.name, data.x_train, data.y_train, x, y), self.model, self.device)
            for name, (x, y) in parts.items()
            if x is not None
        }

    def chunk_size(self, size: int) -> int:
        """Returns `size`, or fewer if images are larger than 32 x 32, whose maps need more memory."""
        return max(size * PIXELS // max(math.prod(self.data.shape[1:]), PIXELS), 1)

    def chunks(self, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor | None]]:
        """Yields consecutive chunks of at most `size` images.

        Args:
            size: images per chunk.

        Yields:
            The model's inputs, `x` (size, *shape) and `y` if the model takes it; x without noise,
            (size, *shape); the labels (size,), or None.
        """
        noise = np.random.RandomState(0)
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            raw, y = self.raw[part].to(self.device), None if self.y is None else self.y[part]
            x = self.observation.test(raw, noise) if self.x is None else self.x[part]
            inputs = {"x": x.to(torch.get_default_dtype())}
            if y is not None and "y" in self.inputs:
                inputs |= {"y": y}
            yield inputs, self.observation.levels(raw), y
