"""The files of the exercises, which are loaded by path: their names begin with digits."""

import importlib.util
import re
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from inference.errors import UserError

FOLDER = Path(__file__).parent.parent


@cache
def numbers() -> tuple[str, ...]:
    """Returns the numbers of all exercises, "01" and so on."""
    return tuple(sorted(path.name[:2] for path in FOLDER.glob("[0-9][0-9]_*.py")))


def student_file(number: str) -> Path:
    """Returns the student's file of an exercise."""
    return _one(FOLDER, number)


def solution(number: str) -> Path:
    """Returns our solution of an exercise."""
    return _one(FOLDER / "solutions", number)


def canonical(number: str) -> str:
    """Returns the number of an exercise with two digits.

    Raises:
        UserError: there is no such exercise.
    """
    two = number.zfill(2)
    if two not in numbers():
        raise UserError(f"no exercise {number!r}. Choose one from the list of python -m exercises.check.")
    return two


def _one(folder: Path, number: str) -> Path:
    number = canonical(number)
    found = sorted(folder.glob(f"{number}_*.py"))
    if len(found) != 1:
        raise UserError(f"{folder} has {len(found)} files {number}_*.py. It needs one.")
    return found[0]


def load(path: Path) -> ModuleType:
    """Executes a file and returns its module.

    Raises:
        UserError: the file does not exist, or Python cannot execute it.
    """
    spec = importlib.util.spec_from_file_location(f"answer_{re.sub(r'[^0-9a-zA-Z]', '_', path.stem)}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"{path} is not a Python file. Give a file whose name ends with .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}. Correct the line.") from None
    except Exception as error:
        raise UserError(f"{path}: {where(error, path)}. Correct the file.") from None
    return module


def own_class(module: ModuleType) -> Any:
    """Returns the class that a file defines; None if it defines none."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            return value
    return None


def where(error: BaseException, path: Path | None = None) -> str:
    """Returns an error in one line, with the last line of the answer's file that was executed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path is not None and frame.filename == str(path)]
    line = f"line {own[-1].lineno}: " if own else ""
    return f"{line}{type(error).__name__}: {' '.join(str(error).split())}"
