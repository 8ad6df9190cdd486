"""What a model is given: batches of a data set, its pixels made into what the model observes."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.backend import distributed
from inference.data.datasets import Dataset
from inference.errors import UserError
from ppl_models.base import LatentVariableModel


def read_indices(path: Path) -> list[int]:
    """Read the whole numbers of a text file, one per line, in the order of the file; # starts a comment.

    Raises UserError if the file cannot be read or a line holds anything else.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path} ({reason}): name a text file with one index per line") from None
    indices = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        try:
            indices += [int(text)] if text else []
        except ValueError:
            raise UserError(
                f"line {number} of {path} is {text[:20]!r}, not an index: write one whole number per line"
            ) from None
    return indices


def labelled(data: Dataset, labels: int, seed: int, indices: list[int] | None = None) -> Tensor:
    """Indices of the training images whose labels the model sees, (labels,).

    The seed draws equally many of each class, unless `indices` names them; these keep their order and
    repeats. Raises UserError if the data have no labels or too few of a class, if an index is not that of a
    training image, or if `indices` lack a class.
    """
    if data.y_train is None:
        raise UserError(f"{data.name} has no labels: a semi-supervised model needs y_train and y_test")
    if indices is not None:
        last = len(data.x_train) - 1
        for index in indices:
            if not 0 <= index <= last:
                raise UserError(
                    f"{data.name} has no training image {index}: give labelled images from 0 to {last}"
                )
        missing = set(range(data.classes)) - set(data.y_train[indices].tolist())
        if missing:
            raise UserError(f"no labelled image has class {min(missing)}: add at least one of each class")
        return torch.tensor(indices)
    each, left = divmod(labels, data.classes)
    if each == 0 or left:
        near = max(round(labels / data.classes), 1) * data.classes
        raise UserError(
            f"{labels} labels cannot be shared equally by {data.classes} classes: try --labels {near}"
        )
    generator = np.random.RandomState(seed)
    chosen = []
    for y in range(data.classes):
        members = np.flatnonzero(data.y_train.numpy() == y)
        if len(members) < each:
            raise UserError(f"class {y} has {len(members)} images, {each} labels asked: lower --labels")
        chosen.append(generator.choice(members, each, replace=False))
    return torch.from_numpy(np.concatenate(chosen))


def binarize(x: Tensor) -> Tensor:
    """Grey levels 0..255 to zeros and ones, a pixel one with probability x / 255, drawn anew at each call.

    A uniform draw from 0..254 lies below x with exactly that probability, and bytes are cheaper than floats.
    """
    below = torch.randint(255, x.shape, dtype=torch.uint8, device=x.device)
    return (x > below).to(torch.get_default_dtype())


def fixed_binarization(x: Tensor) -> Tensor:
    """Test images as zeros and ones, fixed for good: one binomial draw a pixel by NumPy's RandomState(0)."""
    draws = np.random.RandomState(0).binomial(1, x.cpu().numpy() / 255)
    return torch.from_numpy(draws.astype(np.uint8)).to(x.device)


def unit(x: Tensor) -> Tensor:
    """Grey levels 0..255 to 0..1."""
    return x.to(torch.get_default_dtype()) / 255


def centred(x: Tensor) -> Tensor:
    """Levels 0..255 to -1..1."""
    return 2 * unit(x) - 1


def dequantize(x: Tensor) -> Tensor:
    """Levels 0..255 to -1..1, each drawn anew at each call from the 1/128 that it stands for."""
    return (x + torch.rand(x.shape, dtype=torch.get_default_dtype(), device=x.device)) / 128 - 1


def fixed_dequantization(x: Tensor) -> Tensor:
    """The same of test images, fixed for good: NumPy's RandomState(0) draws the uniform noise."""
    noise = np.random.RandomState(0).uniform(size=x.shape).astype(np.float32)
    return (x + torch.from_numpy(noise).to(x.device)) / 128 - 1


def identity(x: Tensor) -> Tensor:
    """Points and codes, in the default precision."""
    return x.to(torch.get_default_dtype())


class ObservationKind(NamedTuple):
    """How levels 0..255 become what a model observes, and how what it generates is seen."""

    train: Callable[[Tensor], Tensor]  # in training
    test: Callable[[Tensor], Tensor]  # once and for all, in the test set
    levels: Callable[[Tensor], Tensor]  # as near to the levels themselves as the model's scale has it
    shown: Callable[[Tensor], Tensor]  # from the model's scale to one of 0..1, where it has one
    label: str  # what a result says of it


