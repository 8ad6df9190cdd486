"""With a test set of one image, or without a class, every model trains, resumes and plots."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import inference.evaluate as evaluate_command
from inference import svi
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.metrics import sample_classifier as classifier
from inference.plots import images as figures
from inference.plots import points as point_figures
from ppl_models import MODELS, VAE
from tests.support import shortened

SMALL = {  # options that make a training short
    "ssvae": ["--labels", "6", "--hidden", "16"],
    "regularized_ssvae": ["--labels", "6", "--hidden", "16"],
    "adgm": ["--labels", "6", "--hidden", "16"],
    "vae": ["--hidden", "16"],
    "gmvae": ["--hidden", "16"],
    "fsvae": ["--hidden", "16"],
    "gated_vae": ["--z-channels", "4"],
    "af_vae": ["--z-channels", "4", "--flows", "1"],
    "code_pixelcnn": ["--codes", "5", "--width", "8"],
    "code_transformer": ["--codes", "5"],
    "seq_vae": ["--vocabulary", "5", "--hidden", "8"],
}
PICTURES = {"vae2d": {"latents", "samples"}, "flow": {"density", "samples"}, "made": {"samples", "training"}}
PICTURES |= {"code_pixelcnn": set(), "code_transformer": set(), "seq_vae": {"samples", "reconstructions"}}
# The others are drawn and resumed as these are.
FEW_MODELS = ["ssvae", "code_pixelcnn", "vae2d", "seq_vae"]
DRAWN = {"samples", "training", "reconstructions", "reconstructions_5"}


def save(folder: Path, model: str, y_test: list[int]) -> Path:
    """Saves random data for a model, in three classes, with one test image per label in `y_test`."""
    cls, random = MODELS[model], np.random.RandomState(0)
    shape = (2,) if cls.observation == "points" else (8, 8) if cls.example_shape[0] == 1 else (32, 32, 3)
    n = 24 + len(y_test)
    x = random.normal(size=(n, 2)) if cls.observation == "points" else random.randint(256, size=(n, *shape))
    x = x % 5 if cls.observation == "codes" else x
    if cls.observation == "tokens":
        x = np.pad(random.randint(2, 5, size=(n, 6)), ((0, 0), (0, 1)), constant_values=1)
    np.savez(folder / "own.npz", x_train=x[:24], x_test=x[24:], y_train=np.arange(24) % 3, y_test=y_test)
    return folder / "own.npz"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", shortened(MODELS, FEW_MODELS))
def test_one_test_image_is_enough(
    model: str, narrow: None, with_pictures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: dict[str, str] = {}
    keep = figures.save_grid

    def noted(images: torch.Tensor, columns: int, path: Path, title: str, pair: bool = False) -> None:
        titles[path.stem] = title
        assert path.stem not in ("training", "reconstructions", "reconstructions_5") or len(images) >= columns
        keep(images, columns, path, title, pair)

    monkeypatch.setattr(figures, "save_grid", noted)
    run = tmp_path / "run"
    data = ["--data", str(save(tmp_path, model, [0])), "--batch-size", "8", "--steps", "1"]
    assert svi.main(["--model", model, *SMALL.get(model, []), *data, "--run-dir", str(run)]) == 0
    figure = "negative_log_p" if model in ("made", "code_pixelcnn", "code_transformer", "flow") else "kl"
    if model not in ("ae", "vqvae"):
        assert np.isfinite(json.loads((run / "results.json").read_text())["test"][figure]["value"])
    found = {path.stem for path in (run / "figures").iterdir()}
    assert PICTURES.get(model, DRAWN) | {"curves"} <= found and ("latents" in found) == (model == "vae2d")
    if "reconstructions" in titles:
        assert titles["reconstructions_5"] == "1 test image; below, the reconstruction"
    monkeypatch.setattr("inference.fitting.draw_all", lambda *_: None)  # the pictures would be the same
    assert svi.main(["--resume", str(run)]) == 0


@pytest.mark.parametrize("model", shortened(["ssvae", "fsvae", "vae"], ["fsvae"]))
def test_a_class_without_a_test_image(
    model: str, with_pictures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 10)  # of the classifier of real images
    run = tmp_path / "run"
    data = ["--data", str(save(tmp_path, model, [0, 1, 1, 0])), "--batch-size", "8", "--steps", "1"]
    assert svi.main(["--model", model, *SMALL[model], *data, "--run-dir", str(run)]) == 0
    assert json.loads((run / "config.json").read_text())["classes"] == 3
    assert (run / "figures" / "latents.png").exists()
    assert evaluate_command.main([str(run), "--particles", "1", "10"]) == 0


LABELS = {"missing": [-1] * 12 + [2**40] * 12, "all different": list(range(24)), "all equal": [5] * 24}


@pytest.mark.parametrize("kind", shortened(LABELS, ["missing"]))
def test_labels_that_a_model_ignores_are_no_trouble(kind: str, tmp_path: Path) -> None:
    """Labels may be missing, all different, or all equal: training and the linear probe work."""
    y, path, run = LABELS[kind], save(tmp_path, "vae", [0, 1]), tmp_path / "run"
    arrays = dict(np.load(path)) | {"y_train": np.array(y), "y_test": np.array(y[:2])}
    np.savez(path, **arrays)
    arguments = ["--model", "vae", *SMALL["vae"], "--data", str(path), "--batch-size", "8", "--steps", "1"]
    assert svi.main([*arguments, "--run-dir", str(run)]) == 0
    assert json.loads((run / "config.json").read_text())["classes"] == len(set(y))
    assert evaluate_command.main([str(run), "--particles", "1"]) == 0
    probed = "probe_10" in json.loads((run / "results.json").read_text())["test"]
    assert probed == (len(set(y)) == 2)


def test_one_image_has_no_picture_of_latents_and_two_have(tmp_path: Path) -> None:
    x = torch.arange(2 * 64).reshape(2, 1, 8, 8).to(torch.uint8)
    for n, z_dim, drawn in ((1, 5, False), (2, 5, True), (1, 2, False), (2, 2, True)):
        test = HeldOut(Dataset("few", x, None, x[:n], None), VAE, torch.device("cpu"))
        path = tmp_path / f"{n}-{z_dim}.png"
        figures.draw_latents_by_label(VAE((1, 8, 8), z_dim=z_dim, hidden=8), test, path)
        assert path.exists() == drawn


def test_a_box_around_one_point_holds_it() -> None:
    left, right, bottom, top = point_figures.box_around(torch.tensor([[2.0, -1e6]]))
    assert left < 2 < right and bottom < -1e6 < top
    assert point_figures.box_around(torch.tensor([[0.0, 0.0], [10.0, 20.0]])) == (-1, 11, -2, 22)
