"""The spline of `flow` is that of Pyro, which indexes by a mask."""

import sys

import pyro.distributions.transforms  # noqa: F401  (loads the module below, which its package hides)
import pytest
import torch
from torch.testing import assert_close

from ppl_models.distributions.spline import linear_rational_spline

pyros = sys.modules["pyro.distributions.transforms.spline"]
BOUND, BINS = 2.5, 5


@pytest.mark.parametrize("inverse", [False, True])
def test_values_and_slopes_are_pyro_s(inverse: bool, float64: None) -> None:
    """Points inside and outside of the interval, with parameters of their own."""
    x = torch.linspace(-3, 3, 200)[:, None]
    widths, heights = torch.randn(2, 200, 1, BINS).softmax(-1)
    slopes, splits = torch.rand(200, 1, BINS - 1) + 0.1, torch.rand(200, 1, BINS)
    ours = linear_rational_spline(x, widths, heights, slopes, splits, BOUND, inverse)
    theirs = pyros._monotonic_rational_spline(x, widths, heights, slopes, splits, inverse, BOUND)
    assert (x.abs() > BOUND).any() and (x.abs() < BOUND).any()
    for mine, expected in zip(ours, theirs, strict=True):
        assert_close(mine, expected, rtol=1e-10, atol=1e-12)
