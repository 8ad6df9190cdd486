"""The pictures of a run: curves, samples, reconstructions."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.data.batches import OBSERVATIONS, Batches, HeldOut
from inference.plots import points
from inference.plots.canvas import subplots
from inference.rundir.files import save_figure
from inference.rundir.run import Run
from ppl_models.base import LatentVariableModel

PAIRS = 50  # images beside their reconstructions
LABELS = {
    "negative_elbo": "negative ELBO",
    "reconstruction": "reconstruction, -log p(x | latents)",
    "kl": "KL, all latents",
    "classification": "cross-entropy of the labelled images",
    "accuracy": "accuracy",
    "mean_squared_error": "mean squared error",
    "squared_error": "squared error",
    "squared_error_and_kl": "squared error + KL",
    "bits_per_dim": "negative ELBO",
    "loss": "squared error, codebook and commitment",
    "codebook": "codes from the encoder's outputs",
    "commitment": "the encoder's outputs from codes",
    "usage": "codes used",
    "perplexity": "perplexity of the codes",
    "nats_per_code": "-log p(codes)",
    "negative_log_p": "-log p(x)",
}
SPLITS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # of the lines of metrics.jsonl: what each is called and how it is drawn
    "train": ("training, one minibatch", {"color": "0.6", "lw": 0.8}),
    "test": ("test set", {"color": "C0", "marker": "o", "ms": 3}),
    "validation": ("validation set", {"color": "C1", "marker": "o", "ms": 3}),
}
UNITS = {
    "bits_per_dim": "bits per dimension",
    "accuracy": "share",
    "loss": "mean over values",
    "codebook": "squared error per value",
    "commitment": "squared error per value",
    "usage": "share",
    "perplexity": "codes",
    "nats_per_code": "nats per code",
    "mean_squared_error": "per pixel",
    "squared_error": "per image",
}


def draw_all(model: LatentVariableModel, batches: Batches, test: HeldOut, run: Run) -> None:
    """Draw every picture that the model can give into the run's folder; torch's generator stays as it was."""
    run.figures.mkdir(exist_ok=True)
    what = "point" if model.observation == "points" else "image"
    curves(
        run.metrics(), run.figures / "curves.png", what, math.prod(model.shape) if what == "point" else None
    )
    was_training = model.training
    model.eval()
    with torch.random.fork_rng([test.x.device] if test.x.is_cuda else []):
        torch.manual_seed(0)
        if model.observation == "codes":
            pass  # they look like nothing until they are decoded: see `inference.training.two_stage`
        elif model.observation == "points":
            draw_points(model, batches, test, run.figures)
        else:
            draw_images(model, batches, test, run)
    model.train(was_training)


def draw_images(model: LatentVariableModel, batches: Batches, test: HeldOut, run: Run) -> None:
    """What the model sees; what it generates; and, where there are latents, what they are good for."""
    seen = batches(0)["x"][:5]
    title = f"{_count(len(seen), 'training')} as the model sees {'them' if len(seen) > 1 else 'it'}"
    save_images(model, seen, len(seen), run.figures / "training.png", title)
    if "negative_log_p" in run.metrics()[-1]:  # nothing is latent
        draw_samples(model, run.figures / "samples.png", noise=True)
    if "reconstruction" not in run.metrics()[-1]:
        return  # a classifier alone generates nothing
    torch.manual_seed(0)
    draw_samples(model, run.figures / "samples.png", noise=True)
    if model.has_mean:
        torch.manual_seed(0)  # the same latents
        draw_samples(model, run.figures / "sample_means.png", noise=False)
        torch.manual_seed(1)
        means = model.sample(16, noise=False)
        save_images(model, means, 4, run.figures / "samples_16.png", "16 samples, mean images")
    else:
        draw_again(model, run.figures / "redrawn.png")
    draw_reconstructions(model, test, run.figures)
    if not model.has_label:  # half way between two labels there is nothing
        draw_interpolations(model, test, run.figures / "interpolations.png")
    draw_latents_by_label(model, test, run.figures / "latents.png")


@torch.no_grad()
def draw_points(model: LatentVariableModel, batches: Batches, test: HeldOut, folder: Path) -> None:
    """Samples beside the data; where the training points' latents are; the density where it is known."""
    x, seen = (OBSERVATIONS["points"].levels(points) for points in (test.x, batches.x))
    points.draw_samples(model, x, folder / "samples.png")
    points.draw_latents_of_data(model, seen, batches.y, folder / "latents.png")
    box = points.box_around(x)
    log_p = model.log_likelihood(points.on_a_grid(box, 200).to(x))
    if log_p is not None:
        points.draw_density(log_p.unflatten(0, (200, 200)), box, folder / "density.png")


