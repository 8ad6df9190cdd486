"""log p(x) by quadrature and as a finite sum, compared with the bounds."""

import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn
from torch.testing import assert_close

from inference import exact, svi
from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.load import find_dataset
from inference.elbo.estimators import Loss
from inference.errors import UserError
from inference.metrics import quadrature as quadrature_module
from inference.metrics.quadrature import quadrature
from ppl_models import GMVAE, MODELS, PPCA, SSVAE, VAE
from ppl_models.base import LatentVariableModel
from tests.support import bounds, shortened

SHAPE = (1, 4, 4)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return find_dataset("digits", Path("nowhere"))[0]


def trained(model: LatentVariableModel, data: Dataset, steps: int) -> LatentVariableModel:
    """Trains a model for a few steps on the digits, in float64."""
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


@pytest.mark.parametrize("name", shortened(["vae", "gmvae", "ssvae"], ["vae"]))
def test_bounds_climb_towards_log_p_and_never_pass_it(name: str, digits: Dataset, float64: None) -> None:
    pyro.set_rng_seed(0)
    model = trained(MODELS[name]((1, 8, 8), 10, z_dim=2, hidden=32), digits, 300)
    x = (digits.x_test[:15].double() / 255).bernoulli()
    found = quadrature(model, x)
    assert found.change <= 1e-4 and found.values == (10 if name == "ssvae" else 1)
    means, errors = bounds(model, x, (1, 10, 100, 1_000), 4_000)
    gaps = found.log_p.mean() - means
    assert (gaps[:-1] - gaps[1:] > 0).all()  # larger m, tighter bound
    assert gaps[0] > 0.1 and gaps[2] > -4 * errors[2] and abs(gaps[3]) < 4 * errors[3] + 0.02


def test_quadrature_of_known_integrals(float64: None) -> None:
    """A linear model with one or two latent dimensions, and a mixture whose decoder ignores z."""
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
    with pytest.raises(UserError, match="one z of at most 2 dimensions, but the latents are z of 10"):
        quadrature(VAE(SHAPE).double(), torch.zeros(1, *SHAPE, dtype=torch.float64))
    run = ["--steps", "2", "--batch-size", "9", "--data", str(small_npz), "--run-dir", str(tmp_path / "ae")]
    assert svi.main(["--model", "ae", "--z-dim", "2", *run]) == 0
    with pytest.raises(UserError, match="undefined for ae, which is trained without a prior"):
        exact.main([str(tmp_path / "ae")])


def test_a_needle_is_not_missed(float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder so steep that its likelihood is narrower than the grid is refused."""
    monkeypatch.setattr(quadrature_module, "MAX_POINTS", 256)
    model = VAE(SHAPE, z_dim=2, hidden=8)
    with torch.no_grad():
        model.decoder.layers[0].weight *= 1e5
    with pytest.raises(UserError, match="is too coarse"):
        quadrature(model, example_inputs(model, 2)["x"])


class FiniteMixture(nn.Module):
    """p(c) p(x | c) of k normals, with c enumerated in the model or in a guide q(c | x)."""

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
    """TraceEnum_ELBO equals log p(x) if c is enumerated in the model or the guide is the posterior."""
    pair, x = FiniteMixture(posterior), torch.randn(9) * 3
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    by_sum = pair.log_joint(x).logsumexp(-1).sum()
    loss = elbo.differentiable_loss(pair.model, pair.guide, x)
    assert_close(loss, -by_sum)
    for a, b in zip(*(torch.autograd.grad(f, list(pair.parameters())) for f in (loss, -by_sum)), strict=True):
        assert_close(a, b)
    if posterior:  # with another guide the gap is its KL divergence from the posterior, exactly
        pair.shift = 0.8
        p = pair.log_joint(x).log_softmax(-1)
        q = (pair.log_joint(x) + 0.8 * torch.tensor([1.0, 0.0, -1.0])).log_softmax(-1)
        gap = (q.exp() * (q - p)).sum()
        assert gap > 0.05
        assert_close(elbo.differentiable_loss(pair.model, pair.guide, x), gap - by_sum)


def test_beta_is_no_part_of_log_p(float64: None) -> None:
    """A KL weight in the objective does not change p(x, z)."""
    x = example_inputs(VAE(SHAPE), 2)["x"]
    pair = [VAE(SHAPE, z_dim=1, hidden=8, beta=beta) for beta in (1.0, 4.0)]
    pair[1].load_state_dict(pair[0].state_dict())
    found = []
    for model in pair:
        torch.manual_seed(1)  # quadrature samples the span of its first grid
        found.append(quadrature(model, x).log_p)
    assert torch.equal(*found)
