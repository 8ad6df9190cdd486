"""Training batches of a data set."""

import torch
from torch import Tensor

from inference.backend import distributed
from inference.data.dataset import Dataset
from inference.data.observations import OBSERVATIONS
from inference.data.stored import Data, Rows
from inference.errors import UserError
from ppl_models.base import LatentVariableModel


class Batches:
    """Training batches by step, or this process's share of them.

    The order of the images in an epoch depends on the seed and the number of the epoch only, so the step
    alone determines which images a batch has. Noise in the observations comes from torch's generator.

    Args:
        data: the data set.
        model: the class that the batches are for. It names the inputs and the kind of observation.
        size: images per batch, over all processes.
        seed: the seed of the order.
        labels: indices of the labelled images, (labels,), see `labelled.choose_labelled`.
        device: where the images are kept, unless they stay on disk, and where the batches are.

    Attributes:
        x: all training images, a tensor or `stored.Rows`.
        per_epoch: batches per epoch. The last one has the images that are left over.
        full_size: images in a full batch, over all processes.
        images: images in a full batch of this process.
        order: the order of the images in the current epoch, (n,).

    Raises:
        UserError: there are fewer images than a batch has.
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
            raise UserError(
                f"the data have {len(data.x_train)} training images, fewer than a batch of {size}. "
                f"Lower --batch-size to {len(data.x_train)} or less."
            )
        x, self.device = data.x_train, device
        self.x: Data = x if isinstance(x, Rows) else x.to(device)
        self.y = None if data.y_train is None else data.y_train.to(device)
        self.size, self.seed, self.labels = size, seed, labels.to(device)
        self.inputs, self.observation = model.inputs, OBSERVATIONS[model.observation_of(data.shape)].train
        # The last batch has the images that are left over. If these are fewer than two per process, they join
        # the batch before: batch norm needs two.
        self.per_epoch = max(-(-(len(self.x) - 2 * distributed.world_size() + 1) // size), 1)
        self.full_size = size if self.per_epoch > 1 else len(self.x)
        self.images = distributed.local_size(self.full_size)
        self.epoch, self.order = -1, torch.empty(0)
        self.labelled: list[Tensor] = []
        if self.y is not None and "x_labelled" in self.inputs:
            self.labelled = [self.x[self.labels].to(device), self.y[self.labels]]

    def full(self, step: int) -> bool:
        """Whether a step has a full batch."""
        return self._size(step) == self.full_size

    def share(self, step: int) -> float:
        """Returns the fraction of the images of a step that this process has."""
        return distributed.local_size(self._size(step)) / self._size(step)

    def _size(self, step: int) -> int:
        """The images of a step, over all processes."""
        start, end = self._range(step % self.per_epoch)
        return end - start

    def _range(self, place: int) -> tuple[int, int]:
        """The first image of a batch of an epoch, and the end, as places in the order of the epoch."""
        return place * self.size, len(self.x) if place == self.per_epoch - 1 else (place + 1) * self.size

    def index(self, step: int) -> Tensor:
        """Returns the indices of this process's images of a step, (batch,)."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.x), generator=generator).to(self.device)
            self.epoch = epoch
        start, end = self._range(place)
        return distributed.local_share(self.order[start:end])

    def tensors(self, step: int) -> list[Tensor]:
        """Returns what `select` takes a batch from: indices, x, y if the model has it, labelled x and y.

        If the images are in memory, x and y are all of them. If they are on disk, the batch of the step is
        read, and x and y are these images.
        """
        index, y = self.index(step), self.y if self._has_y else None
        if not isinstance(self.x, Rows):
            return [index, self.x, *([] if y is None else [y]), *self.labelled]
        read = [self.x[index].to(self.device), *([] if y is None else [y[index]])]
        return [torch.arange(len(index), device=self.device), *read, *self.labelled]

    @property
    def _has_y(self) -> bool:
        return self.y is not None and "y" in self.inputs

    def select(self, index: Tensor, x: Tensor, *others: Tensor) -> dict[str, Tensor]:
        """Returns the inputs of the model for some images.

        Every process has all labelled images: their loss is a mean of its own.

        Args:
            index: of the images in x, (batch,).
            x: images.
            *others: the other tensors of `tensors`.

        Returns:
            `x` (batch, *shape) and the other inputs that the model names.
        """
        rest = list(others)
        batch = {"x": self.observation(x[index])}
        if self._has_y:
            batch |= {"y": rest.pop(0)[index]}
        if rest:
            batch |= {"x_labelled": self.observation(rest[0]), "y_labelled": rest[1]}
        return batch

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Returns the inputs of a step, 0, 1, ..., as `select` does."""
        return self.select(*self.tensors(step))
