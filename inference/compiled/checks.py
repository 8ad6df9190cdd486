"""How captured functions are compared with eager ones, and described in the cache of compiled programs."""

import hashlib
import inspect
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Largest relative difference of a captured step from the eager step on the first batch: of the objective and
# of the gradient (in the Euclidean norm), by the precision of the arithmetic.
TOLERANCES = {torch.float64: (1e-10, 1e-8), torch.float32: (1e-5, 1e-3), torch.bfloat16: (1e-2, 1e-1)}


def norm(tensors: list[Tensor]) -> float:
    """Returns the Euclidean norm of the concatenated tensors."""
    return sum((value.double() ** 2).sum().item() for value in tensors) ** 0.5


def one_line(error: Exception) -> str:
    """Returns the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.160}" if str(error) else repr(error)


def description(model: nn.Module) -> list[tuple[Any, ...]]:
    """Describes the constants of a model that a captured program has: its modules with their attributes."""
    left_out = {*vars(nn.Module()), "_prefix"} - {"training"}  # _prefix differs between two instances
    found = []
    for name, part in model.named_modules():
        attributes = [(k, describe(v)) for k, v in sorted(vars(part).items()) if k not in left_out]
        found.append((name, type(part), _source(type(part)), attributes))
    return found


def _source(cls: type) -> str:
    """A digest of the file that defines a class, which may be a user's own; "" if there is none."""
    with suppress(OSError, TypeError):
        return _digest(inspect.getfile(cls))
    return ""


@cache
def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def describe(value: Any) -> str:
    """Describes an attribute of a module that a captured step may have as a constant."""
    if isinstance(value, Tensor):
        return f"{value.shape} {value.double().sum().item()}"
    if isinstance(value, bool | int | float | str | torch.Size | torch.dtype | type(None)):
        return repr(value)
    if isinstance(value, list | tuple | set):
        return str([describe(part) for part in value])
    return type(value).__name__
