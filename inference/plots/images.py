"""Figures of images: grids, samples, reconstructions, interpolations, and latents by label."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.backend.files import save_figure
from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from inference.plots.canvas import subplots
from inference.plots.points import MAX_LABELS
from ppl_models.base import LatentVariableModel

PAIRS = 50  # test images that are shown next to their reconstructions


def count_images(n: int, part: str) -> str:
    """Returns "1 test image" or "5 test images"."""
    return f"{n} {part} image{'s' * (n > 1)}"


def draw_samples(model: LatentVariableModel, path: Path, noise: bool) -> None:
    """Draws samples of a model: one class per row and one z per column if it has a label, else 100 or 200.

    Args:
        model: the model, in eval mode.
        path: where the figure goes.
        noise: whether to sample x, or to show the mean of p(x | latents).
    """
    what, columns = "" if noise else "mean images of ", 20
    if model.has_label:
        free = {name: z for name, z in model.prior(20).items() if name not in model.label_latents}
        style = {name: torch.cat([z] * model.classes) for name, z in free.items()}
        y = torch.arange(model.classes, device=next(model.parameters()).device).repeat_interleave(20)
        images = model.sample(len(y), y=y, latents=style, noise=noise)
        title = f"{what}{len(images)} samples of p(x | y, z): one class per row, the same z in each column"
    else:
        n, columns = (200, 20) if model.observation == "binary" else (100, 10)
        images = model.sample(n, noise=noise)
        title = f"{what}{n} samples of p(x)"
    save_images(model, images, columns, path, title)


def draw_from_same_latents(model: LatentVariableModel, path: Path) -> None:
    """Draws ten samples of x for each of ten latents, one row per latent: what the latents determine."""
    latents = {name: z.repeat_interleave(10, 0) for name, z in model.prior(10).items()}
    title = "10 samples of x from each of 10 latents, one row per latent"
    save_images(model, model.sample(100, latents=latents), 10, path, title)


def draw_reconstructions(model: LatentVariableModel, test: HeldOut, folder: Path) -> None:
    """Draws test images and their reconstructions.

    Writes reconstructions_5.png, with at most five images above their reconstructions, and
    reconstructions.png, with at most fifty, each to the left of its reconstruction.
    """
    inputs, _, _ = next(test.chunks(PAIRS))
    both = torch.stack([inputs["x"], model.reconstruct(**inputs)], dim=1)  # (50, 2, *shape)
    first = both[:5]
    title = f"{count_images(len(first), 'test')}; below, the reconstruction{'s' * (len(first) > 1)}"
    images = first.transpose(0, 1).flatten(0, 1)
    save_images(model, images, len(first), folder / "reconstructions_5.png", title)
    title = (
        f"{count_images(len(both), 'test')} as the model sees them, each with its reconstruction to the right"
    )
    columns = min(20, 2 * len(both))
    save_images(model, both.flatten(0, 1), columns, folder / "reconstructions.png", title, pair=True)


def draw_interpolations(model: LatentVariableModel, test: HeldOut, path: Path) -> None:
    """Draws decoded interpolations, one row of ten from the code of test image i to that of image 10 + i.

    Draws nothing if the test set has fewer than 20 images.
    """
    inputs, _, _ = next(test.chunks(20))
    pairs = model.interpolation_pairs
    if len(inputs["x"]) < 20:
        return
    ends = torch.cat([inputs["x"][:pairs], inputs["x"][10 : 10 + pairs]])
    steps = model.interpolate(model.encode(ends), torch.linspace(0, 1, 10))
    title = f"{pairs} pairs of test images: ten decoded steps from one code to the other, ends included"
    save_images(model, model.decode(steps), 10, path, title)


def codes(model: LatentVariableModel, **inputs: Tensor) -> Tensor:
    """Returns the modes of the guide's latents, labels left out, concatenated: `(batch, d)`; d may be 0."""
    found = [z.flatten(1) for name, z in model.encode(**inputs).items() if name != "y"]
    return torch.cat([inputs["x"].new_empty(len(inputs["x"]), 0), *found], dim=1)


