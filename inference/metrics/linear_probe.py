"""What a code is worth downstream: a linear classifier on it, from few labels."""

import statistics

import torch

from inference.data.batches import OBSERVATIONS, HeldOut, labelled
from inference.data.datasets import Dataset
from inference.plots.images import codes
from ppl_models.base import LatentVariableModel

LABELS = (10, 100, 1_000)
DRAWS = 10  # of the labelled images
ACTIVE = 0.01  # variance of a latent's mean over a data set, above which it is in use
CHUNK = 1_000  # images encoded at a time


def probe(model: LatentVariableModel, data: Dataset) -> dict[str, dict[str, float]]:
    """The test accuracy of a logistic regression on the guide's most probable latents: `probe_10`, ...

    `value` is the mean over ten draws of the labelled training images, as many of each class, and `se` its
    standard error over them. Codes are read off grey levels, as accuracy is, and standardised. Nothing comes
    back where there are no labels, where the guide is given them, or where nothing continuous is latent.
    """
    from sklearn.linear_model import LogisticRegression  # imported late: it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = data.numbered()
    if data.y_train is None or data.y_test is None or data.classes < 2 or "y" in model.inputs:
        return {}
    test, figures = _codes(model, data.x_test), {}
    if not test.shape[1]:
        return {}
    fewest = int(data.y_train.bincount(minlength=data.classes).min())
    for labels in LABELS:
        if labels % data.classes or labels // data.classes > fewest:
            continue
        accuracy = []
        for seed in range(DRAWS):
            index = labelled(data, labels, seed)
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
            classifier.fit(_codes(model, data.x_train[index]).numpy(), data.y_train[index].numpy())
            accuracy.append(classifier.score(test.numpy(), data.y_test.numpy()))
        se = statistics.stdev(accuracy) / DRAWS**0.5
        figures[f"probe_{labels}"] = {"value": statistics.mean(accuracy), "se": se}
    return figures


@torch.no_grad()
def active_units(model: LatentVariableModel, test: HeldOut) -> int | None:
    """How many dimensions of the latents say something of x: those whose mean varies over a test set.

    By more than a hundredth in variance: Burda, Grosse and Salakhutdinov 2016 (arXiv 1509.00519), section 5.
    None if nothing continuous is latent, or the test set is a single image.
    """
    was_training = model.training
    model.eval()
    z = torch.cat([codes(model, **inputs | {"x": x}) for inputs, x, _ in test.chunks(CHUNK)])
    model.train(was_training)
    return int((z.var(0) > ACTIVE).sum()) if z.shape[1] and len(z) > 1 else None


def _codes(model: LatentVariableModel, x: torch.Tensor) -> torch.Tensor:
    """The continuous latents of images 0..255, or of points: (n, d), laid end to end; d is 0 without any."""
    device, levels = next(model.parameters()).device, OBSERVATIONS[model.observation].levels
    return torch.cat([codes(model, x=levels(part.to(device))) for part in x.split(CHUNK)]).cpu()
