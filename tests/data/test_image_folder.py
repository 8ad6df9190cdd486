"""Folders of images: layouts, formats, sizes, and what a run keeps of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inference import svi
from inference.data import decode, torchvision_sets
from inference.data.dataset import Dataset
from inference.data.image_folder import load
from inference.data.load import find_dataset
from inference.data.split import train_and_test
from inference.errors import UserError
from inference.rundir.restore import restore
from ppl_models import FSVAE, SSVAE
from tests.support import same

RANDOM = np.random.RandomState(0)
GREY = RANDOM.randint(256, size=(6, 5)).astype(np.uint8)
GREY[0, :2] = 0, 255
RGB = RANDOM.randint(256, size=(6, 5, 3)).astype(np.uint8)
RGB[0, 0] = 255


def save(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    """Saves an image, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def numbered(folder: Path, n: int, start: int = 0) -> None:
    """Saves n grey images. The upper left pixel is white, and the next one says which image it is."""
    for i in range(start, start + n):
        pixels = GREY.copy()
        pixels[0, 1] = i
        pixels[0, 0] = 255
        save(folder / f"{i:03}.png", pixels)


def which(x: torch.Tensor) -> list[int]:
    """Returns the numbers of images that `numbered` saved."""
    return x[:, 0, 0, 1].tolist()


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for start, name in enumerate(("ox", "Cat", "a b")):
        numbered(tmp_path / name, 10, 10 * start)
    data, line = load(tmp_path, model=FSVAE)
    assert data.class_names == ("Cat", "a b", "ox") and data.name == str(tmp_path.resolve())
    assert data.shape == (1, 6, 5) and data.x_train.dtype == torch.uint8 and data.y_train.dtype == torch.int64
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert [("ox", "Cat", "a b")[i // 10] for i in which(x)] == [data.class_names[k] for k in y]
    assert sorted(which(data.x_train) + which(data.x_test)) == list(range(30)) and len(data.x_test) == 3
    assert "30 images of 1x6x5" in line and "labels Cat, a b, ox are classes 0 to 2" in line


def test_numbers_as_names_are_the_labels(tmp_path: Path) -> None:
    for k in (0, 1, 2, 10):
        numbered(tmp_path / "gap" / str(k), 2, k)
    assert load(tmp_path / "gap")[0].class_names == (0, 1, 2, 10)
    for k in range(11):
        numbered(tmp_path / "all" / str(k), 20, 20 * k)
    data, _ = load(tmp_path / "all")
    assert data.class_names is None and [i // 20 for i in which(data.x_test)] == data.y_test.tolist()
    numbered(tmp_path / "long" / ("9" * 30), 2)
    assert load(tmp_path / "long")[0].class_names == ("9" * 30,)
    numbered(tmp_path / "padded" / "01", 2)
    numbered(tmp_path / "padded" / "1", 2)
    assert load(tmp_path / "padded")[0].class_names == ("01", "1")


def test_the_split_is_a_fixed_tenth_in_the_order_of_the_files(tmp_path: Path) -> None:
    numbered(tmp_path, 40)
    data, line = load(tmp_path)
    assert data.y_train is None and data.y_test is None and data.classes == 0 and "4 of 40" in line
    assert which(data.x_test) == sorted(np.random.RandomState(0).permutation(40)[:4])
    assert which(data.x_train) == sorted(set(range(40)) - set(which(data.x_test)))
    assert [len(part) for part in train_and_test(2, "x")] == [1, 1]
    assert [len(part) for part in train_and_test(99, "x")] == [90, 9]


def test_train_and_test_are_kept_apart(tmp_path: Path) -> None:
    for part, name, start in (("train", "b", 0), ("train", "a", 5), ("test", "a", 10), ("val", "a", 15)):
        numbered(tmp_path / part / name, 5, start)
    data, line = load(tmp_path, model=SSVAE)
    assert which(data.x_train) == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4] and which(data.x_test) == [
        10,
        11,
        12,
        13,
        14,
    ]
    assert data.y_train.tolist() == [0] * 5 + [1] * 5 and data.y_test.tolist() == [0] * 5
    assert "a tenth" not in line


def test_train_may_be_a_class_and_classes_may_have_subfolders(tmp_path: Path) -> None:
    numbered(tmp_path / "car", 3)
    numbered(tmp_path / "train" / "old" / "steam", 3)
    (tmp_path / ".git").mkdir()
    (tmp_path / "car" / "notes.txt").write_text("none")
    data, line = load(tmp_path)
    assert data.class_names == ("car", "train") and len(data.x_train) + len(data.x_test) == 6
    assert "1 files that are not PNG, JPEG or WebP are not read" in line


def one(folder: Path, *images: tuple[str, Any], size: int | None = None, **options: Any) -> Dataset:
    """Saves images next to a white one of the same mode, and loads them in the order of their names."""
    for name, pixels in images:
        save(folder / name, pixels, **options)
    x, _ = decode.decode_all(decode.files_in(folder, sorted(folder.iterdir())), size)
    return x


def palette() -> Image.Image:
    return Image.fromarray(RGB).quantize(256)


def with_alpha(alpha: int) -> np.ndarray:
    return np.dstack([RGB, np.full((6, 5), alpha, np.uint8)])


FORMATS: dict[str, tuple[str, Any, dict[str, Any], np.ndarray]] = {  # file, image, options, levels
    "grey PNG": ("x.png", GREY, {}, GREY),
    "RGB PNG": ("x.PNG", RGB, {}, RGB),
    "lossless WebP": ("x.webp", RGB, {"lossless": True}, RGB),
    "16-bit PNG": ("x.png", GREY.astype(np.uint16) * 257, {}, GREY),
    "16-bit PNG between levels": (
        "x.png",
        np.uint16(GREY * 257.0 * 0.9),
        {},
        np.rint(np.uint16(GREY * 257.0 * 0.9) / 257),
    ),
    "one bit": ("x.png", Image.fromarray(GREY > 99), {}, (GREY > 99) * 255),
    "palette": ("x.png", palette(), {}, np.asarray(palette().convert("RGB"))),
    "opaque": ("x.png", with_alpha(255), {}, RGB),
    "transparent": ("x.png", with_alpha(0), {}, np.full_like(RGB, 255)),
    "a fifth": ("x.png", with_alpha(51), {}, np.rint(RGB * 0.2 + 255 * 0.8)),
    "grey and transparent": (
        "x.png",
        Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (5, 6), 0)]),
        *({}, np.full_like(GREY, 255)),
    ),
    "a transparent colour": (
        "x.png",
        GREY,
        {"transparency": int(GREY[3, 3])},
        np.where(GREY[3, 3] == GREY, 255, GREY),
    ),
    "CMYK": ("x.jpg", Image.new("CMYK", (5, 6), (0, 255, 255, 0)), {}, np.full_like(RGB, (255, 0, 0))),
}


