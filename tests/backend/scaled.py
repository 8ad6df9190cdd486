"""Makes steps on images that stay on disk, in one or several processes, with the same noise per image.

python tests/backend/scaled.py FILE OUT CASES

CASES is JSON, a list of [model, mode, precision, batches per step]. The state after the last step is saved in
OUT, by case. Programs are replayed, not compiled. The codebook is initialised and batch norm is in evaluation
mode: its means are over the images of a process.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.implementations import batches_of
from inference.backend import distributed
from inference.data import load_dataset, observations, stored
from inference.elbo.estimators import Loss
from inference.rundir.config import TrainConfig
from inference.training import program, steps
from inference.training.precision import precision_context
from inference.training.schedules import KLWeight
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from tests.support import NARROW_NETWORKS

BATCH, STEPS = 9, 3  # processes have different shares of a batch
SMALL: dict[str, dict[str, Any]] = {"pixel_vae": {"width": 8, "receptive_field": 2}}


def share_of(draw: Any, shape: Any, *given: Any, **named: Any) -> Tensor:
    """Samples the noise of the joint batch. Returns the part of the images of this process."""
    return distributed.local_share(draw((BATCH, *shape[1:]), *given, **named))


def dequantize(x: Tensor) -> Tensor:
    return (x + share_of(torch.rand, x.shape)) / 128 - 1


def made(
    model: LatentVariableModel, data: Any, mode: str, precision: str, accumulate: int
) -> dict[str, list[Tensor]]:
    """The gradients' moving averages, and parameters and buffers, after the last step."""
    settings: dict[str, Any] = {"batch_size": BATCH, "accumulate": accumulate}
    settings |= {"precision": precision} if precision == "bfloat16" else {}
    config = TrainConfig(compile=mode, clip=0.5, **settings).resolved(type(model), model.shape)
    batches = batches_of(model, BATCH, data)
    assert isinstance(batches.x, stored.Rows)
    if batches.observation is observations.dequantize:
        batches.observation = dequantize
    context = precision_context(precision, model, "cpu")
    loss, kl_weight = Loss(model, config.elbo, config.particles), KLWeight(model, 0, batches.device)
    given = (loss, batches, config, kl_weight, context, lambda *_: "not finite", print)
    training = steps.Steps(*given)
    for step in range(STEPS):
        torch.manual_seed(step)
        assert training.make(step, 1, False) == steps.Made(1, None, False)
    assert (training.program is not None) == (mode == "inductor")
    means = [training.optimizer.state[p]["exp_avg"] for p in loss.parameters()]
    return {"gradients": means, "parameters": list(model.state_dict().values())}


def main(file: str, out: str, cases: str) -> None:
    stored.LIMIT = 0
    program.compiled = lambda graph, given, path: lambda inputs: graph(*inputs)
    program.cached_program = lambda path: None
    for module, constant, number in NARROW_NETWORKS:
        setattr(module, constant, number)
    normal = torch.distributions.normal
    normal._standard_normal = partial(share_of, normal._standard_normal)
    results = {}
    with distributed.process_group():
        for case in json.loads(cases):
            name, _, precision, _ = case
            torch.set_default_dtype(torch.float32 if precision == "bfloat16" else torch.float64)
            data = load_dataset(file)
            torch.manual_seed(0)
            model = MODELS[name](data.shape, **SMALL.get(name, {}))
            for part in model.modules():
                part.train(not isinstance(part, nn.BatchNorm2d))
            if model.has_codebook:
                model.codebook.initialized.fill_(True)
            results[" ".join(map(str, case))] = made(model, data, *case[1:])
        if distributed.rank() == 0:
            torch.save(results, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
