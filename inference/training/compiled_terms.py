"""The evaluation of a chunk of held-out images as one compiled program."""

from collections.abc import Callable

from torch import Tensor

from inference.compiled.function import CompiledFunction
from inference.metrics.bounds import Terms, chunk_terms
from ppl_models.base import LatentVariableModel


class CompiledTerms:
    """Computes what `chunk_terms` does, by a compiled program where it can: see `CompiledFunction`.

    Chunks with several samples per image are evaluated eagerly.

    Args:
        model: the model.
        say: prints a line.
    """

    def __init__(self, model: LatentVariableModel, say: Callable[[str], None]):
        self.function = CompiledFunction(_terms, model, "evaluation", say)
        self.usable = type(model).code_counts is LatentVariableModel.code_counts  # counting depends on values

    def __call__(
        self, model: LatentVariableModel, inputs: dict[str, Tensor], without_noise: Tensor, samples: int
    ) -> Terms:
        """See `chunk_terms`."""
        if not self.usable or samples > 1:
            return chunk_terms(model, inputs, without_noise, samples)
        values = self.function(**inputs, without_noise=without_noise)
        logits = values.pop("logits", None)
        return Terms(values, logits, None)


def _terms(model: LatentVariableModel, *, without_noise: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
    """Returns the values of `chunk_terms` and the logits, with one sample per image."""
    found = chunk_terms(model, inputs, without_noise, 1)
    return found.values | ({} if found.logits is None else {"logits": found.logits})
