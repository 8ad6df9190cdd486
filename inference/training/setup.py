"""The model, the batches and the data of a run; what does not go together is refused before training."""

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from inference.backend import distributed
from inference.backend.device import choose_device
from inference.backend.files import GIB, check_memory
from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.data.labelled import choose_labelled
from inference.data.observations import CODES, OBSERVATIONS
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.errors import UserError
from inference.rundir.config import TrainConfig, flag
from inference.rundir.run_config import RunConfig
from inference.training.gradients import BATCH_NORM
from inference.training.selection import check_metric
from inference.training.tensorboard import check_tensorboard
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

INITIAL_EXAMPLES = 10_000  # training data from which a model may set its initial values, at most
MAX_TENSORS = 10_000  # of parameters: each costs a step some microseconds


def prepare(
    config: RunConfig, data: Dataset, model: LatentVariableModel | None = None
) -> tuple[LatentVariableModel, Batches, Dataset]:
    """Builds the model of a run with its initial parameters, its batches, and the data as it observes them.

    Args:
        config: of the run.
        data: the data set.
        model: the model to train; by default a new one.

    Raises:
        UserError: these do not go together, or need more memory than is free.
    """
    device, cls = choose_device(config.device), config.model_class
    batches, data = prepare_batches(cls, config.options, config, data, device, config.labelled)
    try:
        check_size(cls, data, config, device)
        pyro.set_rng_seed(config.seed)
        model = (model or cls(data.shape, data.classes, **config.options)).to(device)
        check_training(model, config)
        check_values(model, data)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot train {config.model}: {str(error).splitlines()[0]}") from None
    check_metric(config, model, data, device)
    if config.log:
        check_tensorboard()
    initialize(model, batches)
    return model, batches, data


def initialize(model: LatentVariableModel, batches: Batches) -> None:
    """Lets a model set the initial values that depend on the training data, see `initialize` of models.

    The model gets at most `INITIAL_EXAMPLES` examples, evenly spaced in the training data.
    """
    if type(model).initialize is LatentVariableModel.initialize:
        return
    n = len(batches.x)
    index = torch.arange(0, n, -(-n // INITIAL_EXAMPLES))
    x = batches.x[index.to(batches.device) if isinstance(batches.x, torch.Tensor) else index]
    with torch.no_grad():
        model.initialize(OBSERVATIONS[model.observation].levels(x.to(batches.device)))


def prepare_batches(
    cls: type[LatentVariableModel],
    options: Mapping[str, Any],
    config: TrainConfig,
    data: Dataset,
    device: torch.device,
    indices: list[int] | None = None,
) -> tuple[Batches, Dataset]:
    """Builds the batches of a model, and the data with its padding.

    Args:
        cls: the class of the model.
        options: of the model's constructor.
        config: the settings, all of them given.
        data: the data set.
        device: where the batches are.
        indices: of the labelled training images; by default the seed chooses them.

    Raises:
        UserError: the data do not suit the model, or there are fewer than a batch needs.
    """
    check_data(cls, options, data)
    data = data.padded(cls)
    chosen = torch.empty(0, dtype=torch.long)
    if "x_labelled" in cls.inputs:
        chosen = choose_labelled(data, options["labels"], config.seed, indices)
    return Batches(data, cls, config.batch_size, config.seed, chosen, device), data


def check_data(cls: type[LatentVariableModel], options: Mapping[str, Any], data: Dataset) -> None:
    """Raises UserError if a model cannot observe a data set."""
    name = cls.registered_name or cls.__name__
    kind = OBSERVATIONS[cls.observation_of(data.shape)].data
    if data.kind is not kind:
        others = [model for model, each in MODELS.items() if observes(each, data)]
        advice = f"choose {' or '.join([', '.join(others[:-1]), others[-1]] if others[1:] else others)}"
        raise UserError(
            f"{name} observes {kind.name}, and {data.name} has {data.kind.name}: try {kind.default}"
            + (f", or {advice}" if others else "")
        )
    if cls.values_option and (most := data.largest()) >= options[cls.values_option]:  # uint8 has no 256
        value = "code" if kind is CODES else "token"
        raise UserError(f"{data.name} has {value} {most}: give {flag(cls.values_option)} more than that")
    if data.y_train is None and {"y", "x_labelled"} & set(cls.inputs):
        advice = "add y_train and y_test, one of 0, 1, 2, ... per image"
        advice = "name their column with --label-column" if data.columns else advice
        raise UserError(
            f"{data.name} has no labels, and {name} needs them: {advice}, or choose another model"
        )


def observes(cls: type[LatentVariableModel], data: Dataset) -> bool:
    """Whether a model observes data of a kind."""
    return OBSERVATIONS[cls.observation_of(data.shape)].data is data.kind


def check_values(model: LatentVariableModel, data: Dataset) -> None:
    """Raises UserError if the data have values that the model's kind of observation does not have."""
    values = OBSERVATIONS[model.observation].values
    if values is None:
        return
    for x in (data.x_train[:], data.x_test[:]):
        wrong = ~torch.isin(x, torch.tensor(values))
        if wrong.any():
            column = int(wrong.any(0).nonzero()[0])
            where = repr(data.columns.names[column]) if data.columns else column
            raise UserError(
                f"--likelihood bernoulli needs columns of {values[0]:g} and {values[1]:g} only, and column "
                f"{where} of {data.name} has other values: choose --likelihood normal"
            )


def check_training(model: LatentVariableModel, config: TrainConfig) -> None:
    """Checks that estimator, KL warm-up and batch size suit a model.

    Raises:
        ValueError: they do not.
    """
    Loss(model, config.elbo, config.particles)
    if config.kl_warmup and ESTIMATORS[config.elbo].particles > 1:
        raise ValueError(f"{config.elbo} does not support weights: leave out {flag('kl_warmup')}")
    normalises = any(isinstance(part, BATCH_NORM) for part in model.modules())
    least = distributed.world_size() * (2 if normalises else 1)  # images per batch
    if config.batch_size < least:
        why = "batch norm needs two images" if normalises else f"{least} processes share a batch"
        raise ValueError(f"{why}: --batch-size {least} or more")


def check_size(
    cls: type[LatentVariableModel], data: Dataset, config: RunConfig, device: torch.device
) -> None:
    """Checks that the parameters with Adam's state, and a batch, fit into the device's free memory.

    The model is built without memory, until its parameters are too many.

    Raises:
        UserError: they do not fit.
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

    images = config.batch_size * config.particles
    what = f"a batch of {config.batch_size} with {config.particles} samples per image"
    check(images * math.prod(data.shape) * torch.get_default_dtype().itemsize, what)
    copies = 4 + (config.ema > 0)  # the parameter, its gradient, Adam's two averages, its own average
    tensors = total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal tensors, total
        tensors, total = tensors + 1, total + copies * parameter.nbytes
        check(total, f"{config.model} of this size")
        if tensors > MAX_TENSORS:
            raise UserError(
                f"{config.model} of this size has more than {MAX_TENSORS} tensors: give it fewer layers"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            cls(data.shape, data.classes, **config.options)
    except RuntimeError:  # some of Pyro's transforms read the values of tensors, which meta tensors have not
        tensors = total = 0
        cls(data.shape, data.classes, **config.options)
    finally:
        hook.remove()
