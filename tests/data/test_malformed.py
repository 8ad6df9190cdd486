"""Malformed folders and files: each is refused in a line that names the file, what is wrong and a remedy."""

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.data.load import find_dataset
from inference.errors import UserError
from ppl_models import FSVAE, VAE
from tests.data.test_image_folder import GREY, RGB, numbered, save


def damaged(name: str, content: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Returns a function that saves ten images and an eleventh whose bytes it changes."""

    def make(folder: Path) -> None:
        numbered(folder, 10)
        path = save(folder / name, RGB.repeat(9, 0).repeat(9, 1)[:6, :5])
        path.write_bytes(content(path.read_bytes()))

    return make


def classes(*names: str, then: Callable[[Path], object] = lambda folder: None) -> Callable[[Path], object]:
    """Returns a function that saves ten images in each of some subfolders, and then calls another."""

    def make(folder: Path) -> None:
        for i, name in enumerate(names):
            numbered(folder / name, 10, 10 * i)
        then(folder)

    return make


def plus(then: Callable[[Path], object]) -> Callable[[Path], object]:
    """Returns a function that saves ten images, and then calls another."""
    return classes(".", then=then)


def animation(folder: Path) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(folder / "a.webp", save_all=True, append_images=frames[1:], lossless=True)


def bomb(folder: Path) -> None:
    """A PNG of a few hundred bytes whose header claims 60,000 x 60,000 pixels."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in parts:
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (folder / "x.png").write_bytes(content)


def gif(folder: Path) -> None:
    Image.fromarray(GREY).save(folder / "x.gif")
    (folder / "x.gif").rename(folder / "x.png")


def dark(scale: int, kind: type) -> Callable[[Path], object]:
    return lambda folder: [save(folder / f"{i}.png", (GREY // scale).astype(kind)) for i in range(3)]


FOLDERS: dict[str, tuple[Callable[[Path], object], Any, str, str]] = {  # how, model, what is wrong, remedy
    "empty": (
        lambda folder: None,
        VAE,
        "own has no images",
        "Name a folder of .png, .jpg, .jpeg, .webp files",
    ),
    "only text": (lambda f: (f / "x.txt").write_text("x"), VAE, "own has no images", "Name a folder of"),
    "an empty class": (
        classes("a", then=lambda f: (f / "b").mkdir()),
        VAE,
        "own/b has no images",
        "Delete it",
    ),
    "one image": (lambda f: numbered(f, 1), VAE, "own has 1 data point", "Give at least two"),
    "two sizes": (
        plus(lambda f: save(f / "z.png", GREY[:4])),
        *(VAE, "000.png has 5x6 and ", "/z.png has 5x4 pixels. Give --image-size N"),
    ),
    "turned by EXIF": (
        plus(
            lambda f: save(
                f / "z.png",
                GREY,
                exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
            )
        ),
        *(VAE, "000.png has 5x6 and ", "/z.png has 6x5 pixels. Give --image-size N"),
    ),
    "no bytes": (damaged("z.png", lambda b: b""), VAE, "z.png cannot be read as PNG", "Replace or remove it"),
    "text as PNG": (damaged("z.png", lambda b: b"hello"), VAE, "z.png cannot be read as PNG", "Replace or"),
    "half a PNG": (damaged("z.png", lambda b: b[: len(b) // 2]), VAE, "z.png cannot be read", "Replace or"),
    "half a JPEG": (damaged("z.jpg", lambda b: b[: len(b) - 20]), VAE, "z.jpg cannot be read", "Replace or"),
    "half a WebP": (
        damaged("z.webp", lambda b: b[: len(b) // 2]),
        VAE,
        "z.webp cannot be read",
        "Replace or",
    ),
    "a wrong CRC": (
        damaged("z.png", lambda b: b[:45] + bytes([b[45] ^ 255]) + b[46:]),
        *(VAE, "z.png cannot be read", "Replace or"),
    ),
    "a GIF as PNG": (plus(gif), VAE, "x.png cannot be read as PNG, JPEG or WebP", "Replace or remove it"),
    "a bomb": (plus(bomb), VAE, "x.png has more than", "pixels. Make it smaller"),
    "an animation": (
        plus(animation),
        VAE,
        "a.webp is an animation of 2 frames",
        "Save each frame as an image",
    ),
    "images next to classes": (
        classes("a", "b", then=lambda f: save(f / "x.png", GREY)),
        *(VAE, "own has images, such as x.png, next to folders, such as a/", "Move them into a folder"),
    ),
    "no test": (classes("train/a", "train/b"), VAE, "own has train/ but no test/", "Add it, or give "),
    "no train": (classes("test/a", "val/a"), VAE, "own has test/ but no train/", "Add it, or give "),
    "a class next to train and test": (
        classes("train/a", "test/a", "car"),
        *(VAE, "own has car/ next to train/ and test/", "Move it into them, or rename"),
    ),
    "classes in one part": (
        classes("train/a", "test"),
        *(VAE, "only one of train/ and test/ has subfolders", "Give both the same classes"),
    ),
    "a class only in test": (
        classes("train/a", "test/a", "test/b"),
        *(FSVAE, "own: class 'b' of test has no training image", "Add images of it to train, or leave it"),
    ),
    "no classes": (
        lambda f: numbered(f, 10),
        FSVAE,
        "own has no labels, and this model needs",
        "Move the images",
    ),
    "a link to a file": (
        plus(lambda f: (f / "z.png").symlink_to(f / "000.png")),
        *(VAE, "z.png is a link", "Replace it with the file or folder that it names"),
    ),
    "a link to a folder": (
        classes("a", then=lambda f: (f / "b").symlink_to(f / "a")),
        *(VAE, "own/b is a link", "Replace it with the file"),
    ),
    "a link in a circle": (
        classes("a", then=lambda f: (f / "a" / "b").symlink_to(f)),
        VAE,
        "a/b is a link",
        "Replace",
    ),
    "a FIFO": (
        plus(lambda f: os.mkfifo(f / "z.png")),
        VAE,
        "z.png is not a regular file",
        "Replace it with one",
    ),
    "a name with a line break": (classes("a\nb"), VAE, "own has the name 'a\\nb'", "Rename it"),
    "a name that is not UTF-8": (
        classes("a", then=lambda f: os.mkdir(os.fsencode(f) + b"/\xff")),
        *(VAE, "own has the name '\\udcff', which is not printable", "Rename it"),
    ),
    "masks of 0 and 1": (
        dark(255, np.uint8),
        VAE,
        "brightest pixel of all 8-bit images is 1 on",
        "Multiply the pixels",
    ),
    "twelve bits in sixteen": (
        lambda f: [save(f / f"{i}.png", GREY.astype(np.uint16) * 16) for i in range(3)],
        *(VAE, "brightest pixel of all 16-bit images is 16 on", "white may not be 65535. Multiply"),
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_malformed_folder_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, model, wrong, remedy = FOLDERS[case]
    impossible = {"darwin": ["a name that is not UTF-8"]}
    impossible["win32"] = [*impossible["darwin"], "a name with a line break", "a FIFO"]
    if case in impossible.get(sys.platform, []):
        pytest.skip("this system does not allow it")
    folder = tmp_path / "own"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError) as caught:
        find_dataset(str(folder), tmp_path, model)
    line = str(caught.value)
    assert wrong in line and remedy in line and str(folder) in line and "\n" not in line and len(line) < 500


def header(shape: tuple[int, ...]) -> Callable[[bytes], bytes]:
    """Returns a function that changes the shape in the header of an .npy file of shape (6, 4, 4)."""
    new = str(shape).encode()
    return lambda content: content.replace(b"(6, 4, 4), }" + b" " * (len(new) - 9), new + b", }")


FILES: dict[str, tuple[str, Callable[[bytes], bytes], str, str]] = {  # name, change, what is wrong, remedy
    "an empty .npy": ("x.npy", lambda b: b"", "x.npy cannot be read as an .npz", "Write the file again"),
    "half an .npy": (
        "x.npy",
        lambda b: b[:-1],
        "the array has another size than its header says",
        "Write the",
    ),
    "a longer .npy": (
        "x.npy",
        lambda b: b + b"x",
        "the array has another size than its header says",
        "Write the",
    ),
    "a header of another shape": (
        "x.npy",
        header((9, 4, 4)),
        "another size than its header says",
        "Write the",
    ),
    "a huge header": (
        "x.npy",
        header((99999999, 99999, 9999)),
        "another size than its header says",
        "Write the",
    ),
    "a broken header": (
        "x.npy",
        lambda b: b.replace(b"descr", b"des\0r"),
        "cannot be read as an .npy",
        "Write the",
    ),
    "half an .npz": (
        "x.npz",
        lambda b: b[: len(b) // 2],
        "x.npz cannot be read as an .npz",
        "Write the file",
    ),
    "text as .npz": ("x.npz", lambda b: b"hello", "x.npz cannot be read as an .npz", "Write the file again"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_malformed_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, change, wrong, remedy = FILES[case]
    path, x = tmp_path / name, np.zeros((6, 4, 4), np.uint8)
    if path.suffix == ".npy":
        np.save(path, x)
    else:
        np.savez(path, x_train=x, x_test=x)
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with pytest.raises(UserError) as caught:
        find_dataset(str(path), tmp_path, VAE)
    line = str(caught.value)
    assert wrong in line and remedy in line and str(path) in line and "\n" not in line and len(line) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_file_and_no_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    os.mkfifo(tmp_path / "pipe")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.png", b"")
    for name, complaint in (
        ("x.npy", "is not a regular file. Name an .npz or .npy file"),
        ("pipe", "is neither an .npz or .npy file, a table, a text nor a folder of images"),
        ("images.zip", "is neither an .npz or .npy file, a table, a text nor a folder of images"),
        ("missing.npy", "Give the path of an .npz or .npy file"),
        ("missing", "there is no file or folder"),
    ):
        with pytest.raises(UserError) as caught:
            find_dataset(str(tmp_path / name), tmp_path, VAE)
        assert name in str(caught.value) and complaint in str(caught.value)
