"""Lists the public API: names, parameters and defaults.

python -m tools.public_api             print the list
python -m tools.public_api --write     write it into docs/public_api.txt

A test compares the list with the code, so that a change of the public API is deliberate.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from inference.backend.files import write_whole
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from ppl_models.base import LatentVariableModel

FILE = Path(__file__).parents[1] / "docs" / "public_api.txt"
MODULES = ("inference", "inference.data", "inference.errors", "inference.testing", "ppl_models")
NAMES = {"inference.errors": ["UserError"], "inference.testing": ["check_model"]}  # else `__all__`


def public_api() -> list[str]:
    """Returns the lines of the list."""
    found: list[str] = []
    for module in MODULES:
        there = import_module(module)
        # A command's module that was imported hides the public function of its name.
        get = vars(there).get("__getattr__", partial(getattr, there))
        for name in sorted(NAMES.get(module) or there.__all__):
            found += _lines(f"{module}.{name}", get(name))
    return found


def _lines(name: str, value: Any) -> Iterator[str]:
    """Lists a name and, of a class, its public members. Models have those of `LatentVariableModel`."""
    if not inspect.isclass(value):
        yield f"{name}{_parameters(value) if callable(value) else ''}"
        return
    yield f"{name}{'' if issubclass(value, Exception) else _parameters(value)}"
    ours = [
        base for base in value.__mro__ if base.__module__.partition(".")[0] in ("ppl_models", "inference")
    ]
    if LatentVariableModel in ours[1:]:
        return
    members = {key for base in ours for key in vars(base)}
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    for key in sorted(members - fields):
        if not key.startswith("_") and not hasattr(nn.Module, key):
            member = getattr(value, key)
            yield f"{name}.{key}{_parameters(member) if inspect.isroutine(member) else ''}"


def _parameters(function: Callable[..., Any]) -> str:
    """Returns parameters and defaults, without types: Python versions print these differently."""
    signature = inspect.signature(function)
    bare = []
    for parameter in signature.parameters.values():
        default = _Name(parameter.default) if inspect.isfunction(parameter.default) else parameter.default
        bare.append(parameter.replace(annotation=parameter.empty, default=default))
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


class _Name:
    """A function as a default, whose `repr` is its name."""

    def __init__(self, function: Callable[..., Any]):
        self.name = function.__name__

    def __repr__(self) -> str:
        return self.name


def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = Parser(prog="python -m tools.public_api", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/public_api.txt")
    text = "".join(f"{line}\n" for line in public_api())
    if parser.parse_args(arguments).write:
        write_whole(FILE, text.encode())
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    run_command(main)