@pytest.mark.parametrize("case", FORMATS)
def test_every_format_is_read_right(case: str, tmp_path: Path) -> None:
    name, image, options, levels = FORMATS[case]
    x = one(tmp_path, (name, image), **options)
    expected = levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)
    assert x.shape == (1, *expected.shape)
    assert np.abs(x[0].numpy().astype(int) - expected).max() <= (1 if case in ("a fifth", "CMYK") else 0)


def test_one_colour_image_makes_all_colour(tmp_path: Path) -> None:
    x = one(tmp_path, ("a.png", GREY), ("b.png", RGB))
    assert np.array_equal(x[0].numpy(), np.stack([GREY] * 3)) and np.array_equal(x[1], RGB.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(orientation: int, tmp_path: Path) -> None:
    upright = {
        **{1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1]},
        **{5: GREY.T, 6: GREY[::-1].T, 7: GREY[::-1, ::-1].T, 8: GREY.T[::-1]},
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    x = one(tmp_path, ("x.png", GREY), exif=exif)
    assert np.array_equal(x[0, 0].numpy(), upright)


def test_images_are_resized_and_cropped_at_their_centre(tmp_path: Path) -> None:
    stripes = np.repeat(np.repeat(np.array([[0, 255, 51, 0]], np.uint8), 20, 0), 10, 1)  # 20 x 40
    wide = one(tmp_path, ("x.png", stripes), size=10)
    assert wide.shape == (1, 1, 10, 10)  # shows columns 10 to 30
    assert wide[0, 0, :, 2].unique().tolist() == [255] and wide[0, 0, :, 7].unique().tolist() == [51]
    tall = one(tmp_path, ("x.png", np.ascontiguousarray(stripes.T)), size=10)
    assert torch.equal(tall, wide.transpose(2, 3))
    assert torch.equal(one(tmp_path, ("x.png", GREY[:5]), size=5)[0, 0], torch.from_numpy(GREY[:5]))


def test_memory_is_checked_before_images_are_decoded(tmp_path: Path) -> None:
    numbered(tmp_path, 5)
    with pytest.raises(UserError, match="GiB of memory"):
        load(tmp_path, 10**6)


SETTINGS = ["--steps=4", "--batch-size=8", "--device=cpu", "--compile=eager"]


def test_a_run_on_a_folder_is_resumed_and_refuses_a_changed_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for start, name in enumerate(("cat", "ox")):
        numbered(tmp_path / "own" / name, 12, 12 * start)
    save(tmp_path / "own" / "ox" / "large.png", GREY.repeat(3, 0).repeat(3, 1))
    data = ["--data", str(tmp_path / "own"), "--image-size=4", "--labels=4", "--hidden=8", "--z-dim=2"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert svi.main(["--model=ssvae", *data, *SETTINGS, "--steps=8", f"--run-dir={whole}"]) == 0
    assert svi.main(["--model=ssvae", *data, *SETTINGS, f"--run-dir={run}"]) == 0
    config = json.loads((run / "config.json").read_text())
    assert (
        config["class_names"] == ["cat", "ox"] and config["image_size"] == 4 and config["shape"] == [1, 4, 4]
    )
    assert svi.main([f"--resume={run}", "--steps=8"]) == 0
    assert same(restore(run).model.state_dict(), restore(whole).model.state_dict())
    (tmp_path / "own" / "ox").rename(tmp_path / "own" / "oxen")
    with pytest.raises(UserError, match="own is not the data that the run used"):
        restore(run)
    (tmp_path / "own" / "oxen").rename(tmp_path / "own" / "ox")
    restore(run)
    numbered(tmp_path / "own" / "ox", 1, 12)
    save(tmp_path / "own" / "ox" / "012.png", 255 - GREY)
    with pytest.raises(UserError, match="own is not the data that the run used"):
        restore(run)


def test_image_size_is_an_option_of_folders_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--image-size applies to a folder of images"):
        svi.main(["--model=vae", "--data=digits", "--image-size=8", *SETTINGS])


def test_a_folder_with_the_name_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "svhn" / "0.png", GREY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision_sets, "is_available", lambda *_: False)
    with pytest.raises(UserError, match=r"svhn cannot be downloaded\. For the folder, give \./svhn\."):
        find_dataset("svhn", tmp_path / "nowhere")
