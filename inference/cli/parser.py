"""Argument parsing that the commands share."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from inference.errors import UserError, unknown

DATA_DIR = Path("data")  # of named data sets, unless --data-dir names another


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations that raises UserError instead of exiting."""

    def __init__(self, **keywords: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}; see --help")

    def flags(self) -> set[str]:
        """Returns every option."""
        return set(self._option_string_actions)

    def parse_args(self, arguments: list[str]) -> argparse.Namespace:  # type: ignore[override]
        """Parses arguments.

        Raises:
            UserError: an argument is unknown or has a wrong value.
        """
        given, rest = self.parse_known_args(arguments)
        for argument in rest:
            name = argument.partition("=")[0]
            if name.startswith("--") and name not in self.flags():
                raise unknown("option", name, sorted(self.flags()))
        if rest:
            raise UserError(f"unexpected argument {rest[0]!r}; see --help")
        return given


def add_model_file(parser: Parser) -> None:
    """Adds --model to a command that reads runs, for runs of a user's model class."""
    about = "class of the run's model, if it is not a model of the suite"
    parser.add_argument("--model", metavar="FILE.py:CLASS", help=about)
