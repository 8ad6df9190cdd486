"""What a model is given: batches of a data set, its pixels made into what the model observes."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from inference.datasets import Dataset
from inference.errors import BadInput


def labelled(data: Dataset, labels: int, seed: int) -> Tensor:
    """Indices of training images whose labels are seen, (labels,): as many of each class, drawn by seed."""
    if data.y_train is None:
        raise BadInput(f"{data.name} has no labels: a semi-supervised model needs y_train and y_test")
    each, left = divmod(labels, data.classes)
    if each == 0 or left:
        raise BadInput(
            f"{labels} labels cannot be shared equally by {data.classes} classes: give a multiple of it"
        )
    generator = np.random.RandomState(seed)
    chosen = []
    for y in range(data.classes):
        members = np.flatnonzero(data.y_train.numpy() == y)
        if len(members) < each:
            raise BadInput(f"class {y} has {len(members)} images, {each} labels asked: lower --labels")
        chosen.append(generator.choice(members, each, replace=False))
    return torch.from_numpy(np.concatenate(chosen))


def binarise(x: Tensor) -> Tensor:
    """Grey levels 0..255 to zeros and ones, a pixel one with probability x / 255, drawn anew at each call.

    A uniform draw from 0..254 lies below x with exactly that probability, and bytes are cheaper than floats.
    """
    below = torch.randint(255, x.shape, dtype=torch.uint8, device=x.device)
    return (x > below).to(torch.get_default_dtype())


def binarise_once(x: Tensor) -> Tensor:
    """Test images as zeros and ones, uint8, fixed for good: one binomial a pixel, NumPy's RandomState(0)."""
    return torch.from_numpy(np.random.RandomState(0).binomial(1, x.numpy() / 255).astype(np.uint8))


class Batches:
    """Training batches by step. An epoch is a random order of the images, by its number and the seed.

    The place in the epoch is therefore the step itself; only the noise of the binarisation comes from
    torch's generator.
    """

    def __init__(
        self,
        data: Dataset,
        inputs: tuple[str, ...],
        size: int,
        seed: int,
        labels: Tensor,
        device: torch.device,
    ):
        if size > len(data.x_train):
            raise BadInput(
                f"a batch of {size} is more than the {len(data.x_train)} training images: lower --batch-size"
            )
        self.x = data.x_train.to(device)
        self.size, self.seed, self.inputs = size, seed, inputs
        self.per_epoch = -(-len(self.x) // size)  # the last batch is what is left over
        self.epoch, self.order = -1, torch.empty(0)
        if "x_labelled" in inputs and data.y_train is not None:
            self.x_labelled, self.y_labelled = self.x[labels.to(device)], data.y_train[labels].to(device)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The inputs of step 0, 1, ...: x (batch, *shape) and whatever else the model names."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
            self.epoch = epoch
        batch = {"x": binarise(self.x[self.order[place * self.size : (place + 1) * self.size]])}
        if "x_labelled" in self.inputs:
            batch |= {"x_labelled": binarise(self.x_labelled), "y_labelled": self.y_labelled}
        return batch


class HeldOut:
    """The whole test set as a model is judged on it: x binarised once, its grey levels, labels if any."""

    def __init__(self, data: Dataset, device: torch.device):
        self.grey = data.x_test.to(device)
        self.x = binarise_once(data.x_test).to(device)
        self.y = None if data.y_test is None else data.y_test.to(device)

    def __len__(self) -> int:
        return len(self.x)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """By chunks: x (size, *shape) as zeros and ones, as grey levels in [0, 1], and y (size,) or None."""
        dtype = torch.get_default_dtype()
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            x, grey = self.x[part].to(dtype), self.grey[part].to(dtype) / 255
            yield x, grey, None if self.y is None else self.y[part]
