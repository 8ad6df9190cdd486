"""Comparison of the bound by hand with Pyro's estimator, for registered models and for runs."""

from dataclasses import replace
from pathlib import Path

import pyro
import torch

from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.data.labelled import choose_labelled
from inference.data.observations import OBSERVATIONS
from inference.elbo.comparison import Comparison, compare
from inference.elbo.estimators import ESTIMATORS
from inference.rundir.restore import restore
from inference.rundir.run_config import RunConfig
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel


def compare_example(name: str, estimator: str, batch: int, seed: int) -> Comparison:
    """Compares a registered model with random parameters on random images.

    The KL weight beta is 1 if the estimator does not support KL weights.

    Args:
        name: the name of the model.
        estimator: a name in `ESTIMATORS`.
        batch: the number of images.
        seed: the seed of parameters, images and noise.
    """
    pyro.set_rng_seed(seed)
    cls = MODELS[name]
    weightless = ESTIMATORS[estimator].importance_weighted and cls.has_kl_weight
    model = cls(cls.padded(cls.example_shape), 10, **({"beta": 1.0} if weightless else {}))
    model.train(batch > 1)  # batch norm needs two
    result = compare(model, example_inputs(model, batch), estimator)
    return Comparison(result | {"model": name})


def compare_run(folder: Path, data_dir: Path | None, batch: int, seed: int) -> list[Comparison]:
    """Compares the model of a run on its first test images, and on its labelled images if it has any.

    Args:
        folder: the run folder.
        data_dir: the folder of the data set; None means the one that the run used.
        batch: the number of test images.
        seed: the seed of the noise.

    Raises:
        UserError: the folder is not a run.
    """
    _, config, data, model = restore(folder, data_dir)
    results = compare_trained(model.double(), config, data, batch, seed)
    return [Comparison(result | {"model": f"{config.model} of {folder}"}) for result in results]


def compare_trained(
    model: LatentVariableModel, config: RunConfig, data: Dataset, batch: int, seed: int
) -> list[Comparison]:
    """Compares a trained model on the first test images, under every estimator that applies.

    Importance-weighted estimators do not apply if beta is not 1.

    Args:
        model: the model, in float64.
        config: the configuration of its run.
        data: its data.
        batch: the number of test images.
        seed: the seed of the noise.
    """
    y = None if data.y_test is None else data.y_test[:batch]
    first = replace(data, x_test=data.x_test[:batch], y_test=y)
    inputs, _, _ = next(HeldOut(first, type(model), torch.device("cpu")).chunks(batch))
    if "x_labelled" in model.inputs and data.y_train is not None:
        labels = choose_labelled(data, config.options["labels"], config.seed, config.labelled)
        observed = OBSERVATIONS[model.observation].test(data.x_train[labels])
        inputs |= {"x_labelled": observed.to(inputs["x"]), "y_labelled": data.y_train[labels]}
    results = []
    for estimator in model.estimators:
        if not ESTIMATORS[estimator].importance_weighted or model.kl_weight == 1.0:
            pyro.set_rng_seed(seed)
            results.append(compare(model, inputs, estimator))
    return results
