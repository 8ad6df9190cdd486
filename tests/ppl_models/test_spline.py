"""The spline of `flow` is that of Pyro, which indexes by a mask."""

import pytest
import torch
from pyro.distributions import transforms
from torch.nn.functional import softplus
from torch.testing import assert_close

from ppl_models.distributions.spline import linear_rational_spline

BOUND, BINS, POINTS = 2.5, 5, 200


@pytest.mark.parametrize("inverse", [False, True])
def test_values_and_slopes_are_pyro_s(inverse: bool, float64: None) -> None:
    """Points inside and outside of the interval, each with parameters of its own."""
    pyros = transforms.Spline(POINTS, count_bins=BINS, bound=BOUND, order="linear")
    x = torch.linspace(-3, 3, POINTS)
    y = pyros.inv(x) if inverse else pyros(x)
    slope = pyros.inv.log_abs_det_jacobian(x, y) if inverse else pyros.log_abs_det_jacobian(x, y)
    ours, ours_slope = linear_rational_spline(
        x,
        pyros.unnormalized_widths.softmax(-1),
        pyros.unnormalized_heights.softmax(-1),
        softplus(pyros.unnormalized_derivatives),
        pyros.unnormalized_lambdas.sigmoid(),
        BOUND,
        inverse,
    )
    assert (x.abs() > BOUND).any() and (x.abs() < BOUND).any()
    assert_close(ours, y, rtol=1e-10, atol=1e-12)
    assert_close(ours_slope, slope, rtol=1e-10, atol=1e-12)
    assert slope.abs().max() > 0.1
