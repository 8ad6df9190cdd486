"""Kinds of values: what a setting or a value read from a file must be."""

import argparse
import math
import re
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from inference.errors import UserError, unknown


class Kind(NamedTuple):
    """The type and the range of a value, in words and as a test.

    Attributes:
        words: what the value must be, for messages.
        fits: whether a value is of this kind.
        type: the type that text is converted to, for the command line.
        choices: the allowed names, if the kind is a choice of names.
    """

    words: str
    fits: Callable[[Any], bool]
    type: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """Raises UserError if a value is not of this kind.

        Args:
            name: the setting, for the message.
            value: the value.
        """
        if self.choices and isinstance(value, str) and value not in self.choices:
            raise unknown(name, value, self.choices)
        if not self.fits(value):
            raise UserError(f"{name} is {reprlib.repr(value)}. Give {self.words}.")

    def parse(self, text: str) -> Any:
        """Converts text from the command line to a value of this kind.

        Raises:
            argparse.ArgumentTypeError: the text is not such a value.
        """
        try:
            value = self.type(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text:.40} is not {self.words}") from None
        if not self.fits(value):
            raise argparse.ArgumentTypeError(f"{text:.40} is not {self.words}")
        return value


def is_number(value: Any) -> bool:
    """Whether a value is a finite int or float; a bool is not a number here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any, least: int = 0, most: float = math.inf) -> bool:
    """Whether a value is an int in a range; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def one_of(choices: Sequence[str]) -> Kind:
    """The kind of a choice of names."""
    names = tuple(choices)
    return Kind(
        f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names, str, names
    )


def or_none(kind: Kind) -> Kind:
    """The same kind, or None."""
    return kind._replace(words=f"{kind.words} or null", fits=lambda value: value is None or kind.fits(value))


TEXT = Kind("text", lambda value: isinstance(value, str))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
NUMBER = Kind("a number", is_number, float)
NOT_NEGATIVE = Kind("a number, zero or more", lambda value: is_number(value) and value >= 0, float)
POSITIVE = Kind("a number above zero", lambda value: is_number(value) and value > 0, float)
# Smallest gradient norm to clip to. Adam divides by the root of its second moment plus 1e-8. With this norm
# and a million parameters a gradient's elements are about 1e-9, and a step is still a tenth of the learning
# rate; with a norm of 1e-11 it is 1e-6 of the rate, which float32 rounds away next to most weights.
MIN_CLIP = 1e-6
CLIP = Kind(
    f"0, or a norm of at least {MIN_CLIP:g}",
    lambda value: is_number(value) and (value == 0 or value >= MIN_CLIP),
    float,
)
FRACTION = Kind("a number from 0 to below 1", lambda value: is_number(value) and 0 <= value < 1, float)
WHOLE = Kind("a whole number, zero or more", is_whole, int)
COUNT = Kind("a whole number above zero", lambda value: is_whole(value, 1), int)
SIZE = Kind("a whole number from 1 to a million", lambda value: is_whole(value, 1, 10**6), int)
SEED = Kind(f"a whole number from 0 to {2**32 - 1}", lambda value: is_whole(value, 0, 2**32 - 1), int)
CLASSES = Kind("a whole number up to 100000", lambda value: is_whole(value, 0, 100_000), int)
SHAPE = Kind(
    "one to three whole numbers above zero",
    lambda value: isinstance(value, list) and len(value) <= 3 and all(is_whole(n, 1) for n in value),
)
INDICES = Kind(
    "a list of whole numbers",
    lambda value: isinstance(value, list | tuple) and all(is_whole(index) for index in value),
)
COLUMNS = Kind(
    "names, locations and scales of columns, equally many",
    lambda value: (
        isinstance(value, dict)
        and value.keys() == {"names", "location", "scale"}
        and all(isinstance(part, list | tuple) for part in value.values())
        and len(value["names"]) == len(value["location"]) == len(value["scale"])
        and all(isinstance(text, str) for text in value["names"])
        and all(map(is_number, value["location"]))
        and all(is_number(scale) and scale > 0 for scale in value["scale"])
    ),
)
VOCABULARY = Kind(
    "unit, entries and length of a vocabulary",
    lambda value: (
        isinstance(value, dict)
        and value.keys() == {"unit", "entries", "length"}
        and value["unit"] in ("words", "characters")
        and isinstance(value["entries"], list | tuple)
        and all(isinstance(text, str) for text in value["entries"])
        and is_whole(value["length"], 1)
    ),
)
DIMENSIONS = Kind(
    "equally long lists of numbers by latent and quantity",
    lambda value: (
        isinstance(value, dict)
        and all(
            isinstance(of, dict) and all(isinstance(part, list) for part in of.values())
            for of in value.values()
        )
        and all(len({len(part) for part in of.values()}) < 2 for of in value.values())
        and all(map(is_number, (number for of in value.values() for part in of.values() for number in part)))
    ),
)
NAMES = Kind(
    "a list of texts",
    lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
)
TEXTS = Kind(
    "an object of texts",
    lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
)
STOPPING = re.compile(r"(?P<metric>[a-z][a-z0-9_]{0,99})(:(?P<patience>[1-9]\d{0,5}))?")
METRIC = Kind(
    "the name of a metric",
    lambda value: isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,99}", value) is not None,
)
EARLY_STOPPING = Kind(
    "METRIC or METRIC:PATIENCE, the patience in evaluations",
    lambda value: isinstance(value, str) and STOPPING.fullmatch(value) is not None,
)
