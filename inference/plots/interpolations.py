"""Figures that interpolate between the same two images with several models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.data.dataset import Dataset
from inference.data.observations import OBSERVATIONS
from inference.errors import UserError
from inference.plots.images import save_grid
from inference.rundir.restore import restore
from ppl_models.base import LatentVariableModel

STEPS = torch.linspace(0, 0.8, 5)  # without the second image's own decoding, as in the course


def interpolate_runs(
    folders: Sequence[Path], pairs: Sequence[tuple[int, int]], seed: int, data_dir: Path | None = None
) -> tuple[Tensor, list[str]]:
    """Interpolates between training images of two labels, for each pair of labels and each run.

    Args:
        folders: run folders, on the same data.
        pairs: pairs of labels.
        seed: decides which image of a label is used.
        data_dir: where the data set is; by default where the runs found it.

    Returns:
        Images `(7 * pairs * runs, *shape)`, pair by pair and run by run, and the names of the rows of 7.

    Raises:
        UserError: the runs have different data or no images, a model is conditional on a label, or a label is
            missing.
    """
    restored = [restore(folder, data_dir) for folder in folders]
    rows, names = [], []
    for folder, (_, config, data, model) in zip(folders, restored, strict=True):
        if config.checksum != restored[0].config.checksum:
            raise UserError(f"{folder} has other data than {folders[0]}. Give runs on the same data.")
        if data.kind.drawn != "images":
            raise UserError(f"{folder} is a run on {data.kind.name}. Give runs on images.")
        if model.has_label:
            raise UserError(
                f"{folder} is a run of {config.model}, which is conditional on a label. "
                "Give runs of models without labels."
            )
        beta = config.options.get("beta")
        names.append(config.model + ("" if beta is None else f", beta {beta:g}"))
        rows.append([interpolate(model, data, pair, seed) for pair in pairs])
    images = [images for pair in zip(*rows, strict=True) for images in pair]
    return torch.cat(images), [f"{a} to {b}: {name}" for a, b in pairs for name in names]


def draw(images: Tensor, rows: list[str], path: Path) -> None:
    """Draws the result of `interpolate_runs`, one row per pair and run."""
    title = "an image, five decoded steps towards a second image, and the second image"
    save_grid(images, len(STEPS) + 2, path, title, rows=rows)


def interpolate(model: LatentVariableModel, data: Dataset, pair: tuple[int, int], seed: int) -> Tensor:
    """Returns an image of each label with five decoded steps between their codes.

    Args:
        model: the model, in eval mode.
        data: the data set, as the model takes it.
        pair: the labels of the first and the last image.
        seed: decides which training image of a label is used.

    Returns:
        Images `(7, *shape)` in [0, 1].

    Raises:
        UserError: the data have no labels, or no training image of one of these labels.
    """
    if data.y_train is None:
        raise UserError(f"{data.name} has no labels to choose images by. Give runs on labelled data.")
    generator, labels = np.random.RandomState(seed), data.own_labels(data.y_train).numpy()
    ends = []
    for label in pair:
        members = np.flatnonzero(labels == label)
        if not len(members):
            raise UserError(
                f"{data.name} has no training image of label {label}. Choose others with --labels."
            )
        ends.append(data.x_train[generator.choice(members)])
    x = OBSERVATIONS[model.observation].test(torch.stack(ends)).to(torch.get_default_dtype())
    decoded = model.decode(model.interpolate(model.encode(x), STEPS))
    return OBSERVATIONS[model.observation].shown(torch.cat([x[:1], decoded, x[1:]]))
