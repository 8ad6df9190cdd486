"""Conditional sample accuracy: a classifier of real images recognises the class of generated ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import inference.evaluate as evaluate_command
from inference import svi
from inference.data.load import find_dataset
from inference.metrics import sample_classifier
from inference.metrics.sample_classifier import conditional_sample_accuracy
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from tests.support import SSVAE

DIGITS = find_dataset("digits", Path("nowhere"))[0]
TRAIN = sample_classifier.train


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the training to a second or two, which is enough for 8x8 pixels."""
    monkeypatch.setattr(sample_classifier, "STEPS", 100)


@cache
def classifier_of_digits() -> nn.Module:
    """A trained classifier, for tests that are about what it is given."""
    return TRAIN(DIGITS.x_train, DIGITS.y_train, 10)


@pytest.fixture
def trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the tests that use this share one classifier."""
    monkeypatch.setattr(sample_classifier, "train", lambda *_: classifier_of_digits())


def real(off: int = 0, change: Callable[[Tensor], Tensor] = lambda x: x) -> LatentVariableModel:
    """Returns a model whose samples are real test images, of the requested class plus `off`."""
    model = MODELS["ssvae"](DIGITS.shape, 10, z_dim=2, hidden=4)

    def sample(n: int, y: Tensor, noise: bool) -> Tensor:
        assert n == len(y) == 200 and (y.bincount() == 20).all() and not noise and not model.training
        assert DIGITS.y_test is not None
        order = torch.randperm(len(DIGITS.x_test))
        of = [order[DIGITS.y_test[order] == (label + off) % 10].tolist() for label in range(10)]
        return change(DIGITS.x_test[[of[label].pop() for label in y.tolist()]] / 255)

    model.sample = sample
    return model


def test_real_images_are_read_as_well_as_the_classifier_reads() -> None:
    model, before = real(), torch.get_rng_state()
    figures = conditional_sample_accuracy(model, DIGITS)
    assert torch.equal(torch.get_rng_state(), before) and model.training  # both are preserved
    generated, own = figures["conditional_sample_accuracy"]["value"], figures["classifier_accuracy"]["value"]
    assert own > 0.95 and generated == pytest.approx(own, abs=0.05)
    for name, n in (("conditional_sample_accuracy", 200), ("classifier_accuracy", 500)):
        p = figures[name]["value"]
        assert p * n == pytest.approx(round(p * n))  # a fraction of n
        assert figures[name]["se"] == pytest.approx((p * (1 - p) / n) ** 0.5) and p < 1


def test_the_rng_state_before_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_classifier, "STEPS", 2)
    figures = conditional_sample_accuracy(real(), DIGITS)
    torch.rand(3)
    assert conditional_sample_accuracy(real(), DIGITS) == figures


def test_another_class_is_seen(trained_once: None) -> None:
    assert conditional_sample_accuracy(real(off=1), DIGITS)["conditional_sample_accuracy"]["value"] < 0.03


def test_what_lies_beyond_black_and_white_is_clamped(trained_once: None) -> None:
    def beyond(x: Tensor) -> Tensor:
        return torch.where(x > 0.5, 1 + 20 * torch.rand(x.shape), -20 * torch.rand(x.shape))

    assert (
        conditional_sample_accuracy(real(change=beyond), DIGITS)["conditional_sample_accuracy"]["value"] > 0.8
    )


def test_without_labels_there_is_nothing_to_read() -> None:
    assert conditional_sample_accuracy(real(), replace(DIGITS, y_train=None, y_test=None)) == {}
    assert conditional_sample_accuracy(MODELS["vae"](DIGITS.shape, z_dim=2, hidden=4), DIGITS) == {}


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 5, 9)])
def test_images_of_any_size_are_taken(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_classifier, "STEPS", 2)
    x = torch.randint(256, (7, *shape), dtype=torch.uint8)
    trained = sample_classifier.train(x, torch.arange(7) % 4, 4)
    assert trained(x[:2] / 255).shape == (2, 4) and not trained.training


def test_a_batch_is_shifted_by_up_to_a_sixteenth_of_the_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pixel holds its position: level r in row r, level c in column c."""
    seen: list[Tensor] = []

    class Recorder(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x.mean((2, 3)))

    monkeypatch.setattr(sample_classifier, "network", lambda channels, n: Recorder(nn.Linear(channels, n)))
    rows = torch.arange(32, dtype=torch.uint8)[:, None].expand(32, 32)
    x = torch.stack([rows, rows.T])[None].expand(3, 2, 32, 32)
    sample_classifier.train(x, torch.zeros(3, dtype=torch.long), 2)
    shifts = set()
    for batch in seen:
        assert batch.shape == (sample_classifier.BATCH, 2, 32, 32)
        levels = (batch[0] * 255).round().long()
        assert (batch == batch[:1]).all()
        down, right = levels[0, 16, 0].item() - 16, levels[1, 0, 16].item() - 16
        assert torch.equal(levels[0], (rows.long() + down).clamp(0, 31))
        assert torch.equal(levels[1], (rows.T.long() + right).clamp(0, 31))
        shifts |= {(down, right)}
    assert {down for down, _ in shifts} == {right for _, right in shifts} == {-2, -1, 0, 1, 2}


def test_the_command_reads_what_has_a_label_and_generates(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_classifier, "STEPS", 30)
    for name, weight, added in (
        ("both", "1", {"conditional_sample_accuracy", "classifier_accuracy"}),
        ("alone", "0", set()),
    ):
        run = tmp_path / name
        options = ["--gen-weight", weight, "--data", str(small_npz), "--run-dir", str(run)]
        assert svi.main([*SSVAE, *options]) == 0
        assert evaluate_command.main([str(run), "--particles", "1"]) == 0
        test = json.loads((run / "results.json").read_text())["test"]
        assert test.keys() & {"conditional_sample_accuracy", "classifier_accuracy"} == added
