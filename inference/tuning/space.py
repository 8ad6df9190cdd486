"""The values that a sweep gives to a setting: a list, or a range from which a search samples."""

import argparse
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

RANGE = re.compile(r"(uniform|log|int)\(([^,()]+),([^,()]+)\)")
DIGITS = 4  # significant digits of a sampled value: it is part of a folder's name
TRIES = 100  # attempts per point, before a search takes fewer points


class Range(NamedTuple):
    """A range of numbers.

    Attributes:
        kind: "uniform"; "log", uniform in the logarithm; or "int", whole numbers.
        low: the smallest value.
        high: the largest value.
    """

    kind: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.kind}({self.low:g},{self.high:g})"

    def text(self, value: float) -> str:
        """Returns a value of the range as a command line has it, rounded to four significant digits."""
        if self.kind == "int":
            return str(round(value))
        return repr(min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high))

    def sample(self, rng: np.random.Generator) -> str:
        """Returns a random value, as `text` has it."""
        if self.kind == "int":
            return self.text(int(rng.integers(int(self.low), int(self.high), endpoint=True)))
        if self.kind == "log":
            return self.text(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self.text(rng.uniform(self.low, self.high))


Values = list[str] | Range
Point = dict[str, str]  # the text of each setting


def parse_over(text: str) -> tuple[str, Values]:
    """Parses an option --over.

    Args:
        text: KEY=VALUE,VALUE or KEY=RANGE.

    Returns:
        The name of the setting, and its values.

    Raises:
        argparse.ArgumentTypeError: there are no values, or a range is not one.
    """
    key, _, values = text.partition("=")
    if not values:
        raise argparse.ArgumentTypeError(f"{text} has no values: write KEY=VALUE,VALUE")
    name = key.replace("-", "_")
    if "(" not in values:
        return name, values.split(",")
    found = RANGE.fullmatch(values.replace(" ", ""))
    try:
        if not found:
            raise ValueError
        kind, low, high = found[1], *map(int if found[1] == "int" else float, found.group(2, 3))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{values} is not a range: write uniform(LOW,HIGH), log(LOW,HIGH) or int(LOW,HIGH)"
        ) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise argparse.ArgumentTypeError(f"{values} is empty: give two numbers, the smaller one first")
    if kind == "log" and low <= 0:
        raise argparse.ArgumentTypeError(f"{values} needs numbers above zero")
    return name, Range(kind, low, high)


def sample_points(space: Mapping[str, Values], n: int, seed: int) -> list[Point]:
    """Samples the settings of a random search.

    Args:
        space: the values of each setting. A list is a choice of its values.
        n: the number of points. There are fewer if the space has fewer.
        seed: of the random numbers.

    Returns:
        Points that differ from each other. The first points of a larger n are the same.
    """
    rng, found = np.random.default_rng(seed), dict[tuple[str, ...], Point]()
    for _ in range(TRIES * n):
        point = {
            key: values.sample(rng) if isinstance(values, Range) else values[rng.integers(len(values))]
            for key, values in space.items()
        }
        found.setdefault(tuple(point.values()), point)
        if len(found) == n:
            break
    return list(found.values())


def corners(space: Mapping[str, Values]) -> list[Point]:
    """Returns the points with which a search is checked before it starts: the ends of all ranges."""
    low = {key: v.text(v.low) if isinstance(v, Range) else v[0] for key, v in space.items()}
    high = {key: v.text(v.high) if isinstance(v, Range) else v[0] for key, v in space.items()}
    lists = {key: values for key, values in space.items() if not isinstance(values, Range)}
    others = [high | {key: value} for key, values in lists.items() for value in values[1:]]
    return [low, *([high] if high != low else []), *others]


def distributions(space: Mapping[str, Values]) -> dict[str, Any]:
    """Returns the space as distributions of Optuna."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def one(values: Values) -> Any:
        if not isinstance(values, Range):
            return CategoricalDistribution(values)
        if values.kind == "int":
            return IntDistribution(int(values.low), int(values.high))
        return FloatDistribution(values.low, values.high, log=values.kind == "log")

    return {key: one(values) for key, values in space.items()}
