"""Checkpoints and data that are damaged by chance, and such as would do harm."""

import hashlib
import io
import os
import pickle
import random
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.data import datasets
from inference.errors import UserError
from inference.rundir.files import COMMENT, pack, unpack
from inference.rundir.run import Run
from tests.support import same

from .sandbox import VAE, Found, run

MNIST = Path("MNIST", "raw")


def damaged(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """A file's content cut short, or with one bit or several changed, and how."""
    if draw.random() < 0.4:
        size = draw.randrange(len(content))
        return f"cut to {size} of {len(content)} bytes", content[:size]
    changed, places = (
        bytearray(content),
        [draw.randrange(8 * len(content)) for _ in range(draw.choice([1, 1, 5]))],
    )
    for place in places:
        changed[place // 8] ^= 1 << place % 8
    return f"with bits {places} flipped", bytes(changed)


def that_are_damaged(folder: Path, share: float, data_dir: Path) -> Found:
    """Checkpoints, configurations, .npz and MNIST's own files: refused by name, or read as what they were."""
    draw, log, run_dir = random.Random(0), folder / "log", folder / "run"
    assert run([*VAE, "--run-dir", run_dir], log, draw=False).status == 0
    own = folder / "own.npz"
    x, y = draw_images(40), np.arange(40) % 10
    np.savez_compressed(own, x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    refused = {"checkpoint.pt": 0, "config.json": 0, own.name: 0}
    read: dict[Path, Callable[[], Any]] = {
        run_dir / "checkpoint.pt": lambda: unpack(run_dir / "checkpoint.pt"),
        run_dir / "config.json": lambda: Run.open(run_dir).load_checkpoint(),
        own: lambda: vars(datasets.load(str(own), folder)[0]),
    }
    counts = {"checkpoint.pt": 150, "config.json": 50, own.name: 100}
    if (data_dir / MNIST).exists():
        shutil.copytree(data_dir / MNIST, folder / MNIST)
        for path in (folder / MNIST).iterdir():
            path.chmod(0o644)
            read[path] = lambda: vars(datasets.load("mnist", folder)[0])
            refused[path.name], counts[path.name] = 0, 5
    found = Found("")
    for path, load in read.items():
        content, right = path.read_bytes(), load()
        for _ in range(max(round(counts[path.name] * share), 1)):
            how, changed = damaged(draw, content)
            path.write_bytes(changed)
            try:
                complaint = "" if same(load(), right) else "it was read as something else"
            except UserError as error:
                refused[path.name] += 1
                named = str(path) in str(error) or path.name in str(error)
                complaint = "" if named and "\n" not in str(error) else f"refused without its name: {error}"
            except Exception as error:
                complaint = repr(error)
            found.expect(not complaint, f"{path.name} {how}: {complaint}")
        path.write_bytes(content)
    each = ", ".join(
        f"{number} of {max(round(counts[name] * share), 1)} {name}" for name, number in refused.items()
    )
    found.said = (
        f"files cut short or with bits flipped, refused by name: {each}; the others read as what they were"
    )
    return found


def draw_images(n: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (n, 8, 8)).astype(np.uint8)


class Bomb:
    """Anything that unpickles it makes a file of this name."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def sealed(archive: bytes) -> bytes:
    """An archive with the checksum that the suite asks for: an attacker knows how to make it."""
    body = archive[:-2] + COMMENT.to_bytes(2, "little")
    return body + hashlib.sha256(body).hexdigest().encode()


def that_are_hostile(folder: Path, share: float, data_dir: Path) -> Found:
    """Files that would run code when they are loaded, or fill the memory: refused by name, and neither."""
    found, log, run_dir = (
        Found("files that would run code or fill the memory, refused"),
        folder / "log",
        folder / "run",
    )
    assert run([*VAE, "--run-dir", run_dir], log, draw=False).status == 0
    exploded, path = folder / "exploded", run_dir / "checkpoint.pt"
    state = unpack(path)

    def saved(content: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def deflated(archive: bytes, larger: int) -> bytes:
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(archive)) as before,
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as after,
        ):
            for name in before.namelist():
                content = before.read(name)
                after.writestr(name, bytes(larger) if name.endswith("/data/0") else content)
        return buffer.getvalue()

    checkpoints = {
        "a pickle": pickle.dumps(Bomb(exploded)),
        "an old torch file": _legacy(Bomb(exploded)),
        "a torch archive with code": saved(state | {"seconds": Bomb(exploded)}),
        "the same with its checksum": sealed(saved(state | {"seconds": Bomb(exploded)})),
        "compressed zeros": sealed(deflated(saved(state), 2**31)),
        "no dictionary": pack([1, 2]),  # type: ignore[arg-type]
        "another dictionary": pack({"model": "vae"}),
        "a folder of shapes": pack(state | {"parameters": {"x": torch.zeros(1).expand(2**40)}}),
    }
    for name, content in checkpoints.items():
        path.write_bytes(content)
        refuse(found, f"checkpoint, {name}", ["--resume", run_dir], str(run_dir), log, exploded)
    path.write_bytes(pack(state))
    own, x = folder / "own.npz", draw_images(40)
    objects, header = np.array([Bomb(exploded)], dtype=object), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64)}
    )
    archives: dict[str, Callable[[zipfile.ZipFile], None]] = {
        "objects": lambda archive: archive.writestr("x_train.npy", _npy(objects)),
        "a pickle": lambda archive: archive.writestr("x_train.npy", pickle.dumps(Bomb(exploded))),
        "a shape that is not there": lambda archive: archive.writestr("x_train.npy", header.getvalue()),
        "zeros without end": lambda archive: _zeros(archive, 3 * 2**30),
    }
    for name, write in archives.items():
        with zipfile.ZipFile(own, "w", zipfile.ZIP_DEFLATED) as archive:
            write(archive)
            archive.writestr("x_test.npy", _npy(x))
        refuse(found, f"npz, {name}", ["--model", "vae", "--data", own], str(own), log, exploded)
    own.write_bytes(pickle.dumps(Bomb(exploded)))
    refuse(found, "npz, a pickle instead", ["--model", "vae", "--data", own], str(own), log, exploded)
    return found


def refuse(found: Found, what: str, arguments: list[object], named: str, log: Path, exploded: Path) -> None:
    """Have a run try it, with two gigabytes more than it has now and no more."""

    def little_memory() -> None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 2**30, resource.RLIM_INFINITY))

    ended = run(arguments, log, before=little_memory, draw=False)
    refused = ended.status == 2 and ended.clean and named in ended.text and ended.text.count("\n") == 1
    found.expect(refused and not exploded.exists(), f"{what}: status {ended.status}: {ended.text[-800:]}")


def _legacy(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _zeros(archive: zipfile.ZipFile, size: int) -> None:
    """An array of so many bytes, all zero, which take a thousandth of that on disk."""
    with archive.open("x_train.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (size // 64, 8, 8)}
        )
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