def _same(x: Tensor) -> Tensor:
    return x


def _shifted(x: Tensor) -> Tensor:
    return (x + 1) / 2


NOISE = "drawn anew in training, the test set once by RandomState(0)"
OBSERVATIONS = {
    "binary": ObservationKind(binarize, fixed_binarization, unit, _same, f"0 or 1: {NOISE}"),
    "unit": ObservationKind(unit, unit, unit, _same, "0 to 1"),
    "centred": ObservationKind(centred, centred, centred, _shifted, "-1 to 1"),
    "dequantised": ObservationKind(
        dequantize,
        fixed_dequantization,
        centred,
        _shifted,
        f"-1 to 1, with uniform noise of a level's width: {NOISE}",
    ),
    "codes": ObservationKind(identity, identity, identity, _same, "codes as they are"),
    "points": ObservationKind(identity, identity, identity, _same, "points as they are"),
}


class Batches:
    """Training batches by step, or this process's share of them.

    An epoch is a random order of the images, by its number and the seed.
    The place in the epoch is therefore the step itself; only the noise of the pixels comes from torch's
    generator. Raises UserError where there are fewer images than a batch has.
    """

    def __init__(
        self,
        data: Dataset,
        model: type[LatentVariableModel],
        size: int,
        seed: int,
        labels: Tensor,
        device: torch.device,
    ):
        if size > len(data.x_train):
            raise UserError(f"{len(data.x_train)} training images, a batch of {size}: lower --batch-size")
        self.x = data.x_train.to(device)
        self.y = None if data.y_train is None else data.y_train.to(device)
        self.size, self.seed, self.labels = size, seed, labels.to(device)
        self.inputs, self.observation = model.inputs, OBSERVATIONS[model.observation_of(data.shape)].train
        # The last batch is what is left over. It joins the batch before where it has less than two images a
        # process, as batch norm needs two.
        self.per_epoch = max(-(-(len(self.x) - 2 * distributed.world_size() + 1) // size), 1)
        usual = size if self.per_epoch > 1 else len(self.x)
        self.images = len(distributed.local_share(torch.arange(usual)))  # in a usual batch, of this process
        self.epoch, self.order = -1, torch.empty(0)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The inputs of step 0, 1, ...: x (batch, *shape) and whatever else the model names.

        Labelled images are not shared out: their loss is a mean of its own, and every process has it whole.
        """
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
            self.epoch = epoch
        end = len(self.x) if place == self.per_epoch - 1 else (place + 1) * self.size
        index = distributed.local_share(self.order[place * self.size : end])
        batch = {"x": self.observation(self.x[index])}
        if self.y is not None and "y" in self.inputs:
            batch |= {"y": self.y[index]}
        if self.y is not None and "x_labelled" in self.inputs:
            batch |= {"x_labelled": self.observation(self.x[self.labels]), "y_labelled": self.y[self.labels]}
        return batch


class HeldOut:
    """The whole test set as a model is judged on it: x made once and for all, grey levels, labels if any."""

    def __init__(self, data: Dataset, model: type[LatentVariableModel], device: torch.device):
        self.data, self.model, self.device = data, model, device
        self.raw, self.observation = data.x_test.to(device), OBSERVATIONS[model.observation_of(data.shape)]
        self.x = self.observation.test(self.raw)
        self.y = None if data.y_test is None else data.y_test.to(device)
        self.inputs = model.inputs

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def others(self) -> dict[str, "HeldOut"]:
        """What else the data set holds out, of `independent` and `validation`; made when it is asked for."""
        data = self.data
        parts = {"independent": (data.x_independent, None), "validation": (data.x_valid, data.y_valid)}
        return {
            name: HeldOut(Dataset(data.name, data.x_train, data.y_train, x, y), self.model, self.device)
            for name, (x, y) in parts.items()
            if x is not None
        }

    def chunks(self, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor | None]]:
        """By chunks: the model's inputs, x (size, *shape) and y if it takes it; x without noise; labels."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            y = None if self.y is None else self.y[part]
            inputs = {"x": self.x[part].to(torch.get_default_dtype())}
            if y is not None and "y" in self.inputs:
                inputs |= {"y": y}
            yield inputs, self.observation.levels(self.raw[part]), y
