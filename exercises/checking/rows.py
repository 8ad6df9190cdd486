"""One row of the table: an answer, the truth, and a hint if they differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from exercises.checking.files import where

TODO = torch.tensor(float("nan"))  # an answer that is still to be written
TOLERANCE = 1e-9  # of values and gradients, relative to the largest of the truth, at least to 1

EMPTY = "This answer is still TODO, or it is not a number. Read the page, then replace the TODO."
NO_GRADIENT = (
    "The value is right, but no gradient flows through it. Do not use detach(), item(), "
    "float() or no_grad() here."
)
WRONG_GRADIENT = (
    "The value is right, but the gradient is wrong. Look for a detach() that is missing or in the "
    "wrong place, and "
    "for a number that must be a tensor."
)
SIGN = "Your value is minus the right one. Check the sign."
NOT_FINITE = (
    "Some of your values are infinite or not a number. Look for a logarithm of 0, or a large exponential."
)
CONSTANT = (
    "Your gradient is right, and your value differs from the right one by the same constant "
    "everywhere. Look for "
    "a term without parameters that is missing or too much."
)
BATCH = "All data points have the same value: you reduced over the batch. Keep the batch axis."
UNKNOWN = "Your value is wrong, and this program does not know the mistake. Compare your line with the page."


@dataclass
class Row:
    """An answer and its truth.

    Attributes:
        term: its name.
        answer: computes the student's value.
        truth: computes the right value, from Pyro, torch or the suite.
        wrt: tensors with respect to which the gradients are compared.
        mistakes: a hint -> the value that a typical mistake gives.
        sizes: what a sum is over -> the number of its summands, to find a mean where a sum is needed.
    """

    term: str
    answer: Callable[[], Tensor]
    truth: Callable[[], Tensor]
    wrt: Sequence[Tensor] = ()
    mistakes: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Judgement:
    """What the table shows of a row; a value is None if the answer is not a number."""

    term: str
    hint: str  # "" if the answer is right
    yours: float | None = None
    truth: float | None = None
    value_difference: float | None = None
    gradient_difference: float | None = None

    @property
    def right(self) -> bool:
        """Whether value and gradient are right."""
        return not self.hint


def row(
    term: str,
    answer: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    truth: Callable[..., Tensor],
    mistakes: Mapping[str, Callable[..., Tensor]] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Row:
    """Returns the row of a function of tensors, whose gradients are with respect to its inputs.

    Args:
        term: its name.
        answer: the student's function of the inputs.
        inputs: the tensors; those that require a gradient are differentiated.
        truth: the right function of the inputs.
        mistakes: a hint -> a wrong function of the inputs.
        sizes: what a sum is over -> the number of its summands.
    """

    def bind(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: function(*inputs)

    return Row(
        term,
        bind(answer),
        bind(truth),
        [tensor for tensor in inputs if tensor.requires_grad],
        {hint: bind(wrong) for hint, wrong in (mistakes or {}).items()},
        sizes or {},
    )


def judge(row: Row, path: Path | None) -> Judgement:
    """Compares the answer of a row with its truth.

    Args:
        row: the row.
        path: the answer's file, to name the line of an error.
    """
    truth = torch.as_tensor(row.truth())
    mean = truth.detach().double().mean().item()
    try:
        answer = row.answer()
    except Exception as error:
        return Judgement(row.term, f"Your code stops with an error. {where(error, path)}", truth=mean)
    if not isinstance(answer, Tensor | float | int):
        hint = f"Your code returns {type(answer).__name__}, and a tensor is needed. Is a return missing?"
        return Judgement(row.term, hint, truth=mean)
    answer = torch.as_tensor(answer)
    if answer.isnan().all():
        return Judgement(row.term, EMPTY, truth=mean)
    yours = answer.detach().double().mean().item()
    if answer.shape != truth.shape:
        return Judgement(row.term, _shape_hint(answer, truth), yours, mean)
    if not answer.isfinite().all():
        return Judgement(row.term, NOT_FINITE, yours, mean)
    value, slope = _difference(answer, truth), None
    try:
        theirs = _gradient(answer, row.wrt)
    except Exception as error:
        hint = f"The gradient of your value cannot be computed. {where(error, path)}"
        return Judgement(row.term, hint, yours, mean, value)
    if row.wrt:
        slope = _difference(theirs, _gradient(truth, row.wrt))
    hint = ""
    if value > TOLERANCE:
        hint = _hint(row, answer, truth) or (CONSTANT if _only_shifted(answer, truth, slope) else UNKNOWN)
    elif slope is not None and slope > TOLERANCE:
        hint = WRONG_GRADIENT if theirs.any() else NO_GRADIENT
    return Judgement(row.term, hint, yours, mean, value, slope)


def _difference(a: Tensor, b: Tensor) -> float:
    """Returns the largest difference, relative to the largest value of b, at least to 1."""
    a, b = a.detach().double(), b.detach().double()
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item() if b.numel() else 0.0


def _gradient(value: Tensor, wrt: Sequence[Tensor]) -> Tensor:
    """Returns the gradient of a weighted sum of values: different weights show an exchange of data points."""
    if not wrt or not value.requires_grad:
        return torch.zeros(sum(tensor.numel() for tensor in wrt), dtype=torch.float64)
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    found = torch.autograd.grad((weights * value).sum(), wrt, retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def _hint(row: Row, answer: Tensor, truth: Tensor) -> str:
    """Returns the hint for a wrong value: a typical mistake of the row, a sign or a factor; or ""."""
    for hint, wrong in row.mistakes.items():
        value = torch.as_tensor(wrong())
        if value.shape == truth.shape and _difference(answer, value) <= TOLERANCE:
            return hint
    if _difference(answer, -truth) <= TOLERANCE:
        return SIGN
    if truth.ndim and any(
        _difference(answer, over_batch.expand_as(truth)) <= TOLERANCE
        for over_batch in (truth.mean(0), truth.sum(0))
    ):
        return BATCH
    largest = truth.abs().argmax()
    factor = (answer.flatten()[largest] / truth.flatten()[largest]).item()
    if truth.abs().max() == 0 or factor == 0 or _difference(answer, factor * truth) > TOLERANCE:
        return ""
    if abs(factor - 1) < 1e-3:
        return (
            f"Your value is off by a factor of 1 + {factor - 1:.0e}. Look for a rounded constant, or float32."
        )
    for name, size in row.sizes.items():
        if abs(factor * size - 1) < 1e-9:
            return f"Your value is 1/{size} of the right one: a mean over the {name}, and a sum is needed."
    return f"Your value is {factor:.6g} times the right one everywhere. Look for a constant factor."


def _only_shifted(answer: Tensor, truth: Tensor, slope: float | None) -> bool:
    shift = (answer - truth).detach()
    return (
        (slope is None or slope <= TOLERANCE)
        and answer.numel() > 1
        and _difference(shift, shift.mean()) <= 1e-9
    )


def _shape_hint(answer: Tensor, truth: Tensor) -> str:
    """Returns the hint for a wrong shape."""
    text = f"Your value has the shape {tuple(answer.shape)}, and {tuple(truth.shape)} is needed."
    if answer.ndim == 2 and answer.T.shape == truth.shape:
        return f"{text} It seems to be transposed."
    if answer.ndim < truth.ndim:
        return f"{text} You reduced over too many axes; every data point needs its own value."
    if answer.ndim > truth.ndim:
        return f"{text} Sum over the remaining axes."
    return f"{text} You reduced over the wrong axis."
