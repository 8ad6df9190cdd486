"""The aggregate posterior of a set of images: the identity, both errors, and the parts by dimension."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.metrics import aggregate
from inference.metrics.aggregate import aggregate_posterior
from ppl_models import GMVAE, PPCA, SSVAE, VAE, VAE2D, TwoLayerVAE, densities
from ppl_models.base import LatentVariableModel
from ppl_models.nets.heads import loc_scale

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)


def of(model: LatentVariableModel, x: Tensor) -> HeldOut:
    """Held-out data with given observations."""
    raw = torch.zeros(x.shape, dtype=torch.uint8)
    test = HeldOut(Dataset("x", raw, None, raw, None), type(model), CPU)
    test.x = x
    return test


def linear(moved: bool, z_dim: int = 2) -> PPCA:
    """A linear model with the posterior as its guide, or with a guide that is moved and narrower."""
    model = PPCA(SHAPE, z_dim=z_dim)
    with torch.no_grad():
        model.decoder.weight.copy_(0.3 * torch.randn(16, z_dim))
    model.solve_guide()
    if moved:
        with torch.no_grad():
            model.encoder.bias.add_(0.6)
            model.raw_tril.sub_(0.3 * torch.eye(z_dim))
    return model


@pytest.mark.parametrize("moved", [False, True])
def test_both_bounds_enclose_the_truth_of_a_linear_model(moved: bool, float64: None) -> None:
    """Data from the model, for which q(z) is normal: N(A b + c, A C A^T + L L^T)."""
    model, n = linear(moved), 1_000
    x = model.sample(n)
    found = aggregate_posterior(model, of(model, x)).metrics
    a, c = model.encoder.weight.detach(), model.encoder.bias.detach()
    w, b = model.decoder.weight.detach(), model.decoder.bias.detach()
    s = model.scale_tril.detach()
    covariance = a @ (w @ w.T + (2 * model.log_scale.detach()).exp() * torch.eye(16)) @ a.T + s @ s.T
    mismatch = densities.kl_multivariate_normal_standard(a @ b + c, torch.linalg.cholesky(covariance)).item()
    information = 0.5 * (covariance.logdet() - (s @ s.T).logdet()).item()
    assert 0.5 < information < 3 and (mismatch > 0.3 if moved else abs(mismatch) < 1e-9)
    value = {name: metric["value"] for name, metric in found.items()}
    error = {name: 4 * math.hypot(metric["se"], metric["mc_se"]) for name, metric in found.items()}
    kl = densities.kl_multivariate_normal_standard(x.flatten(1) @ a.T + c, s).mean().item()
    assert abs(value["kl"] - kl) < 4 * found["kl"]["mc_se"]
    assert value["mutual_information"] < information + error["mutual_information"]
    assert value["mutual_information_upper"] > information - error["mutual_information_upper"]
    assert value["aggregate_kl"] > mismatch - error["aggregate_kl"]
    assert value["aggregate_kl_lower"] < mismatch + error["aggregate_kl_lower"]
    for name in ("aggregate_kl", "aggregate_kl_lower"):  # with 1,000 images in two dimensions both are near
        assert abs(value[name] - mismatch) < 0.05 + error[name]


def test_the_marginals_of_a_factorised_guide(float64: None) -> None:
    """A guide whose q(z_j) are normal in a population of normal points; their sum misses the correlation."""
    model, n = VAE2D((2,), z_dim=2).eval(), 1_000
    x = torch.randn(n, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])  # correlation 0.8
    scale = torch.tensor([0.5, 0.8])
    model.encoder.forward = lambda x: torch.cat([x + 0.5, scale.log().expand(len(x), 2)], dim=-1)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]]) + scale.square().diag()
    parts = 0.5 * (covariance.diagonal() + 0.25 - 1 - covariance.diagonal().log()).sum().item()
    whole = densities.kl_multivariate_normal_standard(
        torch.full((2,), 0.5), torch.linalg.cholesky(covariance)
    ).item()
    found = aggregate_posterior(model, of(model, x)).metrics
    marginals, lower, upper = (found[f"aggregate_kl{name}"] for name in ("_marginals", "_lower", ""))
    assert abs(marginals["value"] - parts) < 4 * math.hypot(marginals["se"], marginals["mc_se"]) < 0.3
    assert lower["value"] < whole + 4 * lower["se"] and upper["value"] > whole - 4 * upper["se"]
    assert parts < whole - 0.1 and marginals["value"] < lower["value"]


def test_the_parts_add_up_and_information_is_at_most_log_n(float64: None) -> None:
    model = linear(True)
    with torch.no_grad():
        model.raw_tril.sub_(5 * torch.eye(2))  # guides that are far apart
    found = aggregate_posterior(model, of(model, model.sample(50))).metrics
    value = {name: metric["value"] for name, metric in found.items()}
    assert value["kl"] == pytest.approx(value["mutual_information"] + value["aggregate_kl"])
    assert value["kl"] == pytest.approx(value["mutual_information_upper"] + value["aggregate_kl_lower"])
    assert math.log(50) - 0.2 < value["mutual_information"] <= math.log(50) + 1e-9
    assert value["mutual_information"] < value["mutual_information_upper"]


@pytest.mark.parametrize("cls", [VAE, TwoLayerVAE, SSVAE])
def test_the_aggregate_of_several_latents(
    cls: type[LatentVariableModel], float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once or sample by sample it is the mean over the images, taken one by one."""
    model = cls(SHAPE, **({"classes": 3} if cls is SSVAE else {})).eval()
    inputs = {"x": example_inputs(model, 6)["x"]}
    with torch.no_grad():
        latents = aggregate._sample(model, inputs).latents
        flat = {name: z.flatten(0, 1) for name, z in latents.items()}
        each = [aggregate._log_guide(model, {"x": x[None]}, flat) for x in inputs["x"]]
    log_q = torch.cat(each, dim=1)  # (samples * images, images)
    expected = log_q.logsumexp(1) - math.log(6)
    log_q[torch.arange(24), torch.arange(24) % 6] = -math.inf
    without = log_q.logsumexp(1) - math.log(5)
    for memory in (2**28, 1):
        monkeypatch.setattr(aggregate, "MEMORY", memory)
        with torch.no_grad():
            found = aggregate._log_aggregate(model, of(model, inputs["x"]), inputs, latents)
        assert_close(found.every, expected.view(4, 6))
        assert_close(found.without, without.view(4, 6))
    if cls is VAE:
        q = model.posterior(**inputs)["z"].base_dist
        assert_close(torch.cat(each, dim=1)[:, 0], densities.normal(flat["z"], q.loc[0], q.scale[0]))
    if cls is SSVAE:
        y, z = flat["y"], flat["z"]
        log_y = (y * densities.log_softmax(model.classify(inputs["x"][:1]))).sum(-1)
        loc, scale = loc_scale(model.encoder(inputs["x"][:1].flatten(1).expand(24, -1), y))
        assert_close(each[0][:, 0], log_y + densities.normal(z, loc, scale))


def test_the_kl_term_of_a_dimension() -> None:
    """The dimensions add up to the term; a mixture as prior has no such parts."""
    model = VAE(SHAPE, z_dim=3, hidden=8).eval()
    x = example_inputs(model, 7)["x"]
    (kl,) = aggregate_posterior(model, of(model, x)).kl_of_dimensions.values()
    q = model.posterior(x)["z"].base_dist
    expected = 0.5 * (q.loc**2 + q.scale**2 - 2 * q.scale.log() - 1).mean(0)
    assert_close(kl, expected.double(), check_dtype=False)
    two = TwoLayerVAE(SHAPE, z1_dim=4, z2_dim=3, hidden1=8, hidden2=8).eval()
    parts = aggregate_posterior(two, of(two, x))
    total = sum(kl.sum().item() for kl in parts.kl_of_dimensions.values())
    assert {name: len(kl) for name, kl in parts.kl_of_dimensions.items()} == {"z1": 4, "z2": 3}
    assert total == pytest.approx(parts.metrics["kl"]["value"], rel=1e-4)
    mixture = GMVAE(SHAPE, z_dim=3, hidden=8, components=4).eval()
    assert aggregate_posterior(mixture, of(mixture, x)).kl_of_dimensions == {}
