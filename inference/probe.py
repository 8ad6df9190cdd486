"""What a code is worth downstream: a linear classifier on it, from few labels."""

import statistics

import torch

from inference.data import labelled, unit
from inference.datasets import Dataset
from inference.figures import codes
from ppl_models.base import LatentVariableModel

LABELS = (10, 100, 1_000)
DRAWS = 10  # of the labelled images
CHUNK = 1_000  # images encoded at a time


def probe(model: LatentVariableModel, data: Dataset) -> dict[str, dict[str, float]]:
    """The test accuracy of a logistic regression on the guide's most probable latents: `probe_10`, ...

    `value` is the mean over ten draws of the labelled training images, as many of each class, and `se` its
    standard error over them. Codes are read off grey levels, as accuracy is, and standardised. Nothing comes
    back where there are no labels, or nothing continuous is latent.
    """
    from sklearn.linear_model import LogisticRegression  # imported late: it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if data.y_train is None or data.y_test is None:
        return {}
    test, figures = _codes(model, data.x_test), {}
    if not test.shape[1]:
        return {}
    fewest = int(data.y_train.bincount().min())
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


def _codes(model: LatentVariableModel, x: torch.Tensor) -> torch.Tensor:
    """The continuous latents of images 0..255, laid end to end: (n, d); d is 0 where there are none."""
    device = next(model.parameters()).device
    return torch.cat([codes(model, x=unit(part.to(device))) for part in x.split(CHUNK)]).cpu()
