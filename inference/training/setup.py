"""What a run is made of, from its configuration and data; what cannot be is refused before it begins."""

import math
from typing import Any

import pyro
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from inference.backend import distributed
from inference.backend.device import choose_device
from inference.data.batches import Batches, labelled
from inference.data.datasets import Dataset
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.errors import UserError
from inference.rundir.files import GIB, check_memory
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

MOST = 10_000  # parameters, as tensors: each costs a step some microseconds


def prepare(config: dict[str, Any], data: Dataset) -> tuple[LatentVariableModel, Batches, Dataset]:
    """A model with its first parameters, its batches, and the data as it takes them.

    Raises UserError where these do not go together, or need more memory than there is.
    """
    device, cls = choose_device(config["device"]), MODELS[config["model"]]
    if data.points != (cls.observation == "points"):
        kinds = ("points in the plane", f"try --data {cls.default_dataset}")
        takes, advice = kinds if cls.observation == "points" else ("images", "try --data digits")
        raise UserError(f"{config['model']} takes {takes}, and {data.name} has none: {advice}")
    if cls.observation == "codes" and data.x_train.max() >= config["options"]["codes"]:
        raise UserError(f"{data.name} has code {int(data.x_train.max())}: give --codes more than that")
    data = data.padded(cls.image_size)
    if data.y_train is None and {"y", "x_labelled"} & set(cls.inputs):
        raise UserError(
            f"{data.name} has no labels, and {config['model']} needs them: add y_train and y_test, one of "
            "0, 1, 2, ... per image, or choose another model"
        )
    labels = torch.empty(0, dtype=torch.long)
    if "x_labelled" in cls.inputs:
        labels = labelled(data, config["options"]["labels"], config["seed"], config.get("labelled"))
    batches = Batches(data, cls, config["batch_size"], config["seed"], labels, device)
    try:
        check_size(cls, data, config, device)
        pyro.set_rng_seed(config["seed"])
        model = cls(data.shape, data.classes, **config["options"]).to(device)
        Loss(model, config["elbo"], config["particles"])  # refuses what does not go together
        if config["warmup"] and ESTIMATORS[config["elbo"]].particles > 1:
            raise ValueError(f"{config['elbo']} takes no weights: leave out --warmup")
        normalises = any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
        least = distributed.world_size() * (2 if normalises else 1)  # images a batch
        if config["batch_size"] < least:
            why = "it normalises over the batch" if normalises else f"{least} processes share a batch"
            raise ValueError(f"{why}: --batch-size {least} or more")
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{config['model']} cannot be made: {str(error).splitlines()[0]}") from None
    return model, batches, data


def check_size(
    cls: type[LatentVariableModel], data: Dataset, config: dict[str, Any], device: torch.device
) -> None:
    """Raise UserError if the parameters with Adam's state, or a batch, exceed the device's free memory.

    The model is made without memory, and given up as soon as its parameters are too many.
    """
    check = check_memory
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)

        def check(need: float, what: str) -> None:
            if need > free:
                raise UserError(
                    f"{what} needs {need / GIB:.1f} GiB of memory, and {free / GIB:.1f} are free on the CUDA "
                    "device: make it smaller, or give --device cpu"
                )

    images = config["batch_size"] * config["particles"]
    what = f"a batch of {config['batch_size']} with {config['particles']} samples an image"
    check(images * math.prod(data.shape) * torch.get_default_dtype().itemsize, what)
    copies = 5 if config["ema"] else 4  # the parameter, its gradient, Adam's two averages, its own average
    tensors = total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal tensors, total
        tensors, total = tensors + 1, total + copies * parameter.nbytes
        check(total, f"{config['model']} of this size")
        if tensors > MOST:
            raise UserError(
                f"{config['model']} of this size has more than {MOST} tensors: give it fewer layers"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            cls(data.shape, data.classes, **config["options"])
    except RuntimeError:  # some of Pyro's transforms look at their numbers, and have none there
        tensors = total = 0
        cls(data.shape, data.classes, **config["options"])
    finally:
        hook.remove()
