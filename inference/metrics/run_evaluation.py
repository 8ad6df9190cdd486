"""Evaluation of a finished run: tighter bounds, linear probes, calibration and sample accuracy."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine

from inference.backend import distributed
from inference.backend.device import rng_state_preserved
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.errors import UserError
from inference.metrics.calibration import calibration
from inference.metrics.importance import ImportanceSamplingResult, importance_sample, write_netcdf
from inference.metrics.linear_probe import probe
from inference.metrics.sample_classifier import conditional_sample_accuracy
from inference.rundir.run import Run
from ppl_models.base import LatentVariableModel
from ppl_models.programs import latents_of

Metrics = dict[str, dict[str, float]]


class RunEvaluation(NamedTuple):
    """What `evaluate_full_test_set` finds.

    Attributes:
        metrics: all metrics of the test set, those that the run had before among them.
        importance: the result of importance sampling, or None if the model has no importance weights.
        why_none: the reason why it has none, or "".
    """

    metrics: Metrics
    importance: ImportanceSamplingResult | None
    why_none: str


def evaluate_full_test_set(
    run: Run, model: LatentVariableModel, data: Dataset, particles: list[int], memory: int
) -> RunEvaluation:
    """Evaluates the model of a run on its whole test set and writes the metrics into the run.

    It writes `results.json`, and a hundred samples per image with their weights to `posterior.nc`. Several
    processes share the images; the first one writes.

    Args:
        run: the run, finished.
        model: its model.
        data: its data.
        particles: numbers of samples per image in the importance-weighted bounds.
        memory: working memory of importance sampling, MiB.
    """
    results, test = run.results(), HeldOut(data, type(model), next(model.parameters()).device)
    why_none = why_no_importance_weights(model, data, results["test"])
    found, weighted = probe(model, data) | calibration(model, test), None
    if {"reconstruction", "negative_log_p"} & results["test"].keys():  # a classifier alone generates nothing
        found |= conditional_sample_accuracy(model, data)
    if not why_none:
        weighted = importance_sample(model, test, particles, memory)
        found |= weighted.metrics
        if not distributed.rank():
            write_netcdf(weighted, test.y, run.folder / "posterior.nc")
    results["test"] |= found
    run.write("results.json", results)
    return RunEvaluation(results["test"], weighted, why_none)


def evaluate_first_images(
    run: Run, model: LatentVariableModel, data: Dataset, particles: list[int], memory: int, images: int
) -> Metrics:
    """Computes importance-weighted bounds on the first test images of a run; nothing is written.

    Args:
        run: the run, finished.
        model: its model.
        data: its data.
        particles: numbers of samples per image in the bounds.
        memory: working memory, MiB.
        images: the number of images.

    Raises:
        UserError: the model has no importance weights.
    """
    why_none = why_no_importance_weights(model, data, run.results()["test"])
    if why_none:
        raise UserError(f"{run.config.model} {why_none}, and has no importance weights. Leave out --images.")
    y = None if data.y_test is None else data.y_test[:images]
    few = replace(data, x_test=data.x_test[:images], y_test=y)
    test = HeldOut(few, type(model), next(model.parameters()).device)
    return importance_sample(model, test, particles, memory).metrics


@rng_state_preserved()
def why_no_importance_weights(
    model: LatentVariableModel, data: Dataset, metrics: Mapping[str, Mapping[str, float]]
) -> str:
    """Returns why importance weights are unavailable, or "" if they are available.

    Args:
        model: the model.
        data: its data.
        metrics: the metrics of the test set that `evaluate_bounds` found.
    """
    if "negative_elbo" not in metrics:
        return "has no bound here"
    inputs, _, _ = next(HeldOut(data, type(model), torch.device("cpu")).chunks(1))
    device = next(model.parameters()).device
    with torch.no_grad(), poutine.trace() as tracer:
        model.guide(**{name: value.to(device) for name, value in inputs.items()})
    sites = (tracer.trace.nodes[name]["fn"] for name in latents_of(tracer.trace))
    return "has a guide that is a point" if all(isinstance(fn, dist.Delta) for fn in sites) else ""
