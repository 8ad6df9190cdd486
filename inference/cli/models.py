"""Model classes from a user's file or from another package: `--model FILE.py:CLASS`, and entry points."""

import hashlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from inference.errors import UserError
from inference.rundir.run_config import MODEL_FILES, model_argument
from ppl_models import MODELS, LatentVariableModel, register

GROUP = "ppl_models.models"  # of entry points: name = "package.module:Class"


def with_registered_model(arguments: list[str]) -> list[str]:
    """Registers the model classes that arguments name, and those of installed packages.

    Args:
        arguments: of a command.

    Returns:
        The arguments, with the name of the class in place of `--model FILE.py:CLASS`.

    Raises:
        UserError: the file or the class cannot be used, or the class is not named.
    """
    register_entry_points()
    found = list(arguments)
    for i, argument in enumerate(found):
        option, equals, value = argument.partition("=")
        if option == "--model" and equals and _names_file(value):
            found[i] = f"--model={register_from_file(value)}"
        elif i and found[i - 1] == "--model" and _names_file(argument):
            found[i] = register_from_file(argument)
    return found


def _names_file(value: str) -> bool:
    return ".py:" in value or value.endswith(".py")


def as_typed(arguments: list[str]) -> list[str]:
    """Undoes `with_registered_model`: names the file and the class again."""
    found = list(arguments)
    for i, argument in enumerate(found):
        if argument.startswith("--model="):
            found[i] = f"--model={model_argument(argument.partition('=')[2])}"
        elif i and found[i - 1] == "--model":
            found[i] = model_argument(argument)
    return found


def register_from_file(spec: str) -> str:
    """Imports a file and registers a model class of it.

    Args:
        spec: FILE.py:CLASS.

    Returns:
        The name under which it is registered: the one that the file registers, or the class's in lower case.

    Raises:
        UserError: the file or the class cannot be used.
    """
    path, name = (spec, "") if spec.endswith(".py") else spec.rsplit(":", 1)
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}. Name a model as FILE.py:CLASS.")
    module = _imported(Path(path))
    cls = getattr(module, name, None)
    if not _is_model_class(cls):
        what = f"{path} has no model class {name!r}" if name else f"{path} names no class"
        own = [key for key, value in vars(module).items() if _is_model_class(value, module.__name__)]
        named = " or ".join(f"{path}:{key}" for key in own)
        advice = f"Give {named}" if own else "Derive a class in it from ppl_models.LatentVariableModel"
        raise UserError(f"{what}. {advice}.")
    if not cls.registered_name:
        try:
            register(snake_case(name), cls)
        except ValueError as error:
            raise UserError(str(error)) from None
    assert cls.registered_name
    MODEL_FILES[cls.registered_name] = spec
    return cls.registered_name


def _is_model_class(value: Any, module: str = "") -> TypeGuard[type[LatentVariableModel]]:
    """Whether a value is a model class, and one of a module if its name is given."""
    return (
        isinstance(value, type)
        and issubclass(value, LatentVariableModel)
        and module in ("", value.__module__)
    )


def _imported(path: Path) -> ModuleType:
    """Imports a file once, however it is named."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        reason = str(error).splitlines()[0] if str(error) else ""
        where = _line_of(error, path)
        raise UserError(
            f"cannot import {path} ({where}{type(error).__name__}: {reason:.200}). Correct the file; "
            f"python {path} shows the whole error."
        ) from error
    return module


def _line_of(error: Exception, path: Path) -> str:
    """Returns the line of a file at which its import failed, as "line N: "; "" if that is unknown."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    lines = [line for name, line in places if line and Path(name).resolve() == path.resolve()]
    return f"line {lines[-1]}: " if lines else ""


def register_entry_points() -> None:
    """Registers the models of installed packages.

    Raises:
        UserError: one cannot be imported or registered.
    """
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name not in MODELS:
            try:
                register(entry.name, entry.load())
            except (ImportError, AttributeError, ValueError) as error:
                raise UserError(f"cannot register the model {entry.value}: {error!s:.200}") from None


def snake_case(name: str) -> str:
    """FactorAnalysis -> factor_analysis."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
