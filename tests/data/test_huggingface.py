"""Data sets that Hugging Face's `save_to_disk` wrote are the same as folders of the same images."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inference import svi
from inference.data import stored
from inference.data.load import find_dataset
from inference.data.stored import Rows
from inference.errors import UserError
from inference.rundir.run import Run
from ppl_models import FSVAE, VAE

datasets = pytest.importorskip("datasets", reason="datasets is not installed")

PIXELS = np.random.RandomState(0).randint(256, size=(40, 16, 16), dtype=np.uint8)
NAMES = ["dog", "cat", "ant"]


@pytest.fixture(autouse=True)
def without_bars() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def columns(rows: slice = slice(None), **changed: Any) -> Any:
    """A data set of images and classes."""
    images = [Image.fromarray(x) for x in PIXELS[rows]]
    values = {"picture": images, "animal": [i % 3 for i in range(40)][rows]} | changed
    types = {"picture": datasets.Image(), "animal": datasets.ClassLabel(names=NAMES)}
    kinds = {name: types.get(name, datasets.Value("int64")) for name in values}
    return datasets.Dataset.from_dict(values, features=datasets.Features(kinds))


def test_train_and_test_are_the_parts(tmp_path: Path) -> None:
    parts = {"train": columns(slice(30)), "validation": columns(slice(0, 5)), "test": columns(slice(30, 40))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "pets")
    data, line = find_dataset(str(tmp_path / "pets"), tmp_path, FSVAE)
    assert np.array_equal(data.x_train[:][:, 0], PIXELS[:30]) and np.array_equal(
        data.x_test[:][:, 0], PIXELS[30:]
    )
    assert data.class_names == ("ant", "cat", "dog") and data.y_train is not None and data.y_test is not None
    assert data.y_train[:3].tolist() == [2, 1, 0] and data.y_test[:3].tolist() == [2, 1, 0]
    assert line == (f"{tmp_path / 'pets'}: 40 images of 1x16x16; labels ant, cat, dog are classes 0 to 2")


def test_one_part_is_split_and_equals_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns().save_to_disk(tmp_path / "pets")
    for number, x in enumerate(PIXELS):
        Image.fromarray(x).save(tmp_path / f"{number:02}.png")
    data, _ = find_dataset(str(tmp_path / "pets"), tmp_path, VAE)
    (tmp_path / "plain").mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(tmp_path / "plain" / path.name)
    folder, _ = find_dataset(str(tmp_path / "plain"), tmp_path, VAE)
    assert torch.equal(data.x_train[:], folder.x_train[:]) and torch.equal(data.x_test[:], folder.x_test[:])
    monkeypatch.setattr(stored, "LIMIT", 0)
    on_disk, _ = find_dataset(str(tmp_path / "pets"), tmp_path, VAE)
    assert isinstance(on_disk.x_train, Rows) and on_disk.checksum() == data.checksum()


def test_a_run_is_resumed(tmp_path: Path) -> None:
    two = columns(grade=[i // 2 % 2 for i in range(40)])
    two.save_to_disk(tmp_path / "pets")
    options = [f"--data={tmp_path / 'pets'}", "--label-column=grade", "--image-size=32", "--device=cpu"]
    options += ["--batch-size=8", "--compile=eager", f"--run-dir={tmp_path / 'run'}", "--steps=2"]
    assert svi.main(["--model=fsvae", *options]) == 0
    assert svi.main([f"--resume={tmp_path / 'run'}", "--steps=4"]) == 0
    config = Run.open(tmp_path / "run").config
    assert (config.classes, config.shape, config.label_column) == (2, [1, 32, 32], "grade")


def encoded(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def saved(folder: Path, data: Any) -> str:
    data.save_to_disk(folder / "bad")
    return str(folder / "bad")


@pytest.mark.parametrize(
    ("make", "model", "complaint"),
    [
        (lambda: columns().remove_columns("animal"), FSVAE, "has no column of labels. Give --label-column"),
        (
            lambda: columns().add_column("kind", [0] * 40, feature=datasets.ClassLabel(names=NAMES)),
            FSVAE,
            "has labels in animal and kind. Choose one with --label-column",
        ),
        (lambda: columns().remove_columns("picture"), VAE, "has no column of images. Save it with one"),
        (lambda: columns(animal=[0, -1] * 20), VAE, "train, row 1 has no label in 'animal'. Remove the row"),
        (
            lambda: columns(animal=[0, None] * 20),
            VAE,
            "train, row 1 has no label in 'animal'. Remove the row",
        ),
        (
            lambda: columns().add_column("other", [None] * 40, feature=datasets.Image()),
            VAE,
            "has the columns of images picture, other. Save it",
        ),
        (lambda: columns(picture=[None] * 40), VAE, "train, row 0 has no image, or only its path"),
        (lambda: datasets.DatasetDict({"valid": columns()}), VAE, "has the parts valid. Save it with a part"),
    ],
)
def test_other_data_are_refused(make: Any, model: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_dataset(saved(tmp_path, make()), tmp_path, model)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_instead_of_an_image_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encoded(PIXELS[0]))
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 40
    kinds = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"picture": kinds})
    datasets.Dataset.from_dict({"picture": rows}, features=features).save_to_disk(tmp_path / "bad")
    about = tmp_path / "bad" / "dataset_info.json"  # save_to_disk reads a file that an image names
    about.write_text(
        json.dumps(json.loads(about.read_text()) | {"features": {"picture": {"_type": "Image"}}})
    )
    with pytest.raises(UserError, match="row 0 has no image, or only its path"):
        find_dataset(str(tmp_path / "bad"), tmp_path, VAE)


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    columns().save_to_disk(tmp_path / "pets")
    next((tmp_path / "pets").glob("*.arrow")).write_bytes(b"no")
    with pytest.raises(UserError, match=r"pets cannot be read \(.*\)\. Save it again with save_to_disk"):
        find_dataset(str(tmp_path / "pets"), tmp_path, VAE)


def test_without_the_package_the_message_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns().save_to_disk(tmp_path / "pets")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "ppl-models\[datasets\]"$'):
        find_dataset(str(tmp_path / "pets"), tmp_path, VAE)
