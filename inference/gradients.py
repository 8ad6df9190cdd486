"""The gradients of a batch, from the model as it stands, or from its arithmetic, captured and replayed."""

import logging
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from shutil import which
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from inference import ranks
from inference.estimators import Loss
from inference.rewrite import choose_by_where

# How a step is taken: the Python of model, guide and autograd anew each time; or once, and then their
# arithmetic alone, operation by operation as torch does them, or in kernels that TorchInductor makes of them.
WAYS = ("plain", "graph", "kernels")
WORTH = {"graph": 500, "kernels": 5_000}  # steps from which on it is


class Gradients:
    """Calling it with a batch leaves the gradients of the loss at the parameters, as `backward` does.

    A batch of the usual number of `images`, by default what the first one has, is replayed; another, such as
    the last of an epoch, goes the plain way. Each replay draws what the plain way would draw.
    Where nothing can be captured or compiled, `say` is told, and the way before it is taken.
    """

    def __init__(
        self,
        loss: Loss,
        way: str = "plain",
        images: int | None = None,
        precision: AbstractContextManager | None = None,
        say: Callable[[str], None] = print,
    ):
        self.loss, self.way, self.images, self.say = loss, way, images, say
        self.precision = precision or nullcontext()
        self.replay: Callable[..., Any] | None = None
        norms = [part for part in loss.modules() if isinstance(part, nn.BatchNorm2d)]
        self.averages = [value for norm in norms for value in norm.buffers() if value.is_floating_point()]

    def __call__(
        self, batch: dict[str, Tensor], check: bool = False, stop: bool = False
    ) -> tuple[Tensor, bool, bool]:
        """The objective, a scalar in nats, whether it and all gradients are finite, and whether to stop.

        With `check` Pyro looks into the model and the guide, and the plain way is taken. Where processes
        train together, what is returned and the gradients are of the joint batch, and all stop where one is
        to.
        """
        usual = self.way != "plain" and not check and len(batch["x"]) == (self.images or len(batch["x"]))
        if usual and self.replay is None:
            self._make(batch)
        if usual and self.replay:
            with torch.no_grad():
                objective, good, *gradients = self.replay(*self._held(), *batch.values())
            for parameter, gradient in zip(self.reached, gradients, strict=True):
                parameter.grad = gradient
        else:
            with pyro.validation_enabled(check), self.precision:
                objective = self.loss(**batch)
            objective.backward()
            objective, good = objective.detach(), None
        if ranks.world() > 1:
            reached = [p for p in self.loss.parameters() if p.grad is not None]
            objective, stop = ranks.average(len(batch["x"]), objective, reached, self.averages, stop)
        if good is None or ranks.world() > 1:
            good = finite(objective, self.found())
        return objective, bool(good), stop

    def found(self) -> list[Tensor]:
        """The gradients at the parameters that the loss depends on."""
        return [p.grad for p in self.loss.parameters() if p.grad is not None]

    def _held(self) -> list[Tensor]:
        """What a step is given beside the batch: the parameters, the buffers and a beta that grows."""
        beta: list[Any] = [self.loss.model.beta] if self._growing() else []
        return [p.detach() for p in self.loss.parameters()] + list(self.loss.buffers()) + beta

    def _growing(self) -> bool:
        return isinstance(getattr(self.loss.model, "beta", None), Tensor)

    def _make(self, batch: dict[str, Tensor]) -> None:
        """Capture the step at a batch's shapes, and make kernels of it if these are wanted."""
        try:
            with self.precision:
                captured = self._capture(batch)
        except Exception as error:
            self.say(f"the step cannot be captured, and is taken plainly ({in_a_line(error)})")
            self.way = "plain"
            return
        self.replay, self.images = captured, len(batch["x"])
        if self.way == "kernels":
            try:
                self.replay = compiled(captured, [*self._held(), *batch.values()])
            except Exception as error:
                self.say(f"no kernels can be made, the captured step is replayed ({in_a_line(error)})")
                self.way = "graph"

    def _capture(self, batch: dict[str, Tensor]) -> GraphModule:
        """A graph of the objective, whether all is finite, and the gradients: from `_held` and a batch."""
        model: Any = self.loss.model
        parameters, buffers = dict(self.loss.named_parameters()), dict(self.loss.named_buffers())
        names, others = [*parameters, *buffers], len(parameters) + len(buffers)
        growing = self._growing()
        usual: Any = getattr(model, "beta", None)
        reached: list[nn.Parameter] = []

        def step(*given: Tensor) -> list[Tensor]:
            leaves = [value.detach().requires_grad_() for value in given[: len(parameters)]]
            held = dict(zip(names, [*leaves, *given[len(parameters) : others]], strict=True))
            if growing:
                model.beta = given[others]
            inputs = dict(zip(batch, given[others + growing :], strict=True))
            objective = functional_call(self.loss, held, kwargs=inputs)
            found = torch.autograd.grad(objective, leaves, allow_unused=True)
            reached[:] = [p for p, g in zip(self.loss.parameters(), found, strict=True) if g is not None]
            gradients = apart([g.contiguous() for g in found if g is not None])
            return [objective.detach(), finite(objective.detach(), gradients), *gradients]

        given = [*self._held(), *batch.values()]
        try:
            with pyro.validation_enabled(False):
                graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)
        finally:
            if growing:
                model.beta = usual
        self.reached = reached
        if any("c10d" in str(node.target) for node in graph.graph.nodes):
            raise RuntimeError("processes speak to each other in the midst of it")
        choose_by_where(graph)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph


def apart(tensors: list[Tensor]) -> list[Tensor]:
    """The same with no two in one place, so that each may be changed in place."""
    seen: set[int] = set()
    found = []
    for value in tensors:
        place = value.untyped_storage()._cdata
        found.append(value.clone() if place in seen else value)
        seen.add(place)
    return found


def compiled(graph: GraphModule, given: list[Any]) -> Callable[..., Any]:
    """Kernels of a graph's arithmetic, which draw from torch's own generator as the graph does."""
    # What torch says to itself, of a missing CUDA and of its own names, is not for who trains.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch._inductor.compile(graph, given, options={"fallback_random": True})


def usual_way(steps: int) -> str:
    """The way of which a run of so many steps is over first, the time that it takes to make it included."""
    compilers = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name and which(name)]
    if steps >= WORTH["kernels"] and (compilers or torch.cuda.is_available()):
        return "kernels"
    return "graph" if steps >= WORTH["graph"] else "plain"


def finite(objective: Tensor, gradients: list[Tensor]) -> Tensor:
    """Whether the objective and every gradient are finite: a sum is not where one of its terms is not."""
    return torch.stack([objective, *(g.sum() for g in gradients)]).isfinite().all()


def in_a_line(error: Exception) -> str:
    """The first line of what went wrong."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.120}" if str(error) else repr(error)
