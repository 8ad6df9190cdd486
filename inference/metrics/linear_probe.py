"""Linear probe: the accuracy of a linear classifier of the latents, trained on few labels."""

import statistics

from inference.data.dataset import Dataset
from inference.data.labelled import choose_labelled
from inference.metrics.codes import codes_of_levels
from ppl_models.base import LatentVariableModel

LABELS = (10, 100, 1_000)
REPEATS = 10  # random choices of the labelled images


def probe(model: LatentVariableModel, data: Dataset) -> dict[str, dict[str, float]]:
    """Computes the test accuracy of a logistic regression on the guide's most probable latents.

    The codes are those of images without noise, standardised. The labelled training images are chosen at
    random, the same number of each class.

    Args:
        model: the model.
        data: the data set as the model takes it.

    Returns:
        `probe_10`, `probe_100` and `probe_1000`, for as many labels, if there are enough images of each
        class. `value` is the mean over ten choices of the labelled images, `se` its standard error over them.
        Empty if the data have no labels, the guide takes labels as input, or no latent is continuous.
    """
    from sklearn.linear_model import LogisticRegression  # imported late: it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if data.y_train is None or data.y_test is None or data.classes < 2 or "y" in model.inputs:
        return {}
    test, metrics = codes_of_levels(model, data.x_test[:]), {}
    if not test.shape[1]:
        return {}
    smallest_class = int(data.y_train.bincount(minlength=data.classes).min())
    for labels in LABELS:
        if labels % data.classes or labels // data.classes > smallest_class:
            continue
        accuracy = []
        for seed in range(REPEATS):
            index = choose_labelled(data, labels, seed)
            train = codes_of_levels(model, data.x_train[index])
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
            classifier.fit(train.numpy(), data.y_train[index].numpy())
            accuracy.append(classifier.score(test.numpy(), data.y_test.numpy()))
        se = statistics.stdev(accuracy) / REPEATS**0.5
        metrics[f"probe_{labels}"] = {"value": statistics.mean(accuracy), "se": se}
    return metrics
