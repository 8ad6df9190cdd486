"""Times the importance-weighted bound of a test set against the time of its matrix products alone.

python -m benchmarks.bound             10,000 images, 5,000 samples per image
python -m benchmarks.bound --write     write the table into docs/cost.md, between its marks

The floating-point operations of the networks are counted. The rate of a matrix product of the decoder's shape
is measured before and after, in the same process, at the float32 precision that the suite sets and at torch's
default. The bound's cost does not depend on the parameters, so the model is an untrained `vae`.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import math
import time

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import COST
from benchmarks.timing import track_peak_memory
from inference.backend.device import fast_float32
from inference.backend.files import check_memory
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.elbo.importance_weighted import ImportanceWeighted
from inference.metrics.importance import importance_sample
from inference.rundir.kinds import COUNT
from ppl_models import VAE
from tools.table import write_between

MARKS = "<!-- bound: made by python -m benchmarks.bound --write -->", "<!-- end of bound -->"
SHAPE = (1, 28, 28)
SAMPLES = 5_000  # per image
MEMORY_IMAGES, MEMORY_SAMPLES = 100, (100, 1_000, 5_000)
ROWS = 3_000  # of the matrix product whose rate is measured: about as many as a chunk of samples has


@fast_float32(torch.device("cpu"))
def main(arguments: list[str]) -> int:
    """Computes the bound, prints the table and, with `--write`, writes it into docs/cost.md."""
    parser = Parser(prog="python -m benchmarks.bound", description=(__doc__ or "").splitlines()[0])
    about = "number of test images (default: 10000)"
    parser.add_argument("--images", type=COUNT.parse, default=10_000, metavar="N", help=about)
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    check_memory(given.images * math.prod(SHAPE) * 5, f"--images {given.images}")  # as bytes, and as float32
    lines = table(given.images)
    print("\n".join(lines))
    if given.write:
        write_between(COST, MARKS, "\n".join(lines))
    return 0


def table(images: int) -> list[str]:
    """Measures the bound of this many images and returns the table's lines."""
    torch.manual_seed(0)
    model = VAE(SHAPE).eval()
    x = torch.randint(256, (images, *SHAPE), dtype=torch.uint8)
    importance_sample(model, _held_out(x, x[:10]), [SAMPLES])  # warms up

    precisions = torch.get_float32_matmul_precision(), "highest"
    before = [product_rate(precision) for precision in precisions]
    start = time.perf_counter()
    importance_sample(model, _held_out(x, x), [SAMPLES])
    seconds = time.perf_counter() - start
    rates = [(rate + product_rate(precision)) / 2 for rate, precision in zip(before, precisions, strict=True)]
    operations = count_operations(model, next(_held_out(x, x).chunks(1))[0]["x"]) * images
    few = _held_out(x, x[:MEMORY_IMAGES])
    memory = ", ".join(f"{samples}: {memory_growth(model, few, samples):.0f}" for samples in MEMORY_SAMPLES)
    lines = ["| quantity | value |", "|---|---|"]
    lines.append(f"| -IWAE-{SAMPLES} and Pareto k-hat of {images} images | {seconds:.1f} s |")
    lines.append(f"| operations in matrix products | {operations / 1e12:.2f} TFLOP |")
    for precision, rate in zip(
        ("the suite's float32 precision", "torch's default precision"), rates, strict=True
    ):
        alone, threads = operations / rate, torch.get_num_threads()
        lines.append(
            f"| rate of a matrix product at {precision}, {threads} threads | {rate / 1e9:.0f} GFLOP/s |"
        )
        ratio = f"the bound takes {seconds / alone:.2f} times as long"
        lines.append(f"| time of the matrix products alone at this rate | {alone:.1f} s; {ratio} |")
    lines.append(f"| memory of {MEMORY_IMAGES} images, MiB, by samples per image | {memory} |")
    return lines


def _held_out(x: Tensor, test: Tensor) -> HeldOut:
    """Test images of a data set without labels."""
    return HeldOut(Dataset("random", x, None, test, None), VAE, torch.device("cpu"))


def memory_growth(model: VAE, test: HeldOut, samples: int) -> float:
    """Returns by how many MiB this process grows at its peak with this many samples per image."""
    peak = track_peak_memory()
    importance_sample(model, test, [samples])
    return peak()


@torch.no_grad()
def product_rate(precision: str, seconds: float = 2.0) -> float:
    """Measures a matrix product of the shape of the decoder's last layer, (rows, 300) x (300, 784).

    Args:
        precision: Value of `torch.set_float32_matmul_precision`.
        seconds: Duration of the measurement.

    Returns:
        Floating-point operations per second.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    a, b = torch.randn(ROWS, 300), torch.randn(784, 300)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        linear(a, b)
        count += 1
    torch.set_float32_matmul_precision(before)
    return count * 2 * ROWS * 300 * 784 / (time.perf_counter() - start)


@torch.no_grad()
def count_operations(model: VAE, x: Tensor) -> int:
    """Returns the floating-point operations of the matrix products in all samples of one image."""
    with FlopCounterMode(display=False) as counter:
        ImportanceWeighted(SAMPLES).sample(model.model, model.guide, x=x)
    return counter.get_total_flops()


if __name__ == "__main__":
    run_command(main)
