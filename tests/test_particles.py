"""The importance-weighted bound and its gradients as the number of particles grows: derivations 6 and 7."""

import itertools
import math

import pytest
import torch

from tools.particles import SHIFT, constants, gap, gradients, jackknife, slope


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_the_gap_times_k_tends_to_half_the_variance() -> None:
    """Var(r) = exp(shift^2) - 1. A single sample leaves KL(q || posterior) = shift^2 / 2."""
    value, error = gap(SHIFT, 1.0, 1, samples=2**17)
    assert abs(value - SHIFT**2 / 2) < 4 * error and error < 0.001
    value, error = gap(SHIFT, 1.0, 100, samples=2**21)
    assert 100 * value == pytest.approx(math.expm1(SHIFT**2) / 2, abs=400 * error) and error < 2e-5


def test_the_gap_closes_even_if_the_weights_have_infinite_variance() -> None:
    """The guide has a third of the posterior's variance: E[r^a] is infinite from a = 1.5 on."""
    found = [gap(0.0, 3**-0.5, particles, samples=2**20) for particles in (1, 10, 100, 1_000)]
    assert abs(found[0][0] - (1 / 3 - 1 + math.log(3)) / 2) < 4 * found[0][1]
    assert all(late < 0.5 * early for (early, _), (late, _) in itertools.pairwise(found))
    scaled = [particles * value for particles, (value, _) in zip((1, 10, 100), found, strict=False)]
    assert scaled[1] > 3 * scaled[0] and scaled[2] > 2 * scaled[1]  # slower than 1 / K


def test_signal_to_noise_of_the_guide_s_gradients() -> None:
    plain = [gradients(particles, False, 2**15) for particles in (4, 16, 64)]
    doubly = [gradients(particles, True, 2**12) for particles in (256, 1_024)]
    falls, error = slope((4, 16, 64), plain)
    assert falls == pytest.approx(-0.5, abs=0.1) and error < 0.05
    rises, error = slope((256, 1_024), doubly)
    assert rises == pytest.approx(0.5, abs=0.06) and error < 0.03
    limits = constants(SHIFT)
    assert plain[2].ratio * 8 == pytest.approx(limits[0], abs=4 * 8 * jackknife(plain[2].blocks))
    assert doubly[1].ratio / 32 == pytest.approx(limits[1], rel=0.05)
    assert limits == pytest.approx((0.5068, 1.9631), abs=1e-4)


def test_both_gradients_have_the_signal_of_the_gap() -> None:
    """K times the mean gradient tends to -shift exp(shift^2)."""
    plain, doubly = gradients(64, False, 2**14), gradients(64, True, 2**10)
    assert 64 * doubly.mean == pytest.approx(-SHIFT * math.exp(SHIFT**2), rel=0.05)
    assert plain.mean == pytest.approx(doubly.mean, abs=4 * abs(plain.mean) / (plain.ratio * 2**7))
