"""A data set, held in memory or on disk."""

import hashlib
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from inference.data.observations import IMAGES, POINTS, DataKind
from inference.data.stored import Data, chunks, padded, select
from inference.data.vocabulary import Vocabulary
from inference.errors import UserError
from ppl_models.base import LatentVariableModel

SMALL_IMAGE_PIXELS = 16 * 16  # a model uses its `small_image_defaults` for images of at most so many pixels


@dataclass(frozen=True)
class Columns:
    """The columns of a table, and how they were standardised: x = (value - location) / scale.

    Attributes:
        names: of the columns, in order.
        location: mean of each column in the training rows.
        scale: standard deviation of each column in the training rows.
    """

    names: tuple[str, ...]
    location: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class Dataset:
    """Images, points, codes or sequences to train and to test on, with labels if there are any.

    Attributes:
        name: a name that `load.find_dataset` knows, or the path of a file or folder.
        x_train: images or codes (n, channels, height, width), uint8; points (n, d), float32; or sequences of
            tokens (n, length), int32: a tensor, or `stored.Rows` of images or codes that stay on disk.
        y_train: class numbers (n,), int64, from 0 to classes - 1, or None.
        x_test: test data like `x_train`.
        y_test: labels like `y_train`.
        x_independent: more test data, for a course whose test set repeats training data, or None.
        x_valid: the validation part that `with_validation` takes out of the training set, or None.
        y_valid: its labels, or None.
        scale: the value of white (1, 255 or 65535) in images of the user's own before their conversion to
            uint8, or None.
        columns: the columns of a table, or None.
        vocabulary: the tokens of a text, or None.
        class_names: the user's label of each class, sorted; None if labels are the class numbers themselves.
        kind: what the data are; by default points if x_train is (n, d), and images otherwise.
    """

    name: str
    x_train: Data
    y_train: Tensor | None
    x_test: Data
    y_test: Tensor | None
    x_independent: Tensor | None = None
    x_valid: Data | None = None
    y_valid: Tensor | None = None
    scale: int | None = None
    columns: Columns | None = None
    vocabulary: Vocabulary | None = None
    class_names: tuple[int | str, ...] | None = None
    kind: DataKind = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.kind is None:
            object.__setattr__(self, "kind", POINTS if self.x_train.dim() == 2 else IMAGES)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image, (channels, height, width), of a point, (d,), or a sequence, (length,)."""
        return tuple(self.x_train.shape[1:])

    @property
    def classes(self) -> int:
        """The number of different labels in all parts; 0 without labels."""
        if self.y_train is None:
            return 0
        labels = [y for y in (self.y_train, self.y_valid, self.y_test) if y is not None]
        return len(torch.cat(labels).unique())

    @property
    def names(self) -> list[str] | None:
        """The names of the classes as text; None if they are the class numbers."""
        return None if self.class_names is None else list(map(str, self.class_names))

    def own_labels(self, y: Tensor) -> Tensor:
        """Returns the user's labels of class numbers if these labels are numbers, else the class numbers.

        Args:
            y: class numbers, (n,).
        """
        if not self.class_names or isinstance(self.class_names[0], str):
            return y
        return torch.tensor(self.class_names)[y]

    def with_validation(self, fraction: float, seed: int) -> "Dataset":
        """Returns the data set with a random part of the training set as validation part.

        The training set keeps floor(n (1 - fraction)) images. Both parts keep their order.

        Args:
            fraction: the size of the validation part relative to the training set; 0 means no such part.
            seed: the seed of the random choice.

        Raises:
            UserError: a part would be empty.
        """
        if fraction == 0:
            return self
        n = len(self.x_train)
        kept = int(n * (1 - Fraction(str(fraction))))  # exact: in floating point 100 (1 - 0.9) is below 10
        if not 0 < kept < n:
            raise UserError(
                f"a validation share of {fraction} of {n} training images leaves one part empty. "
                "Give another --validation."
            )
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[torch.from_numpy(np.random.RandomState(seed).permutation(n)[kept:])] = True
        y = self.y_train
        return replace(
            self,
            x_train=select(self.x_train, ~chosen),
            y_train=None if y is None else y[~chosen],
            x_valid=select(self.x_train, chosen),
            y_valid=None if y is None else y[chosen],
        )

    def padded(self, model: type[LatentVariableModel]) -> "Dataset":
        """Returns the data set with images zero-padded on all sides to the smallest size that a model takes.

        Raises:
            UserError: the model does not take images of this size.
        """
        try:
            shape = model.padded(self.shape)
        except ValueError as error:
            raise UserError(f"{self.name} has {error}") from None
        if shape == self.shape or len(self.shape) != 3:
            return self
        more_rows, more_columns = shape[1] - self.shape[1], shape[2] - self.shape[2]
        left, top = more_columns // 2, more_rows // 2
        edges = (left, more_columns - left, top, more_rows - top)
        valid = None if self.x_valid is None else padded(self.x_valid, edges)
        x_train, x_test = padded(self.x_train, edges), padded(self.x_test, edges)
        return replace(self, x_train=x_train, x_test=x_test, x_valid=valid)

    def largest(self) -> int:
        """Returns the largest value of all parts, such as the largest number of a token."""
        parts = [x for x in (self.x_train, self.x_valid, self.x_test) if x is not None and len(x)]
        return max(int(some.max()) for x in parts for some in chunks(x))

    def checksum(self) -> str:
        """Returns a digest of every value and label, of the columns of a table and of a vocabulary.

        Runs with the same digest saw the same data.

        Call it before `with_validation`, which moves images from one part to another.
        """
        digest = hashlib.sha256()
        for x, y in ((self.x_train, self.y_train), (self.x_test, self.y_test)):
            for some in chunks(x):
                digest.update(some.numpy().tobytes())
            digest.update(b"none" if y is None else self.own_labels(y).numpy().tobytes())
        if self.class_names and isinstance(self.class_names[0], str):
            digest.update("\0".join(map(str, self.class_names)).encode())
        if self.columns:
            digest.update(repr(self.columns).encode())
        if self.vocabulary:
            digest.update(repr(self.vocabulary).encode())
        return digest.hexdigest()[:16]
