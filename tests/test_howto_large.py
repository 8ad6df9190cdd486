"""The commands of the how-to pages about large files, loaders and Hugging Face's data sets run as printed."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference import svi
from inference.data import stored
from inference.rundir.run import Run

HOWTO = Path(__file__).parents[1] / "docs" / "howto"


def blocks(page: str, language: str = "") -> list[str]:
    """The blocks of a page in a language."""
    text = (HOWTO / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


def train(command: str) -> Run:
    """Runs a command with two steps."""
    python, option, module, *arguments = shlex.split(command)
    assert (python, option, module, *arguments[-2:]) == ("python", "-m", "inference.svi", "--steps", "300")
    assert svi.main([*arguments[:-1], "2", "--run-dir=run", "--device=cpu", "--compile=eager"]) == 0
    return Run.open(Path("run"))


def test_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stored, "LIMIT", 0)
    np.save("images.npy", np.random.RandomState(0).randint(256, size=(220, 8, 8), dtype=np.uint8))
    (command,) = blocks("large-files")
    assert train(command).config.shape == [1, 8, 8]


@pytest.mark.full
def test_dataloader(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("dataloader", "python")
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(code, scope)
    assert scope["history"].metrics[-1]["step"] == 200  # type: ignore[attr-defined]
    value = float(capsys.readouterr().out.split("\n")[-2].split()[0])
    assert 40 < value < 64 * np.log(2) + 5  # uniform noise has 64 log 2 nats under a constant


def test_huggingface_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    images = [Image.fromarray(random.randint(256, size=(40, 50, 3), dtype=np.uint8)) for _ in range(150)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])})
    part = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 75}, features=features)
    datasets.DatasetDict({"train": part, "test": part.select(range(20))}).save_to_disk("pets")
    install, command = blocks("huggingface-datasets")
    assert install == 'pip install "ppl-models[datasets]"'
    config = train(command).config
    assert (config.shape, config.class_names) == ([3, 32, 32], ["a", "b"])
