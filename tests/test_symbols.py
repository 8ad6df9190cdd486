"""Every Latin letter in a formula of a derivation is in the table of symbols, for its page."""

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from tests.test_docs import DERIVATIONS, formulas

PAGES = sorted(DERIVATIONS.glob("[0-9]*.md"))
# Commands, environments and text in a formula, in which letters are not symbols.
NO_SYMBOL = re.compile(
    r"\\(?:text|mathrm|mathbb|mathcal)\s*(?:\{[^{}]*\}|[A-Za-z])|\\(?:begin|end)\{\w+\}|\\[A-Za-z]+"
)


def letters(formula: str) -> set[str]:
    """Returns the Latin letters of a formula that are symbols."""
    return set(re.findall("[A-Za-z]", NO_SYMBOL.sub(" ", formula)))


def letters_of(text: str) -> set[str]:
    """Returns the letters in the inline formulas of a text."""
    return {letter for formula in re.findall(r"\$([^$]+)\$", text) for letter in letters(formula)}


@cache
def table() -> tuple[set[str], dict[int, set[str]]]:
    """Returns the letters with a general meaning, and by page those of the last column."""
    section = (DERIVATIONS / "README.md").read_text("utf-8").partition("## Symbols")[2]
    general: set[str] = set()
    elsewhere: dict[int, set[str]] = defaultdict(set)
    for symbols, meaning, last in re.findall(r"^\|(.*?)\|(.*?)\|(.*)\|$", section, re.MULTILINE)[2:]:
        general |= letters_of(symbols) if meaning.strip() else set()
        for clause in filter(str.strip, last.split(";")):
            pages = re.search(r" on (\d+(?:(?:, | and )\d+)*)\s*$", clause)
            assert pages, f"{clause!r} does not end with its pages"
            for number in re.findall(r"\d+", pages[1]):
                elsewhere[int(number)] |= letters_of(clause)
    return general, elsewhere


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem[:2])
def test_letters_are_in_the_table_of_symbols(page: Path) -> None:
    general, elsewhere = table()
    used = {letter: line for line, formula, _ in formulas(page) for letter in letters(formula)}
    own = elsewhere[int(page.name[:2])]
    unknown = [f"{page.name}:{used[letter]}: {letter}" for letter in sorted(set(used) - general - own)]
    assert not unknown, "not in the table of symbols: " + ", ".join(unknown)
    assert own <= set(used), f"not on page {page.name}: {sorted(own - set(used))}"


def test_a_letter_is_a_symbol_outside_of_commands_and_text() -> None:
    assert letters(
        r"\mathrm{KL}(q \Vert p) = \frac12 \mathbb E [x_{1:i-1}] \text{ if } \hat k \gt 2 m"
    ) == set("qpxikm")
