"""The pictures of a run: curves, samples, reconstructions."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from inference.data import HeldOut
from inference.runs import Run
from ppl_models.base import LatentVariableModel

PAIRS = 50  # images beside their reconstructions
LABELS = {
    "negative_elbo": "negative ELBO",
    "reconstruction": "reconstruction, -log p(x | latents)",
    "kl": "KL, all latents",
    "classification": "cross-entropy of the labelled images",
    "accuracy": "accuracy on the test set",
}


def draw_all(model: LatentVariableModel, test: HeldOut, run: Run) -> None:
    """Draw every picture that the model can give into the run's folder; torch's generator stays as it was."""
    run.figures.mkdir(exist_ok=True)
    curves(run.metrics(), run.figures / "curves.png")
    if "reconstruction" not in run.metrics()[-1]:
        return  # a classifier alone: it generates nothing
    was_training = model.training
    model.eval()
    with torch.random.fork_rng([test.x.device] if test.x.is_cuda else []):
        for name, noise in (("samples", True), ("sample_means", False)):
            torch.manual_seed(0)  # the same latents in both pictures
            draw_samples(model, run.figures / f"{name}.png", noise)
        inputs, _, _ = next(test.chunks(PAIRS))
        pairs = torch.stack([inputs["x"], model.reconstruct(**inputs)], dim=1)  # (50, 2, *shape)
        title = f"{PAIRS} test images as the model sees them, each with its reconstruction at its right"
        save_grid(pairs.flatten(0, 1), 20, run.figures / "reconstructions.png", title, pair=True)
    model.train(was_training)


def draw_samples(model: LatentVariableModel, path: Path, noise: bool) -> None:
    """200 samples in rows of 20; where there are labels one class a row, and the same z down a column."""
    what = "draws of x" if noise else "mean images"
    if model.has_label:
        style = {name: torch.cat([z] * model.classes) for name, z in model.prior(20).items() if name != "y"}
        y = torch.arange(model.classes, device=next(model.parameters()).device).repeat_interleave(20)
        images = model.sample(len(y), y=y, latents=style, noise=noise)
        title = f"{len(images)} samples of p(x | y, z), {what}: one class a row, the same z down a column"
    else:
        images = model.sample(200, noise=noise)
        title = f"200 samples of p(x), {what}"
    save_grid(images, 20, path, title)


def grid(images: Tensor, columns: int, pair: bool = False) -> np.ndarray:
    """Images (n, channels, height, width) in [0, 1] as one picture (height, width, 3), row by row.

    Grey lines run between them; with `pair`, images 2i and 2i + 1 touch.
    """
    images = images.detach().cpu().float().clamp(0, 1)
    n, _, height, width = images.shape
    images = images.expand(n, 3, height, width).permute(0, 2, 3, 1)
    rows, line = -(-n // columns), max(height // 14, 1)
    across = [column * (width + line) - line * (pair * (column % 2)) for column in range(columns)]
    canvas = np.full((rows * (height + line) - line, across[-1] + width, 3), 0.55, dtype=np.float32)
    for i, image in enumerate(images):
        top, left = i // columns * (height + line), across[i % columns]
        canvas[top : top + height, left : left + width] = image.numpy()
    return canvas


def save_grid(images: Tensor, columns: int, path: Path, title: str, pair: bool = False) -> None:
    """Save a grid of images under a title that says what it shows."""
    canvas = grid(images, columns, pair)
    width = 10.0
    figure = plt.figure(
        figsize=(width, width * canvas.shape[0] / canvas.shape[1] + 0.4), layout="constrained"
    )
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=11)
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)


def curves(metrics: list[dict[str, float]], path: Path) -> None:
    """Every term over training, one panel each: minibatches of the training set, and the whole test set."""
    train, test = ([line for line in metrics if line["split"] == split] for split in ("train", "test"))
    skip = {"step", "split", "seconds"}
    names = [name for name in dict.fromkeys(key for line in train + test for key in line) if name not in skip]
    if sum(name.startswith("kl_") for name in names) == 1:
        names.remove("kl")  # it is the only divergence there is
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4.0 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels.flat, names, strict=False):
        for lines, style in (
            (train, {"color": "0.6", "lw": 0.8}),
            (test, {"color": "C0", "marker": "o", "ms": 3}),
        ):
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                panel.plot(*zip(*points, strict=True), **style)
        # The first steps fall from far above: without them in the vertical range the rest can be read.
        begun = 0.03 * metrics[-1]["step"]
        late = [line[name] for line in train + test if name in line and line["step"] >= begun]
        margin = 0.06 * (max(late) - min(late)) or 0.1
        panel.set_ylim(min(late) - margin, max(late) + margin)
        latent = name.removeprefix("kl_")
        panel.set_title(LABELS.get(name, f"KL of {latent}, q({latent} | x) from p({latent})"), fontsize=10)
        panel.set_xlabel("step")
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.set_ylabel("share" if name == "accuracy" else "nats per image")
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    handles = [plt.Line2D([], [], color="0.6"), plt.Line2D([], [], color="C0", marker="o", ms=3)]
    figure.legend(
        handles, ["training, one minibatch", "test set"], loc="outside lower center", ncols=2, frameon=False
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
