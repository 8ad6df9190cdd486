"""Evaluation of bounds: standard errors, accuracy without noise, labels as inputs."""

from pathlib import Path

import pytest
import torch

from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.load import find_dataset
from inference.elbo.estimators import Loss
from inference.metrics.bounds import evaluate_bounds
from ppl_models import MODELS
from ppl_models.programs import sample_latents


def test_evaluation_errors_are_what_they_say(small_npz: Path) -> None:
    """Standard errors over many repetitions agree with those of one evaluation."""
    data, _ = find_dataset(str(small_npz), Path("nowhere"))
    test, model = (
        HeldOut(data, MODELS["vae"], torch.device("cpu")),
        MODELS["vae"]((1, 6, 6), z_dim=2, hidden=16),
    )
    with torch.no_grad():
        model.decoder.layers[0].weight *= 20  # so that z matters
    before = torch.get_rng_state()
    figure = evaluate_bounds(model, test, samples=400)["negative_elbo"]
    assert torch.equal(torch.get_rng_state(), before)  # the RNG state is preserved
    x = next(test.chunks(30))[0]["x"]
    with torch.no_grad():
        draws = _negative_elbo(model, x.repeat(2000, 1, 1, 1)).unflatten(0, (2000, 30))  # (draws, images)
    assert figure["value"] == pytest.approx(draws.mean().item(), abs=5 * figure["mc_se"])
    assert figure["mc_se"] == pytest.approx(draws.mean(1).std().item() / 20, rel=0.1)
    assert figure["se"] == pytest.approx(draws.mean(0).std().item() / 30**0.5, rel=0.1)


def _negative_elbo(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.bound(x, sample_latents(model, x=x)).negative_elbo


def test_accuracy_is_read_on_grey_levels() -> None:
    """A classifier of one pixel's level is right on grey images and guesses on binary ones."""
    grey = torch.tensor([100, 150], dtype=torch.uint8).repeat(50)  # below and above the middle
    x = grey[:, None, None, None].expand(100, 1, 2, 2).contiguous()
    data = Dataset("levels", x, (grey > 127).long(), x, (grey > 127).long())
    model = MODELS["ssvae"]((1, 2, 2), 2, z_dim=2, hidden=4)
    model.classify = lambda x: torch.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5], dim=-1)
    test = HeldOut(data, type(model), torch.device("cpu"))
    assert evaluate_bounds(model, test)["accuracy"]["value"] == 1.0
    assert 0.3 < ((test.x[:, 0, 0, 0] > 0.5) == data.y_test).float().mean() < 0.7


def test_labels_reach_a_model_that_takes_them_for_every_image(small_npz: Path) -> None:
    class Conditional(MODELS["vae"]):
        """A VAE with y as an input that it records and ignores: p(x | z, y) = p(x | z)."""

        inputs, has_label = ("x", "y"), True
        seen: dict[str, torch.Tensor] = {}

        def model(self, x, y):
            self.seen["model"] = y
            super().model(x)

        def guide(self, x, y):
            self.seen["guide"] = y
            super().guide(x)

        def bound(self, x, latents, y, **kl):
            self.seen["bound"] = y
            return super().bound(x, latents, **kl)

    data, _ = find_dataset(str(small_npz), Path("nowhere"))
    model, cpu = Conditional((1, 6, 6), 3, z_dim=2, hidden=8), torch.device("cpu")
    batches = Batches(data, Conditional, 90, 0, torch.empty(0), cpu)
    batch = batches(0)
    Loss(model, "mean_field")(**batch)
    assert data.y_train is not None and torch.equal(model.seen["model"], data.y_train[batches.order])
    evaluate_bounds(model, HeldOut(data, Conditional, cpu))
    assert torch.equal(model.seen["bound"], data.y_test)
    y = torch.tensor([2, 0])
    assert model.reconstruct(batch["x"][:2], y).shape == (2, 1, 6, 6)
    assert model.seen["guide"] is y and model.seen["model"] is y
    assert model.sample(2, y=y).shape == (2, 1, 6, 6)


def test_counts_are_gathered_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process counts codebook entries on its own GPU, and tensors of two GPUs cannot be added."""

    class OnGPU(torch.Tensor):
        """A tensor that is on a GPU until `cpu` is called."""

        def cpu(self) -> torch.Tensor:  # type: ignore[override]
            return self.as_subclass(torch.Tensor)

    count, gathered = MODELS["vqvae"].code_counts, []
    monkeypatch.setattr(
        MODELS["vqvae"], "code_counts", lambda self, latents: count(self, latents).as_subclass(OnGPU)
    )
    monkeypatch.setattr(
        "inference.backend.distributed.all_gather", lambda value: gathered.append(value) or [value] * 2
    )
    x = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    model = MODELS["vqvae"]((3, 32, 32), codes=9).eval()
    test = HeldOut(Dataset("random", x, None, x, None), MODELS["vqvae"], torch.device("cpu"))
    figures = evaluate_bounds(model, test)
    ((per_image, counts),) = gathered
    assert type(counts) is torch.Tensor and counts.sum() == 5 * 64
    assert all(part.device.type == "cpu" for parts in per_image.values() for part in parts.values())
    assert figures["usage"]["value"] == (counts > 0).double().mean()
