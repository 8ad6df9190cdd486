"""Scores of data points: the bounds of `evaluate` per point, exact where a model is; outliers score high."""

import numpy as np
import pytest
import torch

from inference import evaluate, score
from inference.data import Dataset, load_dataset
from inference.errors import UserError
from inference.metrics.bounds import summary
from inference.metrics.scores import Scores
from ppl_models import AE, FSVAE, MADE, PPCA, SSVAE, VAE, VQVAE, Flow
from ppl_models.programs import sample_latents


@pytest.fixture(scope="module")
def digits() -> Dataset:
    data = load_dataset("digits")
    return Dataset("digits", data.x_train, data.y_train, data.x_test[:150], data.y_test[:150])


def seeded(cls, *arguments, **options):
    torch.manual_seed(0)
    return cls(*arguments, **options).eval()


@pytest.mark.parametrize("particles", [1, 7, 200])
def test_the_mean_of_the_scores_is_the_bound_of_evaluate(digits: Dataset, particles: int) -> None:
    """In every digit, for a model without and with a label; the error of the mean is that of evaluate."""
    for model in (seeded(VAE, (1, 8, 8), hidden=16), seeded(SSVAE, (1, 8, 8), 10, hidden=16)):
        found = score(model, digits, particles)
        expected = evaluate(model, digits, [particles])[f"iwae_{particles}"]
        assert found.metric == f"iwae_{particles}" and found.values.shape == found.mc_se.shape == (150,)
        summary = found.summary()
        # evaluate's pool is as large: the same samples
        assert summary["value"] == pytest.approx(expected.value, abs=1e-9)
        assert summary["se"] == pytest.approx(expected.se) and summary["mc_se"] == pytest.approx(
            expected.mc_se
        )
        assert torch.equal(found.y, digits.y_test)


@pytest.fixture
def ppca(digits: Dataset, float64: None) -> PPCA:
    """A maximum-likelihood model, whose guide is the posterior."""
    model = seeded(PPCA, (1, 8, 8), z_dim=3)
    model.solve(digits.x_train / 255)
    return model


def test_an_exact_guide_gives_exact_scores_without_error(digits: Dataset, ppca: PPCA) -> None:
    found = score(ppca, digits, 5)
    torch.testing.assert_close(found.values, -ppca.log_likelihood(digits.x_test / 255), rtol=1e-6, atol=1e-6)
    assert found.mc_se.max() < 1e-6


def test_outliers_have_high_scores(digits: Dataset, ppca: PPCA) -> None:
    usual, inverted = (score(ppca, images, 5).values for images in (digits.x_test, 255 - digits.x_test))
    assert (inverted[:, None] > usual).double().mean() > 0.99


def test_the_error_is_the_spread_of_repeated_scores(digits: Dataset) -> None:
    """Twenty copies of an image have samples of their own in one chunk, and one distribution of scores."""
    model = seeded(VAE, (1, 8, 8), hidden=16)
    x = (digits.x_test[:1] > 99).float().expand(80, 1, 8, 8)
    found = score(model, x, 10)  # 10 groups of 10
    assert found.values.std().item() == pytest.approx(found.mc_se.square().mean().sqrt().item(), rel=0.3)


def test_models_without_latents_have_exact_scores(digits: Dataset) -> None:
    model = seeded(MADE, (1, 8, 8), hidden=16)
    x = (digits.x_test > 99).float()
    found = score(model, x)
    assert found.metric == "negative_log_p" and (found.mc_se == 0).all() and found.y is None
    torch.testing.assert_close(found.values.float(), -model.log_likelihood(x))
    points = torch.randn(30, 2)
    flow = seeded(Flow, (2,), hidden=8)
    torch.testing.assert_close(score(flow, points).values.float(), -flow.log_likelihood(points))


def test_a_point_guide_has_the_negative_elbo(capsys: pytest.CaptureFixture[str]) -> None:
    levels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    model, x = seeded(VQVAE, (3, 32, 32), codes=9), levels / 127.5 - 1
    found = score(model, levels)
    expected = model.bound(x, sample_latents(model, x=x)).negative_elbo
    assert found.metric == "negative_elbo" and found.mc_se.max() == 0
    torch.testing.assert_close(found.values.float(), expected)
    assert "VQVAE has a guide that is a point: the scores are -ELBO" in capsys.readouterr().err


def test_what_has_no_score_is_refused(digits: Dataset) -> None:
    with pytest.raises(UserError, match=r"^AE has no bound on log p\(x\)\. Choose another model\.$"):
        score(seeded(AE, (1, 28, 28), z_dim=2), torch.rand(3, 28, 28))
    with pytest.raises(UserError, match=r"^SSVAE has no bound on log p\(x\)"):
        score(seeded(SSVAE, (1, 8, 8), 10, gen_weight=0), digits)
    vae = seeded(VAE, (1, 8, 8), hidden=8)
    with pytest.raises(
        UserError, match=r"shape \(1, 9, 9\), and the model is built for \(1, 8, 8\)\. Give data"
    ):
        score(vae, torch.rand(3, 9, 9))
    with pytest.raises(UserError, match="no labels"):
        score(seeded(FSVAE, (1, 8, 8), 3, hidden=8), torch.rand(3, 8, 8))
    with pytest.raises(UserError, match=r"label 9, and the model has 3 classes\. Give labels from 0 to 2\."):
        score(seeded(FSVAE, (1, 8, 8), 3, hidden=8), digits)
    with pytest.raises(UserError, match="particles"):
        score(vae, digits, 0)


def test_the_model_and_the_generator_are_preserved(digits: Dataset) -> None:
    model = seeded(VAE, (1, 8, 8), hidden=8).train()
    before = torch.get_rng_state()
    found = [score(model, digits, 3).values for _ in range(2)]
    assert torch.equal(*found) and model.training and torch.equal(torch.get_rng_state(), before)
    assert np.isfinite(found[0].numpy()).all()


def test_two_data_points_and_two_samples_have_errors() -> None:
    """Of 1 and 3: the standard deviation is the root of 2, and the standard error 1. One point has none."""
    two = torch.tensor([[1.0, 3.0]])
    assert summary(two) == pytest.approx({"value": 2.0, "se": 1.0})
    assert summary(two.T) == pytest.approx({"value": 2.0, "mc_se": 1.0})
    mc_se = torch.tensor([0.3, 0.4])
    found = Scores("negative_elbo", two[0], mc_se, None).summary()
    assert found == pytest.approx({"value": 2.0, "se": 1.0, "mc_se": 0.25})
    assert "se" not in Scores("negative_elbo", two[0, :1], mc_se[:1], None).summary()
