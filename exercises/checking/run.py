"""Checks one exercise: from a file, or from functions of a notebook."""

import os
from collections.abc import Callable, Iterable, Iterator
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyro
import torch

from exercises.checking import files
from exercises.checking.rows import Judgement, Row, judge
from inference.backend.device import double_precision
from inference.errors import UserError

Check = Callable[[Any], Iterable[Row]]


class Exercise(NamedTuple):
    """An exercise: its title, its page in docs/derivations, the names of its answers, and its check."""

    title: str
    page: str
    answers: tuple[str, ...]
    check: Check


EXERCISES: dict[str, Exercise] = {}


def exercise(number: str, title: str, page: str, *answers: str) -> Callable[[Check], Check]:
    """Registers a function that yields the rows of an exercise.

    Args:
        number: two digits.
        title: in a few words.
        page: the file in docs/derivations.
        *answers: the names that the student writes.
    """

    def register(function: Check) -> Check:
        EXERCISES[number] = Exercise(title, page, answers, function)
        return function

    return register


class CheckResult:
    """The result of `check`. It prints as a table and is shown as one in a notebook.

    Attributes:
        number: of the exercise.
        title: of the exercise.
        page: the derivation to read.
        rows: a `Judgement` per term.
    """

    def __init__(self, number: str, title: str, page: str, rows: list[Judgement]):
        self.number, self.title, self.page, self.rows = number, title, page, rows

    @property
    def solved(self) -> bool:
        """Whether every term is right."""
        return all(row.right for row in self.rows)

    def __str__(self) -> str:
        cells = list(self._cells())
        width = max(len(name) for name, *_ in cells)
        table = [
            f"  {name:{width}} {yours:>22} {truth:>22} {value:>10} {slope:>9}  {verdict}"
            for name, yours, truth, value, slope, verdict in [HEAD, *cells]
        ]
        hints = [f"  {terms}: {hint}" for hint, terms in self._hints().items()]
        return "\n".join([self._title(), *table, *hints, f"  {self._verdict()}"])

    def _repr_html_(self) -> str:
        """Returns the table as HTML, for notebooks."""
        head = "".join(f"<th>{name}</th>" for name in HEAD)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in self._cells()
        )
        hints = "".join(
            f"<li><b>{escape(terms)}</b>: {escape(hint)}</li>" for hint, terms in self._hints().items()
        )
        return (
            f"<table><caption>{escape(self._title())}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table><ul>{hints}</ul><p>{escape(self._verdict())}</p>"
        )

    def _hints(self) -> dict[str, str]:
        """Returns each hint and the terms that it is for."""
        hints: dict[str, str] = {}
        for row in self.rows:
            if not row.right:
                hints[row.hint] = f"{hints[row.hint]}; {row.term}" if row.hint in hints else row.term
        return hints

    def _title(self) -> str:
        return f"Exercise {self.number}: {self.title}. Read docs/derivations/{self.page}."

    def _cells(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Yields the cells of each row, as text."""
        for row in self.rows:
            numbers = [_text(number, ".15g") for number in (row.yours, row.truth)]
            differences = [_text(number, ".1e") for number in (row.value_difference, row.gradient_difference)]
            yield (
                row.term,
                numbers[0],
                numbers[1],
                differences[0],
                differences[1],
                "ok" if row.right else "WRONG",
            )

    def _verdict(self) -> str:
        right = sum(row.right for row in self.rows)
        return "Solved." if self.solved else f"Not yet. Right terms: {right} of {len(self.rows)}."


HEAD = ("term (mean)", "yours", "truth", "value", "gradient", "")


def _text(number: float | None, form: str) -> str:
    return "" if number is None else f"{number:{form}}"


def check(
    number: str | int, path: str | os.PathLike[str] | None = None, **answers: Callable[..., Any]
) -> CheckResult:
    """Checks an exercise, term by term, in value and in gradient.

    Args:
        number: of the exercise, "04" or 4.
        path: the file with the answers (default: the student's file in `exercises`).
        **answers: functions by name, instead of those of the file; `bound` takes self, x, latents and kl.

    Returns:
        The terms, their differences from the truth and a hint for each term that is wrong.

    Raises:
        UserError: there is no such exercise or file, or Python cannot execute the file.
    """
    import exercises.checking.topics  # registers the exercises  # noqa: F401

    number = files.canonical(str(number))
    chosen = EXERCISES[number]
    unknown = answers.keys() - set(chosen.answers)
    if unknown:
        names = ", ".join(chosen.answers)
        raise UserError(f"exercise {number} has no answer {', '.join(sorted(unknown))}. Use one of {names}.")
    path = files.student_file(number) if path is None else Path(path)
    with double_precision(), pyro.get_param_store().scope(), torch.random.fork_rng(), torch.enable_grad():
        module = None if answers.keys() == set(chosen.answers) else files.load(path)
        found = {name: getattr(module, name, None) for name in chosen.answers if name not in answers}
        methods = vars(files.own_class(module) or SimpleNamespace()) if module else {}
        found = {name: methods.get(name) if value is None else value for name, value in found.items()}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise UserError(f"{path} defines no {', '.join(missing)}. Restore the name from the exercise.")
        given = SimpleNamespace(**found, **answers, number=number, module=module)
        pyro.set_rng_seed(0)
        rows = [judge(row, path) for row in chosen.check(given)]
    for row in rows:
        if (
            not row.right
            and row.term.startswith("objective")
            and not all(other.right for other in rows if not other.term.startswith("objective"))
        ):
            row.hint = "It is the weighted sum of the terms, and one of them is wrong."
    return CheckResult(number, chosen.title, chosen.page, rows)
