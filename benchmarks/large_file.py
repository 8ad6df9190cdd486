"""Trains on a file that is larger than the memory, and measures the memory that the training takes.

python -m benchmarks.large_file --gigabytes 20 --steps 2000

The file is sparse: all images are zero, except blocks of them at known places, whose images have their own
brightness. What training reads is compared with the order that the seed alone gives. The memory is RssAnon of
/proc/PID/status, over this process and its children, several times per second. Linux only.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from inference import fit
from inference.backend.files import GIB
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.data import load_dataset
from inference.data.batches import Batches
from inference.data.split import train_and_test
from inference.rundir.kinds import COUNT
from ppl_models import MODELS

BLOCK, APART = 2**20, 2**30  # bytes of a block of images, and between the beginnings of two blocks
TEST_IMAGES = 1_000  # of the test set, to which the evaluation is limited
INTERVAL = 0.1  # seconds between two measurements of the memory
SIDE = 28


def main(arguments: list[str]) -> int:
    """Makes the file, trains, prints the measurements. Returns 1 if training read other images."""
    parser = Parser(prog="python -m benchmarks.large_file", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--gigabytes", type=COUNT.parse, default=20, metavar="N", help="size, at least 2 (default: 20)")
    add("--steps", type=COUNT.parse, default=2_000, metavar="N", help="training steps (default: 2000)")
    add("--model", choices=("vae", "conv_vae"), default="vae", help="the model (default: vae)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        return measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> int:
    """Trains on a new file in a folder."""
    path, rows = folder / "large.npy", given.gigabytes * GIB // SIDE**2
    marks = write_sparse(path, rows)
    allocated = path.stat().st_blocks * 512
    print(
        f"{rows} images of 1x{SIDE}x{SIDE} in {path.stat().st_size / GIB:.1f} GiB, of which the disk holds "
        f"{allocated / 2**20:.0f} MiB; {int((marks > 0).sum())} images are not zero"
    )
    with measured_memory() as peaks, recorded_batches() as read:
        started = time.perf_counter()
        data = load_dataset(str(path))
        data = replace(data, x_test=data.x_test[:TEST_IMAGES])
        torch.manual_seed(0)
        model = MODELS[given.model](MODELS[given.model].padded((1, SIDE, SIDE)))
        loaded = time.perf_counter()
        fit(model, data, steps=given.steps, run_dir=folder / "run", device="cpu", progress=False)
        ended = time.perf_counter()
    before, peak = peaks
    size = sum(p.nbytes for p in model.parameters())
    print(f"loading took {loaded - started:.0f} s, training and checksum {ended - loaded:.0f} s")
    print(
        f"peak RssAnon over all processes and {given.steps} steps of {given.model}: {peak / GIB:.2f} GiB, "
        f"before loading {before / GIB:.2f} GiB, parameters {size / GIB:.3f} GiB"
    )
    expected = expected_marks(marks, rows, len(data.x_train), len(read[0]), read.keys())
    right = sum(read[step] == expected[step] for step in read)
    seen = sum(mark > 0 for batch in expected.values() for mark in batch)
    print(f"{right} of {len(read)} batches hold the expected images in order; {seen} of these are not zero")
    return int(right < len(read))


def write_sparse(path: Path, rows: int) -> np.ndarray:
    """Writes a sparse .npy of images (rows, 28, 28), uint8. Returns the brightness of each, (rows,)."""
    marks = np.zeros(rows, np.uint8)
    x = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, SIDE, SIDE))
    per_block, apart = BLOCK // SIDE**2, APART // SIDE**2
    for start in range(0, rows, apart):
        block = slice(start, min(start + per_block, rows))
        numbers = np.arange(block.start, block.stop)
        marks[block] = 1 + (numbers * 7 + start // apart) % 255
        x[block] = marks[block, None, None]
    x.flush()
    return marks


@contextmanager
def recorded_batches() -> Iterator[dict[int, list[int]]]:
    """Records the brightness of the images of each step that training makes, in the order of the batch."""
    found: dict[int, list[int]] = {}
    original = Batches.tensors

    def tensors(self: Batches, step: int) -> list[Tensor]:
        result = original(self, step)
        middle = result[1].shape[-1] // 2
        found[step] = result[1][:, 0, middle, middle].tolist()
        return result

    Batches.tensors = tensors  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Batches.tensors = original  # type: ignore[method-assign]


def expected_marks(
    marks: np.ndarray, rows: int, train: int, size: int, steps: Iterable[int]
) -> dict[int, list[int]]:
    """Returns what the batches of some steps of the first epoch hold, from the seed 0 alone."""
    index, _ = train_and_test(rows, "the file")
    order = index[torch.randperm(train, generator=torch.Generator().manual_seed(0))].numpy()
    return {step: marks[order[step * size : (step + 1) * size]].tolist() for step in steps}


@contextmanager
def measured_memory() -> Iterator[list[int]]:
    """Measures RssAnon over this process and its children. The list gets the first value and the largest."""
    peaks, done = [anonymous_memory()] * 2, threading.Event()

    def measure_until_done() -> None:
        while not done.wait(INTERVAL):
            peaks[1] = max(peaks[1], anonymous_memory())

    thread = threading.Thread(target=measure_until_done)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def anonymous_memory() -> int:
    """Returns RssAnon of this process and of its children, in bytes."""
    this, total = psutil.Process(), 0
    for process in (this, *this.children(recursive=True)):
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return 1024 * total


if __name__ == "__main__":
    run_command(main)