def draw_reconstructions(model: LatentVariableModel, test: HeldOut, folder: Path) -> None:
    """The first test images, five at most, over their reconstructions; and up to fifty, each to its left."""
    inputs, _, _ = next(test.chunks(PAIRS))
    both = torch.stack([inputs["x"], model.reconstruct(**inputs)], dim=1)  # (50, 2, *shape)
    first = both[:5]
    title = f"{_count(len(first), 'test')}; below, the reconstruction{'s' * (len(first) > 1)}"
    images = first.transpose(0, 1).flatten(0, 1)
    save_images(model, images, len(first), folder / "reconstructions_5.png", title)
    title = f"{_count(len(both), 'test')} as the model sees them, each with its reconstruction at its right"
    columns = min(20, 2 * len(both))
    save_images(model, both.flatten(0, 1), columns, folder / "reconstructions.png", title, pair=True)


def _count(n: int, part: str) -> str:
    return f"{n} {part} image{'s' * (n > 1)}"


def draw_interpolations(model: LatentVariableModel, test: HeldOut, path: Path) -> None:
    """Rows of ten: images decoded on the way from test image i's code to image 10 + i's."""
    inputs, _, _ = next(test.chunks(20))
    pairs = model.interpolation_pairs
    if len(inputs["x"]) < 20:
        return
    ends = torch.cat([inputs["x"][:pairs], inputs["x"][10 : 10 + pairs]])
    steps = model.interpolate(model.encode(ends), torch.linspace(0, 1, 10))
    title = f"{pairs} pairs of test images: decoded from ten steps between their codes, ends included"
    save_images(model, model.decode(steps), 10, path, title)


def codes(model: LatentVariableModel, **inputs: Tensor) -> Tensor:
    """The guide's most probable latents but for labels, laid end to end: (batch, d), where d may be 0."""
    found = [z.flatten(1) for name, z in model.encode(**inputs).items() if name != "y"]
    return torch.cat([inputs["x"].new_empty(len(inputs["x"]), 0), *found], dim=1)


def draw_latents_by_label(model: LatentVariableModel, test: HeldOut, path: Path) -> None:
    """Draws the test set's most probable latents in two dimensions, or their PCA, coloured by label.

    Draws nothing if all points are equal, as one is. More than `points.MOST_LABELS` labels have one
    colour.
    """
    from matplotlib import colormaps  # imported late: these take a second
    from sklearn.decomposition import PCA

    z = torch.cat([codes(model, **inputs) for inputs, _, _ in test.chunks(1_000)]).cpu().numpy()
    if z.shape[1] < 2 or (z == z[0]).all():
        return
    title, axis = "latent means of the test set", "z"
    if z.shape[1] > 2:
        pca = PCA(2).fit(z)
        share = pca.explained_variance_ratio_.sum()
        title += f"\ntwo of {z.shape[1]} principal components, {share:.0%} of the variance"
        z, axis = pca.transform(z), "component"
    figure, axes = subplots(figsize=(7.2, 6.2), layout="constrained")
    y = None if test.y is None else test.y.cpu().numpy()
    names = np.unique([] if y is None else y)
    if not 0 < len(names) <= points.MOST_LABELS:
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


def pareto(k_hat: np.ndarray, threshold: float, path: Path) -> None:
    """A histogram of the images' Pareto k-hat, with the line above which their weights cannot be trusted."""
    finite, equal = k_hat[np.isfinite(k_hat)], np.mean(k_hat == -np.inf)
    figure, axes = subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.hist(finite, bins=60, color="C0")
    axes.axvline(
        threshold, color="C3", label=f"{threshold}: {np.mean(k_hat > threshold):.1%} of images above"
    )
    left_out = f"; {equal:.1%} of images have equal weights, and none" if equal else ""
    axes.set_xlabel(f"Pareto k-hat of the importance weights{left_out}")
    axes.set_ylabel("test images")
    axes.set_title("How far each image's importance weights can be trusted", fontsize=11)
    axes.legend(frameon=False)
    save_figure(figure, path, dpi=150)


