"""Training steps of the suite, of plain PyTorch and of `pyro.infer.SVI`.

Every step takes its batch from a data set, samples the noise of the observations, and updates the parameters
by Adam with learning rate 0.001.
"""

from collections.abc import Callable

import pyro
import torch
from torch import Tensor, nn

from benchmarks.plain_torch import IMPLEMENTATIONS
from benchmarks.timing import StepTimer, repeated, step_timer
from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.data.observations import OBSERVATIONS
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.rundir.config import TrainConfig
from inference.training.precision import precision_context
from inference.training.schedules import KLWeight
from inference.training.setup import prepare_batches
from inference.training.steps import Steps
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

SUITE, SVI = "suite", "`pyro.infer.SVI`, validation off"
BOUNDS = {"iwae": ("vae", "iwae")}  # a model under another estimator than its first one
COMPILED = ", `torch.compile`"
COLOUR = ("conv_vae", "hvae", "fsvae", "gated_vae", "af_vae", "vqvae")  # timed at 3 x 32 x 32
BATCHES = 50  # steps per epoch, as in benchmarks/peers/steps.py
Step = Callable[[int], None]  # makes the step of a number


def contenders(name: str, size: int, mode: str = "inductor", compiled: bool = True) -> dict[str, StepTimer]:
    """Builds the training of a model on random data in every implementation that uses torch.

    Args:
        name: Name of the model.
        size: Images per batch.
        mode: Execution mode of the suite's step.
        compiled: Whether to add each plain PyTorch implementation under `torch.compile`.

    Returns:
        Name of the implementation, as in the table -> a function that makes a number of steps.
    """
    pyro.clear_param_store()  # plain SVI keeps its parameters there, under the same names for every model
    torch.manual_seed(0)
    model = build_model(name)
    batches = random_batches(model, size)
    _, estimator = BOUNDS.get(name, (name, None))
    timers = {SUITE: suite(model, batches, mode, estimator)}
    if name == "gmvae":  # shows the cost of the mixture prior
        timers[f"{SUITE}, `vae`"] = suite(build_model("vae"), batches, mode)
    for label, build in IMPLEMENTATIONS[name].items():
        timers[label] = step_timer(repeated(plain(*build(), batches)))
        if compiled:
            timers[label + COMPILED] = step_timer(repeated(plain(*build(), batches, compiled=True)))
    return {**timers, SVI: step_timer(repeated(svi(build_model(name), batches, estimator)))}


def build_model(name: str) -> LatentVariableModel:
    """Builds a model for images of MNIST's size, colour images of 32 x 32, or maps of 8 x 8 codes."""
    name, _ = BOUNDS.get(name, (name, None))
    cls = MODELS[name]
    return cls(cls.padded((3, 32, 32) if name in COLOUR else cls.example_shape), 10)


def random_batches(model: LatentVariableModel, size: int) -> Batches:
    """Returns batches of random images, codes or points for a model."""
    n = BATCHES * size
    kind = OBSERVATIONS[model.observation].data
    x = kind.example(model.shape, n, model.levels)
    y = torch.arange(n) % max(model.classes, 1)
    labels = (y, y[:0]) if model.classes else (None, None)
    return batches_of(model, size, Dataset("random", x, labels[0], x[:0], labels[1], kind=kind))


def batches_of(model: LatentVariableModel, size: int, data: Dataset) -> Batches:
    """Returns the batches of a data set for a model, on the model's device."""
    options, config = model.constructor_options, settings(model, size)
    return prepare_batches(type(model), options, config, data, next(model.parameters()).device)[0]


def settings(model: LatentVariableModel, size: int, mode: str = "eager", **given: object) -> TrainConfig:
    """The settings of the suite's training: as in the other implementations, without the models' extras."""
    off = {"schedule": "constant", "lr_warmup": 0, "kl_warmup": 0, "clip": 0.0, "ema": 0.0}
    config = TrainConfig(compile=mode, batch_size=size, lr=1e-3, **off, **given)  # type: ignore[arg-type]
    return config.resolved(type(model), model.shape)


def suite(
    model: LatentVariableModel,
    batches: Batches,
    mode: str,
    estimator: str | None = None,
    particles: int | None = None,
    accumulate: int = 1,
    precision: str = "float32",
    say: Callable[[str], None] = print,
) -> StepTimer:
    """Returns the suite's training, without log lines, evaluations and checkpoints.

    `say` gets a line if the steps cannot be compiled.
    """
    given = {"elbo": estimator, "particles": particles, "accumulate": accumulate, "precision": precision}
    config = settings(model, batches.size, mode, **given)
    loss, kl_weight = Loss(model, config.elbo, config.particles), KLWeight(model, 0, batches.device)
    context = precision_context(precision, model, batches.device.type)
    steps = Steps(loss, batches, config, kl_weight, context, lambda *_: "not finite", say)
    number = 0

    def make(count: int) -> None:
        nonlocal number
        end = number + count
        while number < end:
            number += steps.make(number, end - number, False).steps

    return step_timer(make)


def plain(
    nets: list[nn.Module],
    loss: Callable[..., Tensor],
    batches: Batches,
    lr: float = 1e-3,
    compiled: bool = False,
    mode: str | None = None,
) -> Step:
    """Returns a training step as it is usually written in plain PyTorch.

    Args:
        nets: The networks.
        loss: The loss of a batch.
        batches: The batches.
        lr: The learning rate.
        compiled: Whether the step, from the indices of its images on, is a function under `torch.compile`.
        mode: The mode of `torch.compile`.
    """
    rate = torch.tensor(lr) if compiled else lr  # a number would be a constant of the program
    optimizer = torch.optim.Adam((p for net in nets for p in net.parameters()), lr=rate, fused=True)

    def update(*tensors: Tensor) -> None:
        loss(**batches.select(*tensors)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    function = torch.compile(update, mode=mode) if compiled else update
    return lambda number: function(*batches.tensors(number))


def svi(model: LatentVariableModel, batches: Batches, estimator: str | None = None) -> Step:
    """Returns a training step as in Pyro's tutorials, with the parameter store and Pyro's Adam.

    Pyro's validation is off, as in the suite's step.
    """

    def program(**batch: Tensor) -> None:
        pyro.module("model", model)
        model.model(**batch)

    chosen = ESTIMATORS[estimator or model.estimators[0]]
    elbo = chosen.elbo(chosen.particles)
    step = pyro.infer.SVI(program, model.guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step

    def unchecked(number: int) -> None:
        with pyro.validation_enabled(False):
            step(**batches(number))

    return unchecked
