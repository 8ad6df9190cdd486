"""The values of a sweep: what --over means, and what a search samples."""

import argparse
import math

import numpy as np
import pytest

from inference.tuning.space import Range, corners, parse_over, sample_points

SPACE = {
    "lr": Range("log", 1e-4, 1e-2),
    "beta": Range("uniform", 0.5, 2.0),
    "z_dim": Range("int", 2, 5),
    "activation": ["relu", "tanh"],
}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("beta=0,1e0", ["0", "1e0"]),
        ("lr=log(1e-4,1e-2)", Range("log", 1e-4, 1e-2)),
        ("lr=uniform(-1, 0.5)", Range("uniform", -1, 0.5)),
        ("z-dim=int(2,50)", Range("int", 2, 50)),
    ],
)
def test_a_list_or_a_range(text: str, values: object) -> None:
    assert parse_over(text) == (text.partition("=")[0].replace("-", "_"), values)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lr", "lr has no values"),
        ("lr=log(1e-4", "is not a range: write uniform"),
        ("lr=loguniform(1,2)", "is not a range"),
        ("lr=log(1,2,3)", "is not a range"),
        ("lr=log(a,2)", "is not a range"),
        ("z-dim=int(2,3.5)", "is not a range"),
        ("lr=log(2,1)", "is empty: give two numbers, the smaller one first"),
        ("lr=uniform(0,inf)", "is empty"),
        ("lr=log(0,1)", "needs numbers above zero"),
    ],
)
def test_what_is_not_a_range(text: str, complaint: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=complaint):
        parse_over(text)


def test_samples_are_seeded_and_within_their_bounds() -> None:
    points = sample_points(SPACE, 400, 3)
    assert points == sample_points(SPACE, 400, 3) and points[:50] == sample_points(SPACE, 50, 3)
    assert points[0] != sample_points(SPACE, 1, 4)[0]
    assert len({tuple(point.values()) for point in points}) == 400
    lr, beta, z_dim = (np.array([float(point[key]) for point in points]) for key in ("lr", "beta", "z_dim"))
    assert 1e-4 <= lr.min() < 1.1e-4 and 0.9e-2 < lr.max() <= 1e-2
    assert 0.5 <= beta.min() < 0.52 and 1.98 < beta.max() <= 2
    assert set(z_dim) == {2, 3, 4, 5} and {point["activation"] for point in points} == {"relu", "tanh"}
    # a uniform distribution's mean, in five standard errors of 400 samples; of lr in the logarithm
    for values, low, high in ((np.log(lr), math.log(1e-4), math.log(1e-2)), (beta, 0.5, 2.0)):
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / (12 * 400) ** 0.5
    assert all(len(point["lr"].partition("e")[0].strip("0.").replace(".", "")) <= 4 for point in points)


def test_a_small_space_has_each_point_once() -> None:
    space = {"z_dim": Range("int", 2, 3), "activation": ["relu", "tanh"]}
    found = sample_points(space, 100, 0)
    assert sorted(tuple(point.values()) for point in found) == [
        (z, activation) for z in ("2", "3") for activation in ("relu", "tanh")
    ]


def test_rounding_stays_inside() -> None:
    narrow = Range("uniform", 0.123456, 0.123457)
    assert narrow.text(0.1234564) == "0.123457" and narrow.text(0.12) == "0.123456"
    assert Range("log", 1e-5, 1).text(1.23456789e-3) == "0.001235"


def test_the_ends_of_all_ranges_are_checked() -> None:
    low, high, other = corners(SPACE)
    assert low == {"lr": "0.0001", "beta": "0.5", "z_dim": "2", "activation": "relu"}
    assert high == {"lr": "0.01", "beta": "2.0", "z_dim": "5", "activation": "relu"}
    assert other == high | {"activation": "tanh"}
    assert corners({"beta": ["0", "1"]}) == [{"beta": "0"}, {"beta": "1"}]
