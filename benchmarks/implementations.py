"""Training steps of the suite, of plain PyTorch and of `pyro.infer.SVI`."""

from collections.abc import Callable

import pyro
import torch
from torch import Tensor, nn

from benchmarks.plain_torch import IMPLEMENTATIONS
from benchmarks.timing import Step
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.training.gradients import Gradients
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

SUITE, SVI = "suite", "`pyro.infer.SVI`, validation off"
COLOUR = ("conv_vae", "hvae", "fsvae", "gated_vae", "af_vae", "vqvae")  # timed at 3 x 32 x 32


def contenders(name: str, mode: str = "inductor", compiled: bool = True) -> dict[str, Step]:
    """Builds the training step of a model in every implementation that uses torch.

    Args:
        name: Name of the model.
        mode: Execution mode of the suite's step.
        compiled: Whether to add each plain PyTorch implementation under `torch.compile`.

    Returns:
        Name of the implementation, as in the table -> its step.
    """
    pyro.clear_param_store()  # plain SVI keeps its parameters there, under the same names for every model
    torch.manual_seed(0)
    steps: dict[str, Step] = {SUITE: suite(build_model(name), mode)}
    if name == "gmvae":  # shows the cost of the mixture prior
        steps[f"{SUITE}, `vae`"] = suite(build_model("vae"), mode)
    for label, build in IMPLEMENTATIONS[name].items():
        steps[label] = plain(*build())
        if compiled:
            nets, loss = build()
            steps[f"{label}, `torch.compile`"] = plain(nets, torch.compile(loss))
    return {**steps, SVI: svi(build_model(name))}


def build_model(name: str) -> LatentVariableModel:
    """Builds a model for images of MNIST's size, colour images of 32 x 32, or maps of 8 x 8 codes."""
    cls = MODELS[name]
    return cls(cls.padded((3, 32, 32) if name in COLOUR else cls.example_shape), 10)


def suite(
    model: LatentVariableModel, mode: str, estimator: str | None = None, particles: int | None = None
) -> Step:
    """Returns the training step of `inference.training.loop.Loop`."""
    gradients = Gradients(Loss(model, estimator or model.estimators[0], particles), mode)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(**batch: Tensor) -> None:
        _, good, _ = gradients(batch)
        if good:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain(nets: list[nn.Module], loss: Callable[..., Tensor], lr: float = 1e-3) -> Step:
    """Returns a training step as it is usually written in plain PyTorch."""
    optimizer = torch.optim.Adam((p for net in nets for p in net.parameters()), lr=lr, fused=True)

    def step(**batch: Tensor) -> None:
        optimizer.zero_grad()
        loss(**batch).backward()
        optimizer.step()

    return step


def svi(model: LatentVariableModel) -> Step:
    """Returns a training step as in Pyro's tutorials, with the parameter store and Pyro's Adam.

    Pyro's validation is off, as in the suite's step.
    """

    def program(**batch: Tensor) -> None:
        pyro.module("model", model)
        model.model(**batch)

    elbo = ESTIMATORS[model.estimators[0]].elbo(1)
    step = pyro.infer.SVI(program, model.guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step

    def unchecked(**batch: Tensor) -> None:
        with pyro.validation_enabled(False):
            step(**batch)

    return unchecked
