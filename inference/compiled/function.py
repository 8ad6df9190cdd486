"""A function of a model without gradients, as one compiled program."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from inference.backend.snapshots import RandomState
from inference.compiled.capture import record
from inference.compiled.checks import TOLERANCES, description, norm, one_line
from inference.compiled.compiler import Compiled, cache_path, cached_program, compiled

Function = Callable[..., dict[str, Tensor]]


class _Module(nn.Module):
    """A function of a model as a module, whose parameters and buffers can be replaced."""

    def __init__(self, function: Function, model: nn.Module):
        super().__init__()
        self.function, self.model = function, model

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.function(self.model, **inputs)


class CompiledFunction:
    """Computes a function of a model and tensors by a compiled program where it can.

    The first result is compared with that of the function itself. If the two differ, or if the function
    cannot be captured or compiled, `say` prints one line with the reason, and all results are eager. So are
    those for inputs of other shapes than the first. The program follows the model's parameters.

    Args:
        function: returns tensors by name, of a model and tensors given by keyword. Its results may be random,
            but which operations it does must not depend on values.
        model: the model.
        name: of the function, in the cache and in messages.
        say: prints a line.
    """

    def __init__(self, function: Function, model: nn.Module, name: str, say: Callable[[str], None]):
        self.module, self.name, self.say = _Module(function, model), name, say
        self.usable = True
        self.run: Compiled | None = None
        self.names: list[str] = []  # of the results
        self.shapes: list[torch.Size] = []

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Returns the results of the function."""
        given = self._given(inputs)
        if not self.usable or (self.run and [value.shape for value in given] != self.shapes):
            return self.module(inputs)
        if self.run:
            return dict(zip(self.names, self.run(given), strict=True))
        return self._first(inputs, given)

    def _given(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """The inputs of the program."""
        held = chain(self.module.parameters(), self.module.buffers())
        return [*(value.detach() for value in held), *inputs.values()]

    def _first(self, inputs: dict[str, Tensor], given: list[Tensor]) -> dict[str, Tensor]:
        """Computes the first results eagerly, loads or compiles the program, and compares the two."""
        device = given[-1].device
        random = RandomState(device)
        expected = self.module(inputs)
        after = RandomState(device)
        self.names, self.shapes = list(expected), [value.shape for value in given]
        held = [name for name, _ in chain(self.module.named_parameters(), self.module.named_buffers())]

        def step(*values: Tensor) -> list[Tensor]:
            batch = dict(zip(inputs, values[len(held) :], strict=True))
            with torch.no_grad():
                found = functional_call(self.module, dict(zip(held, values, strict=False)), (batch,))
            return list(found.values())

        shapes = [(value.shape, value.dtype, value.stride()) for value in given]
        model = self.module.model
        path = cache_path(repr((self.name, description(model), model.training, str(device), shapes)))
        problem = "there is no program in the cache"
        try:
            for cached in (True, False):
                run = cached_program(path) if cached else self._compiled(step, given, path)
                if run:
                    random.restore()
                    found = dict(zip(self.names, run(given), strict=True))
                    problem = _difference(found, expected)
                if run and not problem:
                    self.run = run
                    return found  # not `expected`, so that a resumed run repeats the uninterrupted one
        except Exception as error:
            problem = one_line(error)
        self.usable = False
        self.say(f"the {self.name} cannot be compiled: {problem}")
        after.restore()
        return expected

    def _compiled(self, step: Callable[..., list[Tensor]], given: list[Tensor], path: Path) -> Compiled:
        """Compiles a function of tensors, and keeps the program in a file."""
        return compiled(record(step, given, split_addmm=not given[-1].is_cuda), given, path)


def _difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Says how a program's results differ from the eager ones, or "" if by rounding only."""
    first = next(iter(expected.values()))
    of_first, of_result = TOLERANCES[first.dtype]
    for name, theirs in expected.items():
        apart = norm([found[name].double() - theirs.double()])
        if not apart <= max(of_result * norm([theirs]), of_first * norm([first])):
            return f"its {name} differs from the eager one by {apart:.1e} of {norm([theirs]):.1e}"
    return ""
