"""The evaluation of a chunk of held-out images as one compiled program."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from inference.metrics.bounds import Terms, chunk_terms
from inference.training.capture import record
from inference.training.compiler import Compiled, cache_path, cached_program, compiled
from inference.training.gradients import TOLERANCES, norm, one_line
from inference.training.program import description
from inference.training.state import RandomState
from ppl_models.base import LatentVariableModel


class _Chunk(nn.Module):
    """`chunk_terms` of a model, with one sample per image."""

    def __init__(self, model: LatentVariableModel):
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor], without_noise: Tensor) -> Terms:
        return chunk_terms(self.model, inputs, without_noise, 1)


class CompiledTerms:
    """Computes what `chunk_terms` does, by a compiled program where it can.

    The first chunk is compared with the eager evaluation. If the two differ, or if the evaluation cannot be
    captured or compiled, `say` prints one line with the reason, and all chunks are evaluated eagerly.
    So are chunks of another size, and those with several samples per image.

    Args:
        model: the model.
        say: prints a line.
    """

    def __init__(self, model: LatentVariableModel, say: Callable[[str], None]):
        self.chunk, self.say = _Chunk(model), say
        self.usable = type(model).code_counts is LatentVariableModel.code_counts  # counting depends on values
        self.run: Compiled | None = None
        self.names: list[str] = []
        self.shapes: list[torch.Size] = []

    def __call__(
        self, model: LatentVariableModel, inputs: dict[str, Tensor], without_noise: Tensor, samples: int
    ) -> Terms:
        """See `chunk_terms`."""
        given = self._given(inputs, without_noise)
        if not self.usable or samples > 1 or (self.run and [value.shape for value in given] != self.shapes):
            return chunk_terms(model, inputs, without_noise, samples)
        return self._named(self.run(given)) if self.run else self._first(inputs, without_noise, given)

    def _given(self, inputs: dict[str, Tensor], without_noise: Tensor) -> list[Tensor]:
        """The inputs of the program."""
        held = [value.detach() for value in chain(self.chunk.parameters(), self.chunk.buffers())]
        return [*held, *inputs.values(), without_noise]

    def _named(self, values: list[Tensor]) -> Terms:
        """The outputs of the program by name."""
        found = dict(zip(self.names, values, strict=False))
        return Terms(found, values[-1] if len(values) > len(found) else None, None)

    def _first(self, inputs: dict[str, Tensor], without_noise: Tensor, given: list[Tensor]) -> Terms:
        """Evaluates a chunk eagerly, loads or compiles the program, and compares the two."""
        random = RandomState(without_noise.device)
        expected = chunk_terms(self.chunk.model, inputs, without_noise, 1)
        after = RandomState(without_noise.device)
        self.names, self.shapes = list(expected.values), [value.shape for value in given]
        held = [name for name, _ in chain(self.chunk.named_parameters(), self.chunk.named_buffers())]

        def step(*values: Tensor) -> list[Tensor]:
            batch = dict(zip(inputs, values[len(held) : -1], strict=True))
            with torch.no_grad():
                arguments = batch, values[-1]
                found = functional_call(self.chunk, dict(zip(held, values, strict=False)), arguments)
            return [*found.values.values(), *([] if found.logits is None else [found.logits])]

        shapes = [(value.shape, value.dtype, value.stride()) for value in given]
        path = cache_path(repr((description(self.chunk.model), str(without_noise.device), shapes)))
        problem = "there is no program in the cache"
        try:
            for cached in (True, False):
                run = cached_program(path) if cached else compiled(record(step, given), given, path)
                if run:
                    random.restore()
                    found = self._named(run(given))
                    problem = _difference(found, expected)
                if run and not problem:
                    self.run = run
                    return found  # not `expected`, so that a resumed run repeats the uninterrupted one
        except Exception as error:
            problem = one_line(error)
        self.usable = False
        self.say(f"the evaluation cannot be compiled: {problem}")
        after.restore()
        return expected


def _difference(found: Terms, expected: Terms) -> str:
    """Says how a program's terms differ from the eager ones, or "" if by rounding only."""
    first = next(iter(expected.values.values()))
    of_value, of_term = TOLERANCES[first.dtype]
    pairs = {name: (found.values[name], value) for name, value in expected.values.items()}
    if expected.logits is not None and found.logits is not None:
        pairs["logits"] = found.logits, expected.logits
    for name, (ours, theirs) in pairs.items():
        apart = norm([ours.double() - theirs.double()])
        if not apart <= max(of_term * norm([theirs]), of_value * norm([first])):
            return f"its {name} differs from the eager one by {apart:.1e} of {norm([theirs]):.1e}"
    return ""
