"""The tokens of a text and their numbers."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ppl_models.distributions.token_sequence import END, PAD, UNKNOWN

UNITS = ("words", "characters")
SYMBOLS = ("<pad>", "<end>", "<unk>")  # tokens PAD, END and UNKNOWN
LARGEST = 10_000  # tokens
WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Vocabulary:
    """Numbers of tokens, and how a line of text becomes a sequence of them.

    Attributes:
        unit: "words", which are separate from punctuation, or "characters".
        entries: the tokens in the order of their numbers, `SYMBOLS` first.
        length: places of a sequence.
    """

    unit: str
    entries: tuple[str, ...]
    length: int

    @classmethod
    def of_lines(cls, lines: Iterable[list[str]], unit: str, length: int) -> "Vocabulary":
        """Makes the vocabulary of split lines: tokens that occur twice or more, the most frequent first.

        Tokens that occur once become `<unk>`, so that a model learns how likely unknown tokens are.
        """
        counts = Counter(token for line in lines for token in line)
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        kept = [token for token in ranked if counts[token] > 1 and token not in SYMBOLS]
        return cls(unit, (*SYMBOLS, *kept[: LARGEST - len(SYMBOLS)]), length)

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each token."""
        return {token: number for number, token in enumerate(self.entries)}

    def encode(self, lines: list[list[str]]) -> Tensor:
        """Returns sequences `(n, length)`, int32, of split lines.

        A line gets `<end>` and then padding. One with as many tokens as there are places, or more, is cut and
        gets no `<end>`.
        """
        x = torch.full((len(lines), self.length), PAD, dtype=torch.int32)
        for row, line in zip(x, lines, strict=True):
            numbers = [self.numbers.get(token, UNKNOWN) for token in line] + [END]
            row[: len(numbers)] = torch.tensor(numbers[: self.length])
        return x

    def decode(self, x: Tensor) -> list[str]:
        """Returns the lines of sequences `(n, length)`. A sequence that is cut ends with an ellipsis."""
        joint = " " if self.unit == "words" else ""
        lines = []
        for row in x.int().tolist():
            end = next((place for place, number in enumerate(row) if number in (PAD, END)), None)
            line = joint.join(self.entries[number] for number in row[:end])
            lines.append(line if end is not None else f"{line} …")
        return lines


def split(line: str, unit: str) -> list[str]:
    """Splits a line into tokens; a run of white space is one space, or a border between words."""
    return WORD.findall(line) if unit == "words" else list(" ".join(line.split()))