def draw_latents_by_label(model: LatentVariableModel, test: HeldOut, path: Path) -> None:
    """Draws the latents of the test set in two dimensions, by PCA if there are more, coloured by label.

    Draws nothing if all latents are equal, as those of a single image are. All points have one colour if
    there are more than `points.MAX_LABELS` labels.
    """
    from matplotlib import colormaps  # imported late: these take a second
    from sklearn.decomposition import PCA

    chunks = test.chunks(test.chunk_size(1_000))
    z = torch.cat([codes(model, **inputs) for inputs, _, _ in chunks]).cpu().numpy()
    if z.shape[1] < 2 or (z == z[0]).all():
        return
    title, axis = "latent means of the test set", "z"
    if z.shape[1] > 2:
        pca = PCA(2).fit(z)
        explained = pca.explained_variance_ratio_.sum()
        title += f"\nfirst 2 of {z.shape[1]} principal components, {explained:.0%} of the variance"
        z, axis = pca.transform(z), "component"
    figure, axes = subplots(figsize=(7.2, 6.2), layout="constrained")
    y = None if test.y is None else test.y.cpu().numpy()
    names = np.unique([] if y is None else y)
    if not 0 < len(names) <= MAX_LABELS:
        axes.scatter(*z.T, s=4, alpha=0.6, linewidths=0)
    else:
        for label in names:
            color = colormaps["tab10"](label % 10)
            axes.scatter(*z[y == label].T, s=4, alpha=0.6, linewidths=0, color=color, label=str(label))
        axes.legend(title="label", markerscale=4, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(f"{axis} 1")
    axes.set_ylabel(f"{axis} 2")
    save_figure(figure, path, dpi=150)


def save_images(
    model: LatentVariableModel, images: Tensor, columns: int, path: Path, title: str, pair: bool = False
) -> None:
    """Saves a grid of images that are on the model's own scale; for the arguments see `save_grid`."""
    save_grid(OBSERVATIONS[model.observation].shown(images), columns, path, title, pair)


def grid(images: Tensor, columns: int, pair: bool = False) -> np.ndarray:
    """Arranges images in a grid, row by row, with grey lines between them.

    Args:
        images: `(n, channels, height, width)` in [0, 1].
        columns: images per row.
        pair: whether images 2i and 2i + 1 touch.

    Returns:
        One image `(height, width, 3)`.
    """
    images = images.detach().cpu().float().clamp(0, 1)
    n, _, height, width = images.shape
    images = images.expand(n, 3, height, width).permute(0, 2, 3, 1)
    rows, line = -(-n // columns), max(height // 14, 1)
    lefts = [column * (width + line) - line * (pair * (column % 2)) for column in range(columns)]
    canvas = np.full((rows * (height + line) - line, lefts[-1] + width, 3), 0.55, dtype=np.float32)
    for i, image in enumerate(images):
        top, left = i // columns * (height + line), lefts[i % columns]
        canvas[top : top + height, left : left + width] = image.numpy()
    return canvas


def save_grid(
    images: Tensor, columns: int, path: Path, title: str, pair: bool = False, rows: Sequence[str] = ()
) -> None:
    """Saves a grid of images under a title.

    Args:
        images: `(n, channels, height, width)` in [0, 1].
        columns: images per row.
        path: where the figure goes.
        title: what the figure shows.
        pair: whether images 2i and 2i + 1 touch.
        rows: names of the rows.
    """
    canvas = grid(images, columns, pair)
    width = 10.0 if columns > 7 else 1.2 * columns
    height = width * canvas.shape[0] / canvas.shape[1] + 0.4
    figure, axes = subplots(figsize=(width + 1.2 * bool(rows), height), layout="constrained")
    axes.imshow(canvas, interpolation="nearest")
    axes.set_xticks([])
    step = (canvas.shape[0] + max(images.shape[2] // 14, 1)) / max(len(rows), 1)
    axes.set_yticks([(row + 0.5) * step for row in range(len(rows))], rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    points = 16 if columns > 7 else 11  # a large grid is shown reduced
    axes.set_title(textwrap.fill(title, int(72 * width / (0.56 * points))), fontsize=points)
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.05)
