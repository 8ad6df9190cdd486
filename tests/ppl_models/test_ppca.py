"""The linear VAE, whose log p(x), posterior and maximum likelihood are known, beside its bounds."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from inference import exact, svi
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.elbo.estimators import Loss
from inference.elbo.importance_weighted import ImportanceWeighted
from inference.metrics.exact import ppca_metrics
from inference.metrics.importance import pareto_k, sample_pool
from ppl_models import PPCA
from tests.support import bounds

SHAPE = (1, 4, 4)


def linear(guide: str = "full", orthogonal: bool = False) -> PPCA:
    """A linear model with columns of W far from orthogonal, or orthogonal, and the best guide of its kind."""
    model = PPCA(SHAPE, z_dim=3, guide=guide)
    with torch.no_grad():
        w = torch.randn(16, 3)
        if orthogonal:
            w = torch.linalg.qr(w)[0] * torch.tensor([3.0, 2.0, 1.0])
        else:
            w[:, 1] += w[:, 0]
        model.decoder.weight.copy_(w)
        model.decoder.bias.normal_()
        model.log_scale.fill_(-0.3)
    model.solve_guide()
    return model


def test_log_likelihood_of_ppca_is_that_of_its_marginal(float64: None) -> None:
    model, x = linear(), torch.randn(5, *SHAPE)
    w, b, s = model.decoder.weight, model.decoder.bias, model.log_scale.exp()
    marginal = torch.distributions.MultivariateNormal(b, w @ w.T + s**2 * torch.eye(16))
    assert_close(model.log_likelihood(x), marginal.log_prob(x.flatten(1)))
    torch.set_default_dtype(torch.float32)  # the model's own precision counts
    assert model.log_likelihood(x).dtype == torch.float64
    assert_close(model.log_likelihood(x), marginal.log_prob(x.flatten(1)))


def test_a_component_pays_if_its_variance_exceeds_that_of_the_noise(float64: None) -> None:
    """The gain over W = 0 is (r - 1 - log r) / 2 with r = lambda / s^2; no W gains if r <= 1."""
    variances = torch.linspace(2.0, 0.1, 16)
    x = torch.cat([sign * (16 * variances).sqrt().diag() for sign in (1, -1)]).view(-1, *SHAPE)
    assert_close(x.flatten(1).T.cov(correction=0), variances.diag())
    model = PPCA(SHAPE, z_dim=1)

    @torch.no_grad()
    def mean_log_p(w: torch.Tensor, noise: float) -> float:
        model.decoder.weight.copy_(w[:, None])
        model.decoder.bias.zero_()
        model.log_scale.fill_(0.5 * math.log(noise))
        return model.log_likelihood(x).mean().item()

    first, none = torch.eye(16)[0], torch.zeros(16)
    gain = mean_log_p(math.sqrt(2.0 - 0.5) * first, 0.5) - mean_log_p(none, 0.5)
    assert gain == pytest.approx(0.5 * (4 - 1 - math.log(4)))
    for w in (0.1 * first, first, *torch.randn(20, 16)):
        assert mean_log_p(w, 2.0) < mean_log_p(none, 2.0)
        assert mean_log_p(w, 0.5) <= mean_log_p(math.sqrt(2.0 - 0.5) * first, 0.5)


@pytest.mark.parametrize(("guide", "orthogonal"), [("full", False), ("mean_field", True)])
def test_with_the_exact_guide_every_bound_is_log_p(guide: str, orthogonal: bool, float64: None) -> None:
    model, x = linear(guide, orthogonal), torch.randn(50, *SHAPE)
    log_p = model.log_likelihood(x)
    elbo = Loss(model, "trace")(x=x)
    assert_close(elbo, -log_p.mean(), rtol=0, atol=1e-6)
    for m in (2, 50):
        assert_close(Loss(model, "iwae", m)(x=x), -log_p.mean(), rtol=0, atol=1e-6)
    with torch.no_grad():
        log_w = ImportanceWeighted(200).sample(model.model, model.guide, x).log_weights
    assert (log_w.amax(0) - log_w.amin(0)).max() < 1e-9
    assert_close(log_w, log_p.expand_as(log_w), rtol=0, atol=1e-6)
    assert (pareto_k(log_w) == -np.inf).all()


def test_a_mean_field_guide_lacks_its_divergence_from_the_posterior(float64: None) -> None:
    model, x = linear("mean_field"), torch.randn(20, *SHAPE)
    log_p = model.log_likelihood(x)
    q = torch.distributions.MultivariateNormal(model.encoder(x.flatten(1)), scale_tril=model.scale_tril)
    p = torch.distributions.MultivariateNormal(*model.exact_posterior(x))
    gap = torch.distributions.kl_divergence(q, p).mean()
    means, errors = bounds(model, x, (1, 10, 100), 20_000)
    assert gap > 0.1
    assert abs(log_p.mean() - means[0] - gap) < 4 * errors[0] < 0.1 * gap
    steps = torch.stack([means[1] - means[0], means[2] - means[1], log_p.mean() - means[2]])
    assert (steps > 4 * errors).all()  # ELBO < IWAE-10 < IWAE-100 < log p(x)
    with torch.no_grad():
        log_w = sample_pool(model, {"x": x}, 200, 10_000).log_weights
    assert np.isfinite(pareto_k(log_w)).all()

    other = torch.randint(256, (90, *SHAPE))
    train = HeldOut(Dataset("", other[:0], None, other, None), PPCA, x.device)
    figures = ppca_metrics(model, x, train)
    assert figures["gap"]["value"] == pytest.approx(gap.item())
    assert figures["spread_with_exact_guide"]["value"] < 1e-9


def test_the_best_mean_field_guide_is_the_best(float64: None) -> None:
    """Where KL(q || p(z | x)) cannot be made less: its gradient by the guide's parameters is zero."""
    model, x = linear("mean_field"), torch.randn(5, *SHAPE)
    q = torch.distributions.MultivariateNormal(model.encoder(x.flatten(1)), scale_tril=model.scale_tril)
    gap = torch.distributions.kl_divergence(
        q, torch.distributions.MultivariateNormal(*model.exact_posterior(x))
    ).sum()
    for g in torch.autograd.grad(gap, [*model.encoder.parameters(), model.raw_tril]):
        assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-9)


