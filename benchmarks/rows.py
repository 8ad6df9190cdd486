"""Tables of docs/cost.md with rows per model, of which a command measures some again."""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks import COST
from inference.cli.parser import Parser
from inference.errors import unknown
from tools.table import write_between

Rows = dict[str, list[str]]  # lines of a table by model


class ModelTable(NamedTuple):
    """A table with one or more rows per model.

    Attributes:
        marks: Lines of the page before and after it.
        head: Its first line.
        models: In the order of the rows.
    """

    marks: tuple[str, str]
    head: str
    models: tuple[str, ...]

    def parse(
        self, arguments: list[str], module: str, purpose: str, **options: dict[str, Any]
    ) -> argparse.Namespace:
        """Returns the options of a command: `model`, the models to measure, and `write`.

        Args:
            arguments: The command line.
            module: The command.
            purpose: What it does, one line.
            options: Further options; name -> what `add_argument` takes.

        Raises:
            UserError: A model is unknown.
        """
        parser = Parser(prog=f"python -m {module}", description=purpose)
        about = "measure this model only; can be repeated (default: all of them)"
        parser.add_argument("--model", action="append", metavar="NAME", help=about)
        parser.add_argument("--write", action="store_true", help="write the rows into docs/cost.md")
        for name, settings in options.items():
            parser.add_argument(f"--{name}", **settings)
        given = parser.parse_args(arguments)
        for name in given.model or ():
            if name not in self.models:
                raise unknown("model", name, self.models)
        return given

    def measure(self, given: argparse.Namespace, rows_of: Callable[[str], list[str]]) -> None:
        """Measures the models of a command line, prints the table and, if requested, updates the page.

        Args:
            given: What `parse` returns.
            rows_of: Measures a model and returns its rows.
        """
        rows: Rows = {}
        for name in given.model or self.models:
            rows[name] = rows_of(name)
            print("\n".join(rows[name]), file=sys.stderr, flush=True)
            if given.write:
                write_between(COST, self.marks, self.text(self.kept() | rows))
        print(self.text(rows))

    def kept(self) -> Rows:
        """Returns the rows of the page by model."""
        _, _, rest = COST.read_text().partition(self.marks[0])
        rows: Rows = {}
        for line in rest.partition(self.marks[1])[0].splitlines():
            if line.startswith("| `"):
                rows.setdefault(line.split("`")[1], []).append(line)
        return rows

    def text(self, rows: Mapping[str, list[str]]) -> str:
        """Returns the table of some rows."""
        lines = [self.head, "|---" * (self.head.count("|") - 1) + "|"]
        return "\n".join(lines + [line for name in self.models for line in rows.get(name, [])])
