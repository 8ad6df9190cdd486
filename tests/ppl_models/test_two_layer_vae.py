"""The VAE with two stochastic layers, against a linear chain of normals, where log p(x) is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from inference import fit, svi
from inference.elbo.comparison import compare
from inference.elbo.importance_weighted import ImportanceWeighted
from inference.errors import UserError
from ppl_models import VAE, TwoLayerVAE
from ppl_models.nets.heads import bounded_scale
from ppl_models.programs import sample_latents
from tests.support import lines

A, SCALE_1 = 0.8, 0.6  # p(z1 | z2) = N(A z2, SCALE_1^2)
B, SCALE_X = (1.5, -0.5, 0.7), 0.9  # p(x | z1) = N(B z1, SCALE_X^2 I)


def linear(weights: list[list[float]], scale: float | None) -> nn.Linear:
    """A network with the output loc = weights h and, if a scale is given, log scale, without bias."""
    w = torch.tensor(weights)
    rows = w if scale is None else torch.cat([w, torch.zeros_like(w)])
    layer = nn.Linear(w.shape[1], len(rows))
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.zero_()
        if scale is not None:
            layer.bias[len(w) :] = math.log(scale)
    return layer


def posterior() -> tuple[Tensor, float, float, float]:
    """The exact posterior of the chain: z1 ~ N(w . x, v1), z2 ~ N(c z1, v2); returns w, v1, c, v2."""
    b, prior = torch.tensor(B), A**2 + SCALE_1**2
    v1 = 1 / (1 / prior + (b**2).sum().item() / SCALE_X**2)
    v2 = 1 / (1 + A**2 / SCALE_1**2)
    return v1 * b / SCALE_X**2, v1, v2 * A / SCALE_1**2, v2


def chain(c: float | None = None, v1: float | None = None) -> TwoLayerVAE:
    """The chain as a model. Its guide is the posterior, unless its slope c or its variance v1 is given."""
    model = TwoLayerVAE((3,), z1_dim=1, z2_dim=1, hidden1=1, hidden2=1)
    w, exact_v1, exact_c, v2 = posterior()
    model.prior_net = linear([[A]], SCALE_1)
    model.decoder = linear([[each] for each in B], None)
    model.encoder1 = linear([w.tolist()], math.sqrt(exact_v1 if v1 is None else v1))
    model.encoder2 = linear([[exact_c if c is None else c]], math.sqrt(v2))
    with torch.no_grad():
        model.likelihood.log_scale.fill_(math.log(SCALE_X - bounded_scale(torch.tensor(-torch.inf)).item()))
    return model


def log_p(x: Tensor) -> Tensor:
    """The exact log p(x) of the chain."""
    b = torch.tensor(B)
    covariance = (A**2 + SCALE_1**2) * torch.outer(b, b) + SCALE_X**2 * torch.eye(3)
    return MultivariateNormal(torch.zeros(3), covariance).log_prob(x)


@pytest.fixture
def x(float64: None) -> Tensor:
    return torch.tensor([[0.4, -1.2, 2.0], [1.1, 0.3, -0.7], [0.0, 0.0, 0.0]])


def test_the_bound_is_exact_at_the_posterior(x: Tensor) -> None:
    """Every sample has the weight p(x): the bound with sampled KL terms has no variance."""
    model = chain()
    for _ in range(3):
        terms = model.bound(x, sample_latents(model, x=x), kl="sampled")
        assert_close(terms.negative_elbo, -log_p(x))
    samples = ImportanceWeighted(7).sample(model.model, model.guide, x)
    assert_close(samples.log_weights, log_p(x).expand(7, -1))


def test_the_closed_kl_term_of_z2_has_the_same_mean(x: Tensor) -> None:
    model, copies = chain(c=-0.4, v1=0.5), x[:1].expand(40_000, -1)
    latents = sample_latents(model, x=copies)
    closed, sampled = (model.bound(copies, latents, kl=kl).terms["kl_z2"] for kl in ("closed", "sampled"))
    difference = closed - sampled
    assert abs(difference.mean()) < 4 * difference.std() / 200
    assert closed.var() < sampled.var() and difference.std() > 0.1


def test_particles_close_the_gap_to_log_p(x: Tensor) -> None:
    model, copies = chain(c=0.2, v1=0.5), x[:1].expand(4_000, -1)
    with torch.no_grad():
        loss = [ImportanceWeighted(k).loss(model.model, model.guide, copies) / 4_000 for k in (1, 10, 200)]
    exact = -log_p(x[:1]).item()
    assert loss[0] > loss[1] + 0.05 > loss[2] + 0.05
    assert loss[2] == pytest.approx(exact, abs=0.02)


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")
def test_the_mean_field_estimator_has_another_mean(x: Tensor) -> None:
    """KL(q(z1 | x) || p(z1 | z2)) at a sampled z2 ignores that z2 depends on z1: it is A c v1 / s1^2 off."""
    with pytest.raises(UserError, match="mean_field estimator needs the same order"):
        compare(chain(), x, "mean_field")
    copies = x[:1].expand(100_000, -1)
    for c in (posterior()[2], -0.5):
        model = chain(c=c)
        with torch.no_grad():
            elbo = TraceMeanField_ELBO(max_plate_nesting=1)
            value = elbo.loss(model.model, model.guide, copies) / len(copies)
            bound = model.bound(copies, sample_latents(model, x=copies)).negative_elbo.mean().item()
        assert value - bound == pytest.approx(A * c * posterior()[1] / SCALE_1**2, abs=0.03)


def test_dreg_has_no_noise_in_the_guide_at_the_posterior(x: Tensor) -> None:
    """There log w does not depend on the samples, along every path: through z1, z2, and z1 in q(z2 | z1)."""
    model = chain()
    guide = [*model.encoder1.parameters(), *model.encoder2.parameters()]
    size = []
    for doubly in (True, False):
        loss = ImportanceWeighted(5, doubly).differentiable_loss(model.model, model.guide, x)
        size.append(max(g.abs().max().item() for g in torch.autograd.grad(loss, guide)))
    assert size[0] < 1e-12 < 0.01 < size[1]


def test_dreg_has_no_bias(x: Tensor) -> None:
    """Its mean is that of the gradient of the importance-weighted bound, for every parameter."""
    torch.manual_seed(0)
    model = TwoLayerVAE((3,), z1_dim=1, z2_dim=1, hidden1=2, hidden2=2)
    copies, means, errors = x[:1].expand(2_000, -1), [], []
    for doubly in (False, True):
        gradients = []
        for _ in range(40):
            loss = ImportanceWeighted(3, doubly).differentiable_loss(model.model, model.guide, copies) / 2_000
            parts = torch.autograd.grad(loss, list(model.parameters()))
            gradients.append(torch.cat([part.flatten() for part in parts]))
        stacked = torch.stack(gradients)
        means.append(stacked.mean(0))
        errors.append(stacked.std(0) / math.sqrt(40))
    noise = (errors[0] ** 2 + errors[1] ** 2).sqrt()
    difference = (means[0] - means[1]).abs()
    moving = noise > 1e-12  # those of the decoder's outputs, for example, have no noise at a symmetric point
    assert (difference[moving] / noise[moving]).max() < 4.5
    assert (difference[~moving] < 1e-9).all()
    assert means[0].abs().max() > 20 * noise.max()


def test_sizes_are_those_of_the_paper_s_code() -> None:
    two = TwoLayerVAE((1, 28, 28))
    one = VAE((1, 28, 28), z_dim=50, hidden=200, activation="tanh")
    assert [sum(p.numel() for p in model.parameters()) for model in (one, two)] == [425_284, 521_084]


def test_training_starts_at_the_mean_of_the_data(tmp_path: Path) -> None:
    levels = np.random.RandomState(0).randint(256, size=(40, 4, 4)).astype(np.uint8)
    levels[:, 0], levels[:, 1] = 0, 255
    mean = torch.tensor(levels.mean(0) / 255).float().flatten().clamp(0.001, 0.999)
    model = TwoLayerVAE((1, 4, 4), z1_dim=2, z2_dim=2, hidden1=4, hidden2=4)
    fit(model, torch.tensor(levels)[:, None], steps=1, lr=1e-12, batch_size=20, progress=False)
    assert_close(model.decoder.output_bias.detach().sigmoid(), mean)
    before = model.decoder.output_bias.clone()
    model.initialize(torch.rand(5, 1, 4, 4))  # a trained model keeps its bias
    assert torch.equal(model.decoder.output_bias, before)

    data = tmp_path / "levels.npz"
    np.savez(data, x_train=levels, x_test=levels)
    options = ["--model", "two_layer_vae", "--data", str(data), "--steps", "1", "--batch-size", "20"]
    assert svi.main([*options, "--run-dir", str(tmp_path / "run")]) == 0
    entropy = -(mean * mean.log() + (1 - mean) * (1 - mean).log()).sum().item()
    first = lines(tmp_path / "run")[0]
    assert first["reconstruction"] == pytest.approx(entropy, abs=0.5)  # and 16 log 2 = 11.1 without
