"""Times a training step of `vae` on MNIST from several sources, batch 97, next to the step from memory.

python -m benchmarks.data_loading --data-dir DIR            print the table
python -m benchmarks.data_loading --data-dir DIR --write    write it into docs/cost.md

The sources take turns, in one process. Each is read once before training: the table has the seconds, and the
ratio of the time with this reading over a training of 20,000 steps.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import COST
from benchmarks.implementations import settings, suite
from benchmarks.timing import StepTimer, race
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.cli.parser import DATA_DIR, Parser
from inference.data import Dataset, load_dataset, stored
from inference.data.convert import as_dataset
from inference.training.setup import prepare_batches
from ppl_models import VAE
from tools.table import write_between

MARKS = "<!-- loading: made by python -m benchmarks.data_loading --write -->", "<!-- end of loading -->"
BATCH, ROUNDS, STEPS, TRAINING = 97, 15, 40, 20_000
PICTURES = 10_000  # files of training images in the folder
HEAD = "| source | read once, s | ms per step | ratio to memory | with reading, 20,000 steps |"
MEMORY = "tensor in memory"


@fast_float32(torch.device("cpu"))
def main(arguments: list[str]) -> int:
    """Times every source, prints the table and, with `--write`, writes it into docs/cost.md."""
    parser = Parser(prog="python -m benchmarks.data_loading", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder of MNIST")
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    mnist = load_dataset("mnist", given.data_dir)
    seconds, timers = dict[str, float](), dict[str, StepTimer]()
    with tempfile.TemporaryDirectory() as folder:
        for name, read in sources(mnist, Path(folder)).items():
            started = time.perf_counter()
            data = read()
            seconds[name] = time.perf_counter() - started
            timers[name] = timer(data)
        times = race(timers, ROUNDS, STEPS)
    found = table(seconds, times)
    print(found)
    if given.write:
        write_between(COST, MARKS, found)
    return 0


def sources(mnist: Dataset, folder: Path) -> dict[str, Callable[[], Dataset]]:
    """Returns functions that read MNIST's training images, by name of the source."""
    x = mnist.x_train[:]
    np.save(folder / "mnist.npy", x[:, 0])
    pictures = folder / "pictures"
    for part, images in (("train", x[:PICTURES]), ("test", x[:1_000])):
        (pictures / part).mkdir(parents=True)
        for number, image in enumerate(images[:, 0].numpy()):
            Image.fromarray(image).save(pictures / part / f"{number:05}.png", compress_level=1)

    def loader() -> Dataset:
        return as_dataset(DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True), model=VAE)

    def mapped() -> Dataset:
        with patch.object(stored, "LIMIT", 0):  # a file of this size would be read into memory
            return as_dataset(np.load(folder / "mnist.npy", mmap_mode="r"), model=VAE)

    return {
        MEMORY: lambda: as_dataset(x, model=VAE),
        "`DataLoader` of a tensor": loader,
        "`.npy` that stays on disk": mapped,
        f"folder of {PICTURES + 1_000:,} PNG files": lambda: load_dataset(str(pictures)),
    }


def timer(data: Dataset) -> StepTimer:
    """Returns the suite's training of a new model on a data set."""
    torch.manual_seed(0)
    model = VAE(data.shape)
    options = model.constructor_options
    batches, _ = prepare_batches(VAE, options, settings(model, BATCH), data, torch.device("cpu"))
    return suite(model, batches, "inductor")


def table(seconds: dict[str, float], times: dict[str, list[float]]) -> str:
    """Returns the table of docs/cost.md: medians, and quartiles in brackets, over the rounds."""
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for name, found in times.items():
        ratios = [own / other for own, other in zip(found, times[MEMORY], strict=True)]
        read = seconds[name] * 1e3 / TRAINING
        total = statistics.median(ratios) + read / statistics.median(times[MEMORY])
        cells = [name, f"{seconds[name]:.1f}", spread(found)]
        cells += ["", ""] if name == MEMORY else [spread(ratios), f"{total:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Returns the median and the quartiles of some values."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    run_command(main)
