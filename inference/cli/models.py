"""Model classes from a user's file or from another package: `--model FILE.py:CLASS`, and entry points."""

import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

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
        UserError: the file or the class cannot be used.
    """
    register_entry_points()
    found = list(arguments)
    for i, argument in enumerate(found):
        if argument.startswith("--model=") and ".py:" in argument:
            found[i] = f"--model={register_from_file(argument.partition('=')[2])}"
        elif i and found[i - 1] == "--model" and ".py:" in argument:
            found[i] = register_from_file(argument)
    return found


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
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}. Name a model as FILE.py:CLASS.")
    cls = getattr(_imported(Path(path)), name, None)
    if not (isinstance(cls, type) and issubclass(cls, LatentVariableModel)):
        raise UserError(f"{path} has no model class {name!r}. Derive it from ppl_models.LatentVariableModel.")
    if not cls.registered_name:
        try:
            register(snake_case(name), cls)
        except ValueError as error:
            raise UserError(str(error)) from None
    assert cls.registered_name
    MODEL_FILES[cls.registered_name] = spec
    return cls.registered_name


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
        raise UserError(f"cannot import {path} ({type(error).__name__}: {reason:.200})") from error
    return module


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
