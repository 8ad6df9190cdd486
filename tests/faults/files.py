"""Damaged and malicious checkpoints, configurations and data files."""

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

from inference.backend.files import COMMENT, pack, unpack
from inference.data.load import find_dataset
from inference.errors import UserError
from inference.rundir.run import Run
from tests.support import same

from .sandbox import VAE, Report, run

MNIST = Path("MNIST", "raw")
MEMORY = 2**27  # bytes that a command may take in addition when it is given a hostile file
BOMB = 3 * 2**26  # bytes of the zeros in such a file


def damaged(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Truncates the content of a file, or flips one or five bits.

    Returns:
        A description of the damage, and the damaged content.
    """
    if rng.random() < 0.4:
        size = rng.randrange(len(content))
        return f"cut to {size} of {len(content)} bytes", content[:size]
    changed = bytearray(content)
    bits = [rng.randrange(8 * len(content)) for _ in range(rng.choice([1, 1, 5]))]
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return f"with bits {bits} flipped", bytes(changed)


def damage_files(folder: Path, fraction: float, data_dir: Path) -> Report:
    """Damages checkpoints, configurations, .npz files and MNIST's files.

    Each must be refused with a message that names the file, or be read with its original content.
    """
    rng, log, run_dir = random.Random(0), folder / "log", folder / "run"
    assert run([*VAE, "--run-dir", run_dir], log, pictures=False).status == 0
    own = folder / "own.npz"
    x, y = random_images(40), np.arange(40) % 10
    np.savez_compressed(own, x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    refused = {"checkpoint.pt": 0, "config.json": 0, own.name: 0}
    read: dict[Path, Callable[[], Any]] = {
        run_dir / "checkpoint.pt": lambda: unpack(run_dir / "checkpoint.pt"),
        run_dir / "config.json": lambda: Run.open(run_dir).load_checkpoint(),
        own: lambda: vars(find_dataset(str(own), folder)[0]),
    }
    counts = {"checkpoint.pt": 150, "config.json": 50, own.name: 100}
    if (data_dir / MNIST).exists():
        shutil.copytree(data_dir / MNIST, folder / MNIST)
        for path in (folder / MNIST).iterdir():
            path.chmod(0o644)
            read[path] = lambda: vars(find_dataset("mnist", folder)[0])
            refused[path.name], counts[path.name] = 0, 5
    report = Report("")
    for path, load in read.items():
        content, original = path.read_bytes(), load()
        for _ in range(max(round(counts[path.name] * fraction), 1)):
            damage, changed = damaged(rng, content)
            path.write_bytes(changed)
            try:
                problem = "" if same(load(), original) else "it was read with other content"
            except UserError as error:
                refused[path.name] += 1
                named = str(path) in str(error) or path.name in str(error)
                problem = "" if named and "\n" not in str(error) else f"refused without its name: {error}"
            except Exception as error:
                problem = repr(error)
            report.check(not problem, f"{path.name} {damage}: {problem}")
        path.write_bytes(content)
    each = ", ".join(
        f"{number} of {max(round(counts[name] * fraction), 1)} {name}" for name, number in refused.items()
    )
    report.summary = (
        f"files truncated or with bits flipped, refused by name: {each}; the others were read unchanged"
    )
    return report


def random_images(n: int) -> np.ndarray:
    """Returns n images of 8 x 8 random bytes."""
    return np.random.RandomState(0).randint(0, 256, (n, 8, 8)).astype(np.uint8)


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def sealed(archive: bytes) -> bytes:
    """Returns the archive with the checksum that the suite expects. An attacker can compute it too."""
    body = archive[:-2] + COMMENT.to_bytes(2, "little")
    return body + hashlib.sha256(body).hexdigest().encode()


def give_hostile_files(folder: Path, fraction: float, data_dir: Path) -> Report:
    """Gives files that would run code or fill the memory when read; each must be refused by name."""
    report = Report("files that would run code or fill the memory: refused")
    log, run_dir = folder / "log", folder / "run"
    assert run([*VAE, "--run-dir", run_dir], log, pictures=False).status == 0
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
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as after,
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
        "compressed zeros": sealed(deflated(saved(state), BOMB)),
        "not a dictionary": pack([1, 2]),  # type: ignore[arg-type]
        "another dictionary": pack({"model": "vae"}),
        "a huge expanded tensor": pack(state | {"parameters": {"x": torch.zeros(1).expand(2**40)}}),
    }
    for name, content in checkpoints.items():
        path.write_bytes(content)
        check_refused(report, f"checkpoint, {name}", ["--resume", run_dir], str(run_dir), log, exploded)
    path.write_bytes(pack(state))
    own, x = folder / "own.npz", random_images(40)
    objects, header = np.array([Bomb(exploded)], dtype=object), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64)}
    )
    archives: dict[str, Callable[[zipfile.ZipFile], None]] = {
        "objects": lambda archive: archive.writestr("x_train.npy", _npy(objects)),
        "a pickle": lambda archive: archive.writestr("x_train.npy", pickle.dumps(Bomb(exploded))),
        "a shape without its data": lambda archive: archive.writestr("x_train.npy", header.getvalue()),
        "zeros": lambda archive: _zeros(archive, BOMB),
    }
    for name, write in archives.items():
        with zipfile.ZipFile(own, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            write(archive)
            archive.writestr("x_test.npy", _npy(x))
        check_refused(report, f"npz, {name}", ["--model", "vae", "--data", own], str(own), log, exploded)
    own.write_bytes(pickle.dumps(Bomb(exploded)))
    check_refused(report, "npz, a pickle instead", ["--model", "vae", "--data", own], str(own), log, exploded)
    return report


def check_refused(
    report: Report, label: str, arguments: list[object], named: str, log: Path, exploded: Path
) -> None:
    """Runs the command with little additional memory and checks that it names the file and runs no code."""

    def limit_memory() -> None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))

    result = run(arguments, log, before=limit_memory, pictures=False)
    refused = result.status == 2 and result.clean and named in result.text and result.text.count("\n") == 1
    report.check(refused and not exploded.exists(), f"{label}: status {result.status}: {result.text[-800:]}")


def _legacy(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _zeros(archive: zipfile.ZipFile, size: int) -> None:
    """Writes an array of zeros of this many bytes, which compresses to a thousandth of its size."""
    with archive.open("x_train.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (size // 64, 8, 8)}
        )
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
