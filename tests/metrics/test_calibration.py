"""The expected calibration error, where its value is known."""

import json
import math
from pathlib import Path

import pytest
import torch

import inference.evaluate as evaluate_command
from inference import svi
from inference.data.convert import as_dataset
from inference.data.held_out import HeldOut
from inference.metrics.calibration import calibration, expected_calibration_error
from ppl_models import SSVAE, VAE
from tests.support import SSVAE as SSVAE_OPTIONS


def test_a_classifier_that_is_right_as_often_as_it_says_has_no_error() -> None:
    q = torch.tensor([[0.75, 0.25]] * 4 + [[0.1, 0.9]] * 10)
    y = torch.tensor([0, 0, 0, 1] + [1] * 9 + [0])
    assert expected_calibration_error(q, y) == pytest.approx(0, abs=1e-7)


def test_the_error_is_the_distance_from_confidence_to_accuracy() -> None:
    q = torch.tensor([[0.9, 0.1]] * 10)
    assert expected_calibration_error(q, torch.tensor([0] * 6 + [1] * 4)) == pytest.approx(0.3)
    assert expected_calibration_error(q, torch.zeros(10, dtype=torch.long)) == pytest.approx(0.1)


def test_bins_count_by_their_images_and_do_not_cancel() -> None:
    """30 images that are right less often than they say, 10 that are right more often: in different bins."""
    q = torch.tensor([[0.95, 0.05]] * 30 + [[0.55, 0.45]] * 10)
    y = torch.tensor([0] * 15 + [1] * 15 + [0] * 10)
    assert expected_calibration_error(q, y) == pytest.approx((30 * 0.45 + 10 * 0.45) / 40)
    assert expected_calibration_error(q, y, bins=1) == pytest.approx((30 * 0.45 - 10 * 0.45) / 40)


def test_certainty_is_in_the_last_bin() -> None:
    q = torch.eye(3)[[0, 1, 2, 0]]
    assert expected_calibration_error(q, torch.tensor([0, 1, 2, 1])) == pytest.approx(0.25)


def test_labels_sampled_from_the_probabilities_leave_sampling_noise_only() -> None:
    """The expected value of a calibrated classifier is about sum_b sqrt(2 n_b v_b / pi) / n, not 0."""
    n = 200_000
    p = 0.5 + 0.5 * torch.rand(n, dtype=torch.float64)
    y = (torch.rand(n, dtype=torch.float64) > p).long()
    assert expected_calibration_error(torch.stack([p, 1 - p], -1), y) < 3 * math.sqrt(15 * 0.25 / n)
    flatter = torch.stack([p, 1 - p], -1).sqrt()
    flatter = flatter / flatter.sum(-1, keepdim=True)
    assert expected_calibration_error(flatter, y) == pytest.approx(
        (p - flatter.max(-1).values).abs().mean().item(), abs=0.01
    )


def test_the_metric_of_a_model() -> None:
    """A classifier that gives every image the same probabilities, on labels with known frequencies."""
    model = SSVAE((1, 4, 4), 2, z_dim=2, hidden=4)
    with torch.no_grad():
        model.classifier.layers[-1].weight.zero_()
        model.classifier.layers[-1].bias.copy_(torch.tensor([math.log(0.8), math.log(0.2)]))
    x = torch.randint(256, (10, 1, 4, 4), dtype=torch.uint8)
    y = torch.tensor([0] * 5 + [1] * 5)
    test = HeldOut(as_dataset((x, y), (x, y), model=SSVAE, name="x"), SSVAE, torch.device("cpu"))
    assert calibration(model.train(), test)["calibration_error"]["value"] == pytest.approx(0.3)
    assert model.training
    assert calibration(VAE((1, 4, 4), z_dim=2, hidden=4), test) == {}


def test_evaluate_writes_it(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert svi.main([*SSVAE_OPTIONS, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    assert "calibration_error" not in json.loads((run / "results.json").read_text())["test"]
    assert evaluate_command.main([str(run), "--particles", "1"]) == 0
    assert 0 < json.loads((run / "results.json").read_text())["test"]["calibration_error"]["value"] < 1
