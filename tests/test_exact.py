"""Bounds beside log p(x) itself: in closed form, by quadrature, as a finite sum."""

import json
import math
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn
from torch.testing import assert_close

from inference import datasets, exact, svi
from inference.compare import example_inputs
from inference.data import HeldOut
from inference.errors import BadInput
from inference.estimators import ImportanceWeighted, Loss
from inference.exact import of_ppca, quadrature
from inference.importance import draw_pool, pareto_k
from ppl_models import GMVAE, MODELS, PPCA, SSVAE, VAE
from ppl_models.base import LatentVariableModel

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


def bounds(
    model: LatentVariableModel, x: Tensor, particles: tuple[int, ...], draws: int
) -> tuple[Tensor, Tensor]:
    """IWAE-m of each m on average over the images, and its Monte-Carlo error; m divides the draws."""
    with torch.no_grad(), pyro.validation_enabled(False):
        log_w = draw_pool(model, {"x": x}, draws, 2_000).log_weights
    means, errors = [], []
    for m in particles:
        groups = log_w.unflatten(0, (-1, m)).logsumexp(1).mean(-1) - math.log(m)  # (groups,), over images
        means.append(groups.mean())
        errors.append(groups.std() / len(groups) ** 0.5)
    return torch.stack(means), torch.stack(errors)


def test_log_likelihood_of_ppca_is_that_of_its_marginal(float64: None) -> None:
    model, x = linear(), torch.randn(5, *SHAPE)
    w, b, s = model.decoder.weight, model.decoder.bias, model.log_scale.exp()
    marginal = torch.distributions.MultivariateNormal(b, w @ w.T + s**2 * torch.eye(16))
    assert_close(model.log_likelihood(x), marginal.log_prob(x.flatten(1)))
    torch.set_default_dtype(torch.float32)  # the model's own precision counts
    assert model.log_likelihood(x).dtype == torch.float64
    assert_close(model.log_likelihood(x), marginal.log_prob(x.flatten(1)))


@pytest.mark.parametrize(("guide", "orthogonal"), [("full", False), ("mean_field", True)])
def test_with_the_exact_guide_every_bound_is_log_p(guide: str, orthogonal: bool, float64: None) -> None:
    model, x = linear(guide, orthogonal), torch.randn(50, *SHAPE)
    log_p = model.log_likelihood(x)
    elbo = Loss(model, "trace")(x=x)
    assert_close(elbo, -log_p.mean(), rtol=0, atol=1e-6)
    for m in (2, 50):
        assert_close(Loss(model, "iwae", m)(x=x), -log_p.mean(), rtol=0, atol=1e-6)
    with torch.no_grad():
        log_w = ImportanceWeighted(200).draw(model.model, model.guide, x).log_weights
    assert (log_w.amax(0) - log_w.amin(0)).max() < 1e-9
    assert_close(log_w, log_p.expand_as(log_w), rtol=0, atol=1e-6)
    assert (pareto_k(log_w) == -np.inf).all()


def test_a_mean_field_guide_lacks_its_divergence_from_the_posterior(float64: None) -> None:
    model, x = linear("mean_field"), torch.randn(20, *SHAPE)
    log_p = model.log_likelihood(x)
    q = torch.distributions.MultivariateNormal(model.encoder(x.flatten(1)), scale_tril=model.scale_tril)
    p = torch.distributions.MultivariateNormal(*model.posterior(x))
    gap = torch.distributions.kl_divergence(q, p).mean()
    means, errors = bounds(model, x, (1, 10, 100), 20_000)
    assert gap > 0.1
    assert abs(log_p.mean() - means[0] - gap) < 4 * errors[0] < 0.1 * gap
    steps = torch.stack([means[1] - means[0], means[2] - means[1], log_p.mean() - means[2]])
    assert (steps > 4 * errors).all()  # ELBO < IWAE-10 < IWAE-100 < log p(x)
    with torch.no_grad():
        log_w = draw_pool(model, {"x": x}, 200, 10_000).log_weights
    assert np.isfinite(pareto_k(log_w)).all()

    other = torch.randint(256, (90, *SHAPE))
    train = HeldOut(datasets.Dataset("", other[:0], None, other, None), PPCA, x.device)
    figures = of_ppca(model, x, train)
    assert figures["gap"]["value"] == pytest.approx(gap.item())
    assert figures["spread_with_exact_guide"]["value"] < 1e-9


