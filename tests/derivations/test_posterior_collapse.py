"""Derivation 21: when ignoring z is stationary, when it is the optimum, and what a KL weight changes."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ppl_models import PPCA, PixelVAE, densities
from ppl_models.nets.heads import loc_scale

NOISE = 1.0  # s^2


def negative_elbo(w: Tensor, a: Tensor, t: Tensor, variance: float, beta: float = 1.0) -> Tensor:
    """The mean objective without its constant: x ~ N(0, variance), p = N(w z, s^2), q = N(a x, t^2)."""
    error = (1 - w * a) ** 2 * variance + w**2 * t**2
    kl = 0.5 * (a**2 * variance + t**2 - (t**2).log() - 1)
    return error / (2 * NOISE) + beta * kl


@pytest.mark.parametrize(("variance", "saddle"), [(0.5, False), (0.99, False), (1.01, True), (4.0, True)])
def test_collapse_is_stationary_and_a_minimum_up_to_the_threshold_alone(
    variance: float, saddle: bool, float64: None
) -> None:
    point = torch.tensor([0.0, 0.0, 1.0])

    def f(p: Tensor) -> Tensor:
        return negative_elbo(*p.unbind(), variance)

    assert_close(torch.func.grad(f)(point), torch.zeros(3))
    curvatures = torch.linalg.eigvalsh(torch.func.hessian(f)(point))
    assert (curvatures.min() < 0) == saddle
    # the block of w and a is [[1/s^2, -v/s^2], [-v/s^2, v]], of determinant v/s^2 (1 - v/s^2)
    block = torch.func.hessian(f)(point)[:2, :2]
    assert_close(block.det(), torch.tensor(variance / NOISE * (1 - variance / NOISE)))


@pytest.mark.parametrize("beta", [0.25, 1.0, 3.0])
def test_the_best_kl_term_of_a_direction(beta: float, float64: None) -> None:
    """1/2 log(lambda / (beta s^2)) above beta s^2, and zero below; found by descent from next to collapse."""
    for variance in (0.5, 2.0, 9.0):
        p = torch.tensor([0.1, 0.1, 0.0], requires_grad=True)  # w, a, log t
        step = torch.optim.LBFGS([p], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

        def closure(p: Tensor = p, variance: float = variance) -> Tensor:
            p.grad = None
            value = negative_elbo(p[0], p[1], p[2].exp(), variance, beta)
            value.backward()
            return value

        step.step(closure)
        w, a, t = p.detach()[0], p.detach()[1], p.detach()[2].exp()
        kl = densities.kl_normal_standard((a * math.sqrt(variance))[None], t[None]).item()
        best = max(0.0, 0.5 * math.log(variance / (beta * NOISE)))
        assert kl == pytest.approx(best, abs=1e-4)
        assert (w * a * variance > 1e-3) == (variance > beta * NOISE)


def test_the_threshold_of_a_given_scale_in_ppca(float64: None) -> None:
    """At a fixed s^2 each direction with a larger eigenvalue gains 1/2 (r - 1 - log r), r = lambda / s^2."""
    x = torch.randn(500, 8) * torch.tensor([3.0, 2.0, 1.5, 1.0, 0.5, 0.5, 0.5, 0.5])
    values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    model = PPCA((1, 2, 4), z_dim=4)
    variance = 1.5
    with torch.no_grad():
        model.log_scale.fill_(0.5 * math.log(variance))
        model.decoder.bias.copy_(x.mean(0))
        model.decoder.weight.zero_()
        collapsed = model.log_likelihood(x.unflatten(1, (1, 2, 4))).mean()
        model.decoder.weight.copy_(vectors[:, -4:] * (values[-4:] - variance).clamp(min=0).sqrt())
        best = model.log_likelihood(x.unflatten(1, (1, 2, 4))).mean()
    r = values[values > variance] / variance
    assert 0 < len(r) < 4
    assert_close(best - collapsed, 0.5 * (r - 1 - r.log()).sum())


def test_the_gain_on_mnist_at_beta_of_a_hundredth() -> None:
    """First eigenvalue 5.117, s^2 = 3.92: 0.019 nats are all that one linear code is worth."""
    r = 5.117 / 3.92
    assert 0.5 * (r - 1 - math.log(r)) == pytest.approx(0.019, abs=5e-4)


def test_a_nonlinear_decoder_can_pay_below_the_threshold(float64: None) -> None:
    """A rare large value: variance s^2 / 2, and yet a code that says when it happens is worth having."""
    rare = 1e-3
    value = math.sqrt(0.5 * NOISE / (rare * (1 - rare)))
    mean = rare * value
    scale = math.sqrt(NOISE)
    x = torch.tensor([[0.0], [value]])
    weights = torch.tensor([1 - rare, rare])
    collapsed = (weights * densities.normal(x, mean, scale)).sum()
    parts = torch.stack([densities.normal(x, 0.0, scale), densities.normal(x, value, scale)])
    coded = (weights * (parts + weights.log()[:, None]).logsumexp(0)).sum()
    assert (coded - collapsed).item() == pytest.approx(0.242, abs=1e-3)


def test_a_decoder_that_ignores_z_leaves_no_gradient(float64: None) -> None:
    """In `pixel_vae` with q(z | x) = p(z) and without weights on z: the mean gradient is zero everywhere."""
    model = PixelVAE((1, 8, 8), z_dim=2)
    with torch.no_grad():
        last = [m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.zero_()
        last.bias[2:] = math.log(math.e - 1)  # softplus of it is 1
        first = next(m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear))
        first.weight.zero_()
    x = torch.rand(3, 1, 8, 8).bernoulli()
    loc, scale = loc_scale(model.encoder(x))
    assert_close(scale, torch.ones(3, 2), rtol=0, atol=1e-7)
    z = torch.randn(3, 2)
    encoder, weights = list(model.encoder.parameters()), first.weight
    values = [model.bound(x, {"z": loc + scale * e}).objective for e in (z, -z)]  # antithetic: mean of z is 0
    gradients = [torch.autograd.grad(v, [*encoder, weights], retain_graph=True) for v in values]
    for g in gradients[0][:-1]:
        assert g.abs().max() < 1e-7
    assert gradients[0][-1].abs().max() > 1e-6  # of one sample
    assert_close(gradients[0][-1], -gradients[1][-1])
