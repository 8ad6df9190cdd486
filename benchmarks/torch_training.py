"""A whole training in plain PyTorch under `torch.compile`, or by Pyro's SVI, for `benchmarks.time_to_result`.

python -m benchmarks.torch_training torch.compile MODEL DATA_DIR

The first argument is `torch.compile`, `max-autotune` (the same with this mode), or `SVI`. The output is that
of `benchmarks/peers/training.py`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.implementations import build_model, plain, settings, svi
from benchmarks.plain_torch import IMPLEMENTATIONS
from benchmarks.time_to_result import GOALS, load, reached
from inference.backend.device import fast_float32
from inference.data.batches import Batches
from inference.data.held_out import HeldOut
from inference.elbo.estimators import ESTIMATORS
from inference.training.setup import prepare_batches
from ppl_models.base import LatentVariableModel

Evaluation = Callable[[], tuple[float, float]]  # the bound of the test set, and the accuracy


@fast_float32(torch.device("cpu"))
def main(how: str, name: str, data_dir: str) -> None:
    """Trains and prints."""
    goal, data = GOALS[name], load(name, Path(data_dir))
    torch.manual_seed(0)
    model = build_model(name)
    config = settings(model, goal.batch_size)
    batches, data = prepare_batches(type(model), model.constructor_options, config, data, torch.device("cpu"))
    test = HeldOut(data, type(model), torch.device("cpu"))
    if how == "SVI":
        step, evaluate = svi(model, batches), evaluation_by_svi(model, test)
    else:
        nets, loss = list(IMPLEMENTATIONS[name].values())[-1]()
        step = plain(nets, loss, batches, compiled=True, mode=None if how == "torch.compile" else how)
        evaluate = evaluation(loss, nets[0], batches, test)
    times: list[float] = []
    every = goal.steps // 20
    for first in range(0, goal.steps, every):
        began = time.perf_counter()
        for number in range(first, first + every):
            step(number)
        times.append((time.perf_counter() - began) / every * 1e3)
        bound, accuracy = evaluate()
        print(first + every, f"{bound:.4f}", f"{accuracy:.4f}", flush=True)
        if reached(goal, first + every, bound, accuracy):
            break
    print("ms per step", f"{np.mean(times[1:]) if times[1:] else np.nan:.4f}", flush=True)


def evaluation(
    loss: Callable[..., Tensor], classifier: Callable[[Tensor], Tensor], batches: Batches, test: HeldOut
) -> Evaluation:
    """Returns the evaluation of a model in plain PyTorch."""

    @torch.no_grad()
    def evaluate() -> tuple[float, float]:
        total, right, labelled, cross = 0.0, 0.0, {}, torch.zeros(())
        if batches.labelled:
            images, labels = batches.labelled
            labelled = {"x_labelled": images / 255, "y_labelled": labels}
            cross = 100 * F.cross_entropy(classifier(images.flatten(1) / 255), labels)
        for inputs, levels, y in test.chunks(500):
            total += float(loss(x=inputs["x"], **labelled) - cross) * len(levels)
            if batches.labelled:
                right += count(classifier(levels.flatten(1)), y)
        return total / len(test), right / len(test) if batches.labelled else 1.0

    return evaluate


def evaluation_by_svi(model: LatentVariableModel, test: HeldOut) -> Evaluation:
    """Returns the evaluation of a model that Pyro's SVI trains."""
    elbo = ESTIMATORS[model.estimators[0]].elbo(1)
    constant = 3072 / 2 * np.log(np.pi) if model.observation == "centred" else 0.0  # `conv_vae` leaves it out

    @torch.no_grad()
    def evaluate() -> tuple[float, float]:
        total, right, classifies = 0.0, 0.0, "x_labelled" in model.inputs
        with pyro.validation_enabled(False):
            for inputs, levels, y in test.chunks(500):
                total += elbo.loss(model.model, model.guide, **inputs)
                if classifies:
                    right += count(model.classify(levels), y)
        return total / len(test) - constant, right / len(test) if classifies else 1.0

    return evaluate


def count(logits: Tensor | None, y: Tensor | None) -> float:
    """The number of images that are classified correctly."""
    assert logits is not None and y is not None
    return float((logits.argmax(-1) == y).sum())


if __name__ == "__main__":
    main(*sys.argv[1:])