def test_the_best_mean_field_guide_is_the_best(float64: None) -> None:
    """Where KL(q || p(z | x)) cannot be made less: its gradient by the guide's parameters is zero."""
    model, x = linear("mean_field"), torch.randn(5, *SHAPE)
    q = torch.distributions.MultivariateNormal(model.encoder(x.flatten(1)), scale_tril=model.scale_tril)
    gap = torch.distributions.kl_divergence(
        q, torch.distributions.MultivariateNormal(*model.posterior(x))
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


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits", Path("nowhere"))[0]


def trained(model: LatentVariableModel, data: datasets.Dataset, steps: int) -> LatentVariableModel:
    """The model after a few steps on the digits, in double precision."""
    grey = data.x_train.double() / 255
    loss = Loss(model, model.estimators[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        inputs = {"x": grey[torch.randint(len(grey), (50,))].bernoulli()}
        if "x_labelled" in model.inputs:
            inputs |= {"x_labelled": grey[:100].bernoulli(), "y_labelled": data.y_train[:100]}
        optimizer.zero_grad()
        loss(**inputs).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", ["vae", "gmvae", "ssvae"])
def test_bounds_climb_towards_log_p_and_never_pass_it(
    name: str, digits: datasets.Dataset, float64: None
) -> None:
    pyro.set_rng_seed(0)
    model = trained(MODELS[name]((1, 8, 8), 10, z_dim=2, hidden=32), digits, 300)
    x = (digits.x_test[:15].double() / 255).bernoulli()
    found = quadrature(model, x)
    assert found.change <= 1e-4 and found.values == (10 if name == "ssvae" else 1)
    means, errors = bounds(model, x, (1, 10, 100, 1_000), 4_000)
    gaps = found.log_p.mean() - means
    assert (gaps[:-1] - gaps[1:] > 0).all()  # tighter with every m
    assert gaps[0] > 0.1 and gaps[2] > -4 * errors[2] and abs(gaps[3]) < 4 * errors[3] + 0.02


def test_quadrature_of_known_integrals(float64: None) -> None:
    """A linear model's log p(x) in two dimensions and in one, and a mixture's at a decoder that ignores z."""
    for z_dim in (1, 2):
        model, x = PPCA(SHAPE, z_dim=z_dim), torch.randn(4, *SHAPE)
        model.solve_guide()
        found = quadrature(model, x)
        assert_close(found.log_p, model.log_likelihood(x))
        assert len(found.box) == z_dim
    model, x = GMVAE(SHAPE, z_dim=2, components=3), example_inputs(GMVAE(SHAPE), 4)["x"]
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.zero_()
        model.components[:, :2] = torch.tensor([[-4.0, 0.0], [4.0, 1.0], [0.0, 9.0]])
    assert_close(quadrature(model, x).log_p, torch.full((4,), -16 * math.log(2)))


def test_labels_are_summed_over(float64: None) -> None:
    """With a decoder that ignores z, log p(x) = log 1/3 sum_y p(x | y)."""
    model = SSVAE(SHAPE, 3, z_dim=2, hidden=8)
    with torch.no_grad():
        model.decoder.layers[0].weight[:, :2] = 0
        model.decoder.layers[0].weight[:, 2:] *= 10
    x = example_inputs(model, 4)["x"]
    logits = model.decoder(torch.zeros(3, 2), torch.eye(3))  # (labels, pixels)
    log_p = torch.distributions.Bernoulli(logits=logits).log_prob(x.flatten(1)[:, None]).sum(-1)
    found = quadrature(model, x)
    assert_close(found.log_p, log_p.logsumexp(-1) - math.log(3))
    assert found.values == 3 and found.summed == "y"


def test_what_cannot_be_integrated_is_said(small_npz: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="one z of at most 2 dimensions, the latents are z of 10"):
        quadrature(VAE(SHAPE).double(), torch.zeros(1, *SHAPE, dtype=torch.float64))
    run = ["--steps", "2", "--batch-size", "9", "--data", str(small_npz), "--run-dir", str(tmp_path / "ae")]
    assert svi.main(["--model", "ae", "--z-dim", "2", *run]) == 0
    with pytest.raises(BadInput, match="ae has no prior that it was trained with"):
        exact.main([str(tmp_path / "ae")])


def test_a_needle_is_not_missed(float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder so steep that its likelihood is narrower than the grid: refused, and no number made up."""
    monkeypatch.setattr(exact, "MOST_POINTS", 256)
    model = VAE(SHAPE, z_dim=2, hidden=8)
    with torch.no_grad():
        model.decoder.layers[0].weight *= 1e5
    with pytest.raises(BadInput, match="is too coarse"):
        quadrature(model, example_inputs(model, 2)["x"])


class FiniteMixture(nn.Module):
    """p(c) p(x | c) of k normals, with c enumerated in the model, or in a guide q(c | x)."""

    def __init__(self, posterior: bool):
        super().__init__()
        self.loc, self.log_weights = (
            nn.Parameter(torch.tensor([-2.0, 0.5, 3.0])),
            nn.Parameter(torch.randn(3)),
        )
        self.posterior, self.shift = posterior, 0.0

    def log_joint(self, x: Tensor) -> Tensor:
        return dist.Normal(self.loc, 0.7).log_prob(x[:, None]) + self.log_weights.log_softmax(-1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            infer = {} if self.posterior else {"enumerate": "parallel"}
            c = pyro.sample("c", dist.Categorical(logits=self.log_weights), infer=infer)
            pyro.sample("x", dist.Normal(self.loc[c], 0.7), obs=x)

    def guide(self, x: Tensor) -> None:
        if self.posterior:
            with pyro.plate("data", len(x)):
                logits = self.log_joint(x).detach() + self.shift * torch.tensor([1.0, 0.0, -1.0])
                pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


@pytest.mark.parametrize("posterior", [False, True])
def test_a_finite_sum_is_what_enumeration_finds(posterior: bool, float64: None) -> None:
    """Summed out in the model, or under a guide that is the posterior, TraceEnum_ELBO is log p(x) itself."""
    pair, x = FiniteMixture(posterior), torch.randn(9) * 3
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    by_sum = pair.log_joint(x).logsumexp(-1).sum()
    loss = elbo.differentiable_loss(pair.model, pair.guide, x)
    assert_close(loss, -by_sum)
    for a, b in zip(*(torch.autograd.grad(f, list(pair.parameters())) for f in (loss, -by_sum)), strict=True):
        assert_close(a, b)
    if posterior:  # a guide off the posterior lacks its divergence from it, exactly
        pair.shift = 0.8
        p = pair.log_joint(x).log_softmax(-1)
        q = (pair.log_joint(x) + 0.8 * torch.tensor([1.0, 0.0, -1.0])).log_softmax(-1)
        gap = (q.exp() * (q - p)).sum()
        assert gap > 0.05
        assert_close(elbo.differentiable_loss(pair.model, pair.guide, x), gap - by_sum)


def test_beta_is_no_part_of_log_p(float64: None) -> None:
    """A weight in the objective leaves p(x, z) as it is."""
    x = example_inputs(VAE(SHAPE), 2)["x"]
    pair = [VAE(SHAPE, z_dim=1, hidden=8, beta=beta) for beta in (1.0, 4.0)]
    pair[1].load_state_dict(pair[0].state_dict())
    assert_close(*(quadrature(model, x).log_p for model in pair))