def draw_samples(model: LatentVariableModel, path: Path, noise: bool) -> None:
    """200 samples in rows of 20; where there are labels one class a row, and the same z down a column.

    Of images that are not binary 100, in rows of 10.
    """
    what, columns = "draws of x" if noise else "mean images", 20
    if model.has_label:
        style = {name: torch.cat([z] * model.classes) for name, z in model.prior(20).items() if name != "y"}
        y = torch.arange(model.classes, device=next(model.parameters()).device).repeat_interleave(20)
        images = model.sample(len(y), y=y, latents=style, noise=noise)
        title = f"{len(images)} samples of p(x | y, z), {what}: one class a row, the same z down a column"
    else:
        n, columns = (200, 20) if model.observation == "binary" else (100, 10)
        images = model.sample(n, noise=noise)
        title = f"{n} samples of p(x), {what}"
    save_images(model, images, columns, path, title)


def draw_again(model: LatentVariableModel, path: Path) -> None:
    """Ten rows of ten draws of x, each row of the same latents: what they decide, and what they do not."""
    latents = {name: z.repeat_interleave(10, 0) for name, z in model.prior(10).items()}
    title = "10 latents, a row each: x drawn ten times from the same"
    save_images(model, model.sample(100, latents=latents), 10, path, title)


def save_images(
    model: LatentVariableModel, images: Tensor, columns: int, path: Path, title: str, pair: bool = False
) -> None:
    """Save a grid of images that are on the model's own scale."""
    save_grid(OBSERVATIONS[model.observation].shown(images), columns, path, title, pair)


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


def save_grid(
    images: Tensor, columns: int, path: Path, title: str, pair: bool = False, rows: Sequence[str] = ()
) -> None:
    """Save a grid of images under a title that says what it shows; `rows` names its rows."""
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
    axes.set_title(title, fontsize=11)
    save_figure(figure, path, dpi=150, bbox_inches="tight", pad_inches=0.05)


def curves(metrics: list[dict[str, float]], path: Path, what: str = "image", dims: int | None = None) -> None:
    """Every term over training, one panel each: minibatches, the test set, and a validation set if any.

    With `dims` dimensions an event, every term has an axis of bits per dimension too.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    lines = {split: [line for line in metrics if line["split"] == split] for split in SPLITS}
    seen = dict.fromkeys(key for split in SPLITS for line in lines[split] for key in line)
    names = [name for name in seen if name not in {"step", "split", "seconds"}]
    if sum(name.startswith("kl_") for name in names) == 1:
        names.remove("kl")  # it is the only divergence there is
    if dims and "bits_per_dim" in names:
        names.remove("bits_per_dim")  # it is an axis of the others
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure, panels = subplots(
        rows, columns, figsize=(4.0 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels.flat, names, strict=False):
        for split, (_, style) in SPLITS.items():
            points = [(line["step"], line[name]) for line in lines[split] if name in line]
            if points:
                panel.plot(*zip(*points, strict=True), **style)
        # The first steps fall from far above: without them in the vertical range the rest can be read.
        begun = 0.03 * metrics[-1]["step"]
        late = [line[name] for line in metrics if name in line and line["step"] >= begun]
        margin = max(0.06 * (max(late) - min(late)), 1e-3 * abs(max(late))) or 0.1  # constants are drawn flat
        panel.set_ylim(min(late) - margin, max(late) + margin)
        latent = name.removeprefix("kl_")
        panel.set_title(LABELS.get(name, f"KL of {latent}, q({latent} | x) from p({latent})"), fontsize=10)
        panel.set_xlabel("step")
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.set_ylabel(UNITS.get(name, f"nats per {what}"))
        if dims and name not in UNITS:
            bit = math.log(2) * dims
            axis = panel.secondary_yaxis("right", functions=(lambda v, b=bit: v / b, lambda v, b=bit: v * b))
            axis.set_ylabel("bits per dimension")
        panel.grid(alpha=0.3)
    if dims:
        figure.get_layout_engine().set(wspace=0.06)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    shown = [Line2D([], [], label=label, **style) for split, (label, style) in SPLITS.items() if lines[split]]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), frameon=False)
    save_figure(figure, path, dpi=150)
