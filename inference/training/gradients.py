"""The gradients of a batch, computed eagerly or by a captured graph."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from inference.backend.snapshots import RandomState, Snapshot
from inference.compiled.capture import capture, finite
from inference.compiled.checks import TOLERANCES, norm, one_line
from inference.elbo.estimators import Loss
from inference.errors import UserError

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Gradients:
    """Computes the gradients of a loss on a batch and stores them in the parameters, as `backward` does.

    The mode "eager" runs model, guide and autograd in Python. "graph" replays the tensor operations that were
    captured once, for batches of `images` data points; batches of another size, such as the last one of an
    epoch, are eager. Both use the same random numbers.

    Before a captured step is used, it is compared once with the eager step. If they differ, or if the step
    cannot be captured, `say` prints one line with the reason, and all steps are eager.

    Args:
        loss: the loss.
        mode: "eager" or "graph".
        images: number of data points in a full batch of this process; by default that of the first batch.
        precision: returns the context in which the loss is computed, such as autocast.
        say: prints a line.
    """

    def __init__(
        self,
        loss: Loss,
        mode: str = "eager",
        images: int | None = None,
        precision: Callable[[], AbstractContextManager] = nullcontext,
        say: Callable[[str], None] = print,
    ):
        if mode not in ("eager", "graph"):
            raise ValueError(f"mode is {mode!r}. Give eager or graph.")
        self.loss, self.mode, self.images, self.precision, self.say = loss, mode, images, precision, say
        self.replay: Callable[..., Any] | None = None
        self.aliased: list[int] | None = None  # gradients that share memory, found at the first replay

    def __call__(self, batch: dict[str, Tensor], check: bool = False) -> tuple[Tensor, Tensor]:
        """Computes the gradients of a batch of this process.

        Args:
            batch: the inputs of the model.
            check: whether Pyro validates model and guide. Such a step is eager.

        Returns:
            The objective (a scalar in nats per image), and whether it and all gradients are finite.
        """
        usual = self.mode != "eager" and not check and len(batch["x"]) == (self.images or len(batch["x"]))
        good: Tensor | None = None
        if usual and self.replay is None:
            objective = self._first(batch)
        elif usual:
            objective, good = self._replayed(batch)
        else:
            objective = self._eager(batch, check)
        return objective, finite(objective, self.found()) if good is None else good

    def found(self) -> list[Tensor]:
        """Returns the gradients of the parameters that the loss depends on."""
        return [p.grad for p in self.loss.parameters() if p.grad is not None]

    def _with_gradient(self) -> list[Tensor]:
        return [p for p in self.loss.parameters() if p.grad is not None]

    def _eager(self, batch: dict[str, Tensor], check: bool = False) -> Tensor:
        """Runs model, guide and autograd."""
        store = pyro.get_param_store()
        with pyro.validation_enabled(check), self.precision(), store.scope() if check else nullcontext():
            objective = self.loss(**batch)
            if check and list(store):
                names = ", ".join(store)
                raise UserError(
                    f"pyro.param is used for {names}. Make each a torch.nn.Parameter of the model"
                )
        objective.backward()
        return objective.detach()

    def _replayed(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Runs the captured step."""
        assert self.replay is not None
        with torch.no_grad():
            inputs = [*self._held(), *batch.values()]
            objective, good, *gradients = self.replay(*inputs)
        if self.aliased is None:
            self.aliased = aliased(gradients, inputs)
        for index in self.aliased:  # clipping changes gradients in place
            gradients[index] = gradients[index].clone()
        for parameter, gradient in zip(self.reached, gradients, strict=True):
            parameter.grad = gradient
        return objective, good

    def _held(self) -> list[Tensor]:
        """The inputs of the captured step before the batch: parameters, buffers, a changing KL weight."""
        beta = self._beta()
        held = [p.detach() for p in self.loss.parameters()] + list(self.loss.buffers())
        return held if beta is None else [*held, beta]

    def _beta(self) -> Tensor | None:
        """The model's KL weight if it changes from step to step."""
        weight = self.loss.model.kl_weight
        return weight if isinstance(weight, Tensor) else None

    def _first(self, batch: dict[str, Tensor]) -> Tensor:
        """Captures the step, compares it with the eager one on this batch, and returns the objective.

        If the two agree, the gradients are those of the captured step, so that a resumed run repeats the
        uninterrupted one bit for bit.
        """
        device = batch["x"].device
        self.loss.zero_grad()
        before = _State(self.loss, device)
        expected = self._eager(batch)
        gradients, reached, after = self.found(), self._with_gradient(), _State(self.loss, device)
        if not finite(expected, gradients):
            return expected  # such a step cannot be compared: try the next batch
        self.loss.zero_grad()
        before.restore()
        try:
            with self.precision():
                self.replay, has_gradient = capture(self.loss, batch, self._beta())
            self.reached = [p for p, has in zip(self.loss.parameters(), has_gradient, strict=True) if has]
            objective, _ = self._replayed(batch)
            self._compare(objective, expected, reached, gradients, after)
            self.images = len(batch["x"])
            return objective
        except Exception as error:
            self.say(f"--compile {self.mode} cannot be used, steps are eager: {one_line(error)}")
            self.mode, self.replay = "eager", None
            self.loss.zero_grad()
            for parameter, gradient in zip(reached, gradients, strict=True):
                parameter.grad = gradient
            after.restore()
            return expected

    def _compare(
        self,
        objective: Tensor,
        expected: Tensor,
        reached: list[Tensor],
        gradients: list[Tensor],
        after: "_State",
    ) -> None:
        """Raises RuntimeError if the captured step differs from the eager one by more than rounding."""
        if [id(p) for p in self._with_gradient()] != [id(p) for p in reached]:
            raise RuntimeError("the captured step reaches other parameters than the eager step")
        autocast = self.precision is not nullcontext
        of_value, of_gradient = TOLERANCES[torch.bfloat16 if autocast else expected.dtype]
        for what, tolerance, ours, theirs in (
            ("objective", of_value, [objective], [expected]),
            ("gradient", of_gradient, self.found(), gradients),
            ("buffers", of_gradient, list(self.loss.buffers()), after.buffers.copies),
        ):
            apart, size = (
                norm([a.double() - b.double() for a, b in zip(ours, theirs, strict=True)]),
                norm(theirs),
            )
            if not apart <= tolerance * size:
                raise RuntimeError(f"its {what} differs from the eager step's by {apart:.1e} of {size:.1e}")


def batch_norm_statistics(loss: Loss) -> list[Tensor]:
    """Returns the running means and variances of batch norm, which each process updates by its own images."""
    norms = [part for part in loss.modules() if isinstance(part, BATCH_NORM)]
    return [value for norm in norms for value in norm.buffers() if value.is_floating_point()]


class _State:
    """The state that a step changes in addition to the gradients: the model's buffers and torch's RNGs."""

    def __init__(self, loss: Loss, device: torch.device):
        self.buffers, self.random = Snapshot(list(loss.buffers())), RandomState(device)

    def restore(self) -> None:
        """Restores the state in place."""
        self.buffers.restore()
        self.random.restore()


def aliased(tensors: list[Tensor], others: list[Tensor]) -> list[int]:
    """Returns the indices of tensors that share memory with an earlier one or with one of the others."""
    seen = {other.untyped_storage().data_ptr() for other in others}
    found = []
    for index, value in enumerate(tensors):
        place = value.untyped_storage().data_ptr()
        if place in seen:
            found.append(index)
        seen.add(place)
    return found
