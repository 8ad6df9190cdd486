"""Page 25: the penalties of `regularized_ssvae` as identities, and the quadratic form of the step."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, normalize
from torch.testing import assert_close

from inference.data.examples import example_inputs
from ppl_models import RegularizedSSVAE
from ppl_models.programs import sample_latents

SHAPE = (1, 4, 4)


@pytest.fixture
def model(float64: None) -> RegularizedSSVAE:
    torch.manual_seed(0)
    return RegularizedSSVAE(SHAPE, 3, z_dim=2, hidden=8, radius=0.01).eval()


def curvature(model: RegularizedSSVAE, x: Tensor) -> Tensor:
    """M = A^T F A of one image, (pixels, pixels)."""
    jacobian = torch.autograd.functional.jacobian(lambda v: model.classify(v.view(1, *SHAPE))[0], x.flatten())
    q = model.classify(x[None])[0].softmax(-1)
    return (jacobian.T @ (q.diag() - q[:, None] * q) @ jacobian).detach()


def divergence(model: RegularizedSSVAE, x: Tensor, step: Tensor) -> Tensor:
    moved = model.classify((x + step.view(SHAPE))[None]).log_softmax(-1)
    return kl_div(moved, model.classify(x[None]).softmax(-1), reduction="sum")


def test_entropy_and_balance_are_the_mutual_information(model: RegularizedSSVAE) -> None:
    inputs = example_inputs(model, 20)
    penalties = model.bound(**inputs, latents=sample_latents(model, **inputs)).penalties
    joint = model.classify(inputs["x"]).softmax(-1) / 20  # of image and class
    information = (joint * (joint / (joint.sum(0) / 20)).log()).sum()
    assert_close(penalties["entropy"] + penalties["balance"], math.log(3) - information)
    assert information > 0


def test_a_batch_overestimates_the_balance_penalty(float64: None) -> None:
    """Classes that are certain and equally probable: the penalty of 100 images is about (C - 1) / (2 n)."""
    counts = torch.distributions.Multinomial(100, torch.ones(10)).sample((20_000,))
    penalty = math.log(10) - torch.special.entr(counts / 100).sum(-1)
    assert penalty.mean().item() == pytest.approx(9 / 200, rel=0.05)


def test_the_divergence_is_a_quadratic_form(model: RegularizedSSVAE) -> None:
    x = torch.rand(SHAPE)
    matrix, d = curvature(model, x), normalize(torch.randn(16), dim=0)
    assert torch.linalg.matrix_rank(matrix) == 2  # classes - 1
    for length in (1e-2, 1e-3):
        expected = 0.5 * length**2 * d @ matrix @ d
        assert_close(divergence(model, x, length * d), expected, rtol=20 * length, atol=0)


def test_one_power_iteration_is_a_product_with_the_matrix(
    model: RegularizedSSVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small finite difference; two more iterations leave a step that is the first eigenvector."""
    monkeypatch.setattr("ppl_models.regularized_ssvae.PROBE", 1e-4)
    x = torch.rand(2, *SHAPE)
    seen: list[Tensor] = []
    handle = model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model._classify_perturbed(x, model.classify(x))
    handle.remove()
    step = (seen[-1] - x)[0].flatten()
    matrix, start = curvature(model, x[0]), (x[1] - x[0]).flatten()
    assert_close(step, 0.01 * normalize(matrix @ start, dim=0), rtol=1e-3, atol=1e-6)
    first = torch.linalg.eigh(matrix).eigenvectors[:, -1]
    best = divergence(model, x[0], 0.01 * first)
    assert divergence(model, x[0], step) <= best * 1.05  # no step of this length does much better
    assert divergence(model, x[0], step) > divergence(model, x[0], 0.01 * normalize(start, dim=0))
