"""The figures of a run: draws everything that its model supports into the run's folder."""

import math

import torch

from inference.data.batches import Batches
from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS, POINTS
from inference.plots import points
from inference.plots.curves import draw_curves
from inference.plots.images import (
    count_images,
    draw_from_same_latents,
    draw_interpolations,
    draw_latents_by_label,
    draw_reconstructions,
    draw_samples,
    save_images,
)
from inference.plots.text import write_text
from inference.rundir.run import Run
from ppl_models.base import LatentVariableModel


def draw_all(model: LatentVariableModel, batches: Batches, test: HeldOut, run: Run) -> None:
    """Draws every figure that the model supports into `run.figures`; preserves the RNG state.

    Args:
        model: the trained model.
        batches: the training set.
        test: the test set.
        run: the run that gets the figures and whose metrics the curves show.
    """
    run.figures.mkdir(exist_ok=True)
    kind = OBSERVATIONS[model.observation].data
    dims = math.prod(model.shape) if kind is POINTS else None
    draw_curves(run.metrics(), run.figures / "curves.png", kind.noun, dims)
    was_training = model.training
    model.eval()
    with torch.random.fork_rng([test.device] if test.device.type == "cuda" else []):
        torch.manual_seed(0)
        if kind.drawn:
            FIGURES[kind.drawn](model, batches, test, run)
    model.train(was_training)


def draw_images(model: LatentVariableModel, batches: Batches, test: HeldOut, run: Run) -> None:
    """Draws training images, samples and, if the model has latents, reconstructions and codes."""
    seen = batches(0)["x"][:5]
    title = f"{count_images(len(seen), 'training')} as the model sees {'them' if len(seen) > 1 else 'it'}"
    save_images(model, seen, len(seen), run.figures / "training.png", title)
    if "negative_log_p" in run.metrics()[-1]:  # a density without latents
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
        save_images(model, means, 4, run.figures / "samples_16.png", "mean images of 16 samples of p(x)")
    else:
        draw_from_same_latents(model, run.figures / "redrawn.png")
    if not len(test):
        return
    draw_reconstructions(model, test, run.figures)
    if not model.has_label:  # the midpoint of two labels is not a label
        draw_interpolations(model, test, run.figures / "interpolations.png")
    draw_latents_by_label(model, test, run.figures / "latents.png")


@torch.no_grad()
def draw_points(model: LatentVariableModel, batches: Batches, test: HeldOut, run: Run) -> None:
    """Draws samples next to the data, latents of the training points, the columns of a table, and p(x).

    The density p(x) is drawn if it is tractable and the points are in the plane.
    """
    levels = OBSERVATIONS[model.observation].levels
    seen = levels(batches.x[:])
    x = levels(test.raw[:]) if len(test) else seen
    points.draw_samples(model, x, run.figures / "samples.png")
    points.draw_latents_of_data(model, seen, batches.y, run.figures / "latents.png")
    if test.data.columns:
        points.draw_columns(model, x, test.data.columns, run.figures / "columns.png")
    if model.shape != (2,):
        return
    box = points.box_around(x)
    log_p = model.log_likelihood(points.grid_points(box, 200).to(x))
    if log_p is not None:
        points.draw_density(log_p.unflatten(0, (200, 200)), box, run.figures / "density.png")


FIGURES = {"images": draw_images, "points": draw_points, "text": write_text}  # by `DataKind.drawn`
