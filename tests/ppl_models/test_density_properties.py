"""The densities by hand against SciPy and torch's distributions, on random shapes and extreme values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats
from torch import Tensor
from torch import distributions as dist

from ppl_models import densities

Arrays = list[np.ndarray]


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers in a range, its ends and zero among them."""
    return st.floats(low, high, allow_subnormal=False)


def scales(decades: float) -> st.SearchStrategy[float]:
    """Positive numbers over many orders of magnitude."""
    return numbers(-decades, decades).map(lambda power: 10.0**power)


@st.composite
def broadcast(draw: st.DrawFn, *elements: st.SearchStrategy[float]) -> Arrays:
    """Arrays of the given elements whose shapes broadcast: one to three dimensions, each at most three."""
    many = len(elements)
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=many, min_dims=1, max_dims=3, max_side=3))
    return [
        draw(hnp.arrays(np.float64, shape, elements=values))
        for shape, values in zip(shapes.input_shapes, elements, strict=True)
    ]


def tensors(arrays: Arrays) -> list[Tensor]:
    return [torch.from_numpy(array.copy()) for array in arrays]


def equal(found: Tensor, expected: np.ndarray | Tensor, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), rtol=rtol, atol=atol)


@given(broadcast(numbers(-1e6, 1e6), numbers(-1e6, 1e6), scales(6)))
def test_normal(arrays: Arrays) -> None:
    equal(densities.normal(*tensors(arrays)), stats.norm.logpdf(*arrays).sum(-1))


@given(broadcast(st.sampled_from([0.0, 1.0]), numbers(-1e6, 1e6)))
def test_bernoulli(arrays: Arrays) -> None:
    """Logits of any size, where a density by way of the probability would be minus infinity or zero."""
    x, logits = arrays
    expected = (x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits)).sum(-1)
    equal(densities.bernoulli(*tensors(arrays)), expected)


@given(st.data(), st.integers(1, 4), st.integers(1, 4))
def test_mixture_of_normals(data: st.DataObject, k: int, d: int) -> None:
    x = data.draw(hnp.arrays(np.float64, (3, d), elements=numbers(-1e3, 1e3)))
    loc = data.draw(hnp.arrays(np.float64, (k, d), elements=numbers(-1e3, 1e3)))
    scale = data.draw(hnp.arrays(np.float64, (k, d), elements=scales(2)))
    components = stats.norm.logpdf(x[:, None], loc, scale).sum(-1)
    equal(densities.mixture_of_normals(*tensors([x, loc, scale])), special.logsumexp(components, -1, 1 / k))


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=5), elements=numbers(-1e6, 1e6)))
def test_log_softmax_and_its_kl(logits: np.ndarray) -> None:
    (given_logits,) = tensors([logits])
    log_q = densities.log_softmax(given_logits)
    equal(log_q, special.log_softmax(logits, -1))
    kl = densities.kl_categorical_uniform(given_logits)
    equal(kl, math.log(logits.shape[-1]) - stats.entropy(special.softmax(logits, -1), axis=-1))
    assert (kl > -1e-9).all() and (kl < math.log(logits.shape[-1]) + 1e-9).all()


@given(broadcast(numbers(-1e6, 1e6), scales(6), numbers(-1e6, 1e6), scales(3)))
def test_kl_of_normals(arrays: Arrays) -> None:
    loc, scale, prior_loc, prior_scale = tensors(arrays)
    q, p = dist.Normal(loc, scale), dist.Normal(prior_loc, prior_scale)
    found = densities.kl_normals(loc, scale, prior_loc, prior_scale)
    equal(found, dist.kl_divergence(q, p).sum(-1))
    standard = densities.kl_normal_standard(loc, scale)
    equal(standard, dist.kl_divergence(q, dist.Normal(0.0, 1.0)).sum(-1))
    assert (found > -1e-9).all() and (standard > -1e-9).all()


@given(st.data(), st.integers(1, 4))
def test_multivariate_normals(data: st.DataObject, d: int) -> None:
    def triangular() -> np.ndarray:
        below = data.draw(hnp.arrays(np.float64, (d, d), elements=numbers(-2, 2)))
        return np.tril(below, -1) + np.diag(data.draw(hnp.arrays(np.float64, d, elements=scales(1))))

    x, loc = (data.draw(hnp.arrays(np.float64, (3, d), elements=numbers(-10, 10))) for _ in range(2))
    x, loc, tril, prior = tensors([x, loc, triangular(), triangular()])
    q, p = dist.MultivariateNormal(loc, scale_tril=tril), dist.MultivariateNormal(x, scale_tril=prior)
    equal(densities.multivariate_normal(x, loc, tril), q.log_prob(x), rtol=1e-7, atol=1e-7)
    found = densities.kl_multivariate_normals(loc, tril, x, prior)
    equal(found, dist.kl_divergence(q, p), rtol=1e-7, atol=1e-7)


@given(st.data(), st.integers(1, 4), st.floats(-10, 10))
def test_levels_of_a_logistic_mixture_have_probability_one(
    data: st.DataObject, components: int, log_scale: float
) -> None:
    """All 256 levels of one pixel together, whatever the parameters, also beyond the clamp of the scale."""
    raw = data.draw(hnp.arrays(np.float64, (3, components), elements=numbers(-20, 20)))
    raw[2] += log_scale
    levels = torch.arange(256, dtype=torch.float64)[:, None, None, None] / 127.5 - 1
    log_p = densities.logistic_mixture(levels, torch.from_numpy(raw).reshape(1, -1, 1, 1), components)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