def test_maximum_likelihood_is_where_the_likelihood_is_flat_and_greatest(float64: None) -> None:
    x = torch.randn(200, 16) @ torch.randn(16, 16) + torch.randn(16)
    x = x.unflatten(1, SHAPE)
    model = PPCA(SHAPE, z_dim=3)
    model.solve(x)
    best = model.log_likelihood(x).mean()
    parameters = [*model.decoder.parameters(), model.log_scale]
    for g in torch.autograd.grad(best, parameters):
        assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-8)
    # Tipping and Bishop 1999, equation 10 at the maximum: from the eigenvalues alone
    values = torch.linalg.eigvalsh(x.flatten(1).T.cov(correction=0)).flip(0)
    variance = values[3:].mean()
    formula = -0.5 * (16 * math.log(2 * math.pi) + values[:3].log().sum() + 13 * variance.log() + 16)
    assert_close(best, formula)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.05 * torch.randn_like(p))
    assert model.log_likelihood(x).mean() < best - 1e-3


@pytest.mark.full
def test_svi_finds_the_maximum_likelihood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a random start, by the main job itself, and the command that says how near it came."""
    x = np.random.RandomState(0).normal(size=(300, 3)) @ np.random.RandomState(1).normal(size=(3, 16))
    x = 0.5 + 0.1 * x + 0.05 * np.random.RandomState(2).normal(size=x.shape)
    x = x.clip(0, 1).reshape(300, 4, 4)
    np.savez(tmp_path / "x.npz", x_train=x, x_test=x[:40])
    run = ["--model", "ppca", "--data", str(tmp_path / "x.npz"), "--run-dir", str(tmp_path / "run")]
    assert svi.main([*run, "--z-dim", "2", "--batch-size", "300", "--steps", "2500"]) == 0
    capsys.readouterr()
    assert exact.main([str(tmp_path / "run"), "--images", "30", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "run" / "results.json").read_text())["exact"]
    assert printed["images"] == 30 and printed["how"] == "closed form"
    test = {name: figure["value"] for name, figure in printed["test"].items()}
    short = test["train_negative_log_p"] - test["train_negative_log_p_at_maximum_likelihood"]
    assert 0 < short < 1e-3
    error = printed["test"]["iwae_1"]["mc_se"]
    assert abs(test["iwae_1"] - test["negative_log_p"] - test["gap"]) < 4 * error + 1e-4
    assert torch.get_default_dtype() == torch.float32
    assert exact.main([str(tmp_path / "run")]) == 0
    page = capsys.readouterr().out
    mean_field = {name: figure["value"] for name, figure in printed["mean_field"].items()}
    error = printed["mean_field"]["iwae_1"]["mc_se"]
    assert mean_field["gap"] > 0.01  # the full guide leaves W's columns as they come
    assert abs(mean_field["iwae_1"] - test["negative_log_p"] - mean_field["gap"]) < 4 * error
    error = printed["mean_field"]["iwae_1000"]["mc_se"]
    assert mean_field["iwae_1"] > mean_field["iwae_10"] > mean_field["iwae_1000"]
    assert mean_field["iwae_1000"] > test["negative_log_p"] - 4 * error
    for word in (
        "-ELBO",
        "-IWAE-1000",
        "-log p(x)",
        "closed form",
        "KL(q || posterior)",
        "below its maximum",
    ):
        assert word in page
