"""Simulation-based calibration: uniform ranks for the posterior, and for nothing else."""

import math

import pytest
import torch

from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.metrics import rank_calibration as module
from inference.metrics.rank_calibration import SAMPLES, Calibration, counts, rank_calibration, uniformity
from inference.plots.diagnostics import binomial_interval
from ppl_models import PPCA, SSVAE, TwoLayerVAE
from ppl_models.base import LatentVariableModel

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)


def calibrated(model: LatentVariableModel, simulations: int) -> Calibration:
    x = torch.zeros(2, *model.shape, dtype=torch.uint8)
    return rank_calibration(
        model.eval(), HeldOut(Dataset("", x, None, x, None), type(model), CPU), simulations
    )


def linear(scale: float = 1.0, shift: float = 0.0) -> PPCA:
    """A linear model whose guide is the posterior, with its scale multiplied and its mean moved."""
    model = PPCA(SHAPE, z_dim=3)
    with torch.no_grad():
        model.decoder.weight.copy_(0.5 * torch.randn(16, 3))
        model.solve_guide()
        model.raw_tril.add_(math.log(scale) * torch.eye(3))
        if scale != 1:  # the elements below the diagonal are not logarithms
            model.raw_tril.copy_(model.raw_tril.tril(-1) * scale + model.raw_tril.diagonal().diag())
        model.encoder.bias.add_(shift)
    return model


def expected_spread(a: float) -> float:
    """Of ranks of N(0, a^2) among 99 samples of N(0, 1), from E[Phi(a e)^2] = 1/4 + arcsin(...) / (2 pi)."""
    variance = math.asin(a * a / (1 + a * a)) / (2 * math.pi)
    inside = 0.25 - variance  # the mean of u (1 - u)
    return (SAMPLES * inside + SAMPLES**2 * variance) * 12 / ((SAMPLES + 1) ** 2 - 1)


def test_the_ranks_of_the_posterior_are_uniform(float64: None) -> None:
    found = calibrated(linear(), 2_000)
    assert found.metrics["ranks_rejected"]["value"] == 0 and found.metrics["rank_p_value"]["value"] > 0.05
    spread = found.metrics["rank_spread"]
    assert expected_spread(1.0) == pytest.approx(1.0)
    assert abs(spread["value"] - 1) < 3 * spread["se"] < 0.06
    assert found.ranks["z"].shape == (2_000, 3) and found.p_values["z"].shape == (3,)
    assert found.ranks["z"].min() == 0 and found.ranks["z"].max() == SAMPLES


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_wrong_scale_is_found_and_its_direction(scale: float, float64: None) -> None:
    found = calibrated(linear(scale), 1_000)
    assert found.metrics["ranks_rejected"]["value"] == 3 and found.metrics["rank_p_value"]["value"] < 1e-6
    spread = found.metrics["rank_spread"]
    assert (spread["value"] > 1) == (scale < 1)
    assert abs(spread["value"] - expected_spread(1 / scale)) < 4 * spread["se"]


def test_a_wrong_mean_is_found(float64: None) -> None:
    found = calibrated(linear(shift=0.2), 1_000)
    assert found.metrics["ranks_rejected"]["value"] == 3
    assert (found.ranks["z"].double().mean(0) < 45).all()  # the truth is below the samples


def test_p_values_are_uniform_for_uniform_ranks() -> None:
    ranks = torch.randint(SAMPLES + 1, (400, 500))
    p = uniformity(ranks)
    assert 0.45 < p.mean() < 0.55 and 0.02 < (p < 0.05).double().mean() < 0.08
    assert (counts(ranks).sum(0) == 400).all() and counts(ranks).shape == (20, 500)
    assert uniformity(torch.zeros(400, 1)).item() < 1e-12
    scipy = pytest.importorskip("scipy.stats")
    observed = counts(ranks[:, :1])[:, 0].numpy()
    assert uniformity(ranks[:, :1]).item() == pytest.approx(scipy.chisquare(observed).pvalue)
    assert binomial_interval(400, 0.05, 0.99) == tuple(scipy.binom.ppf([0.005, 0.995], 400, 0.05))


def test_simulations_in_parts_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two latents, and with a label that the guide samples and whose rank is not computed."""
    monkeypatch.setattr(module, "MEMORY", 2**22)
    two = TwoLayerVAE(SHAPE, z1_dim=4, z2_dim=3, hidden1=8, hidden2=8)
    assert {name: rank.shape for name, rank in calibrated(two, 130).ranks.items()} == {
        "z1": (130, 4),
        "z2": (130, 3),
    }
    labelled = calibrated(SSVAE(SHAPE, 3, z_dim=2, hidden=8), 130)
    assert {name: rank.shape for name, rank in labelled.ranks.items()} == {"z": (130, 2)}
