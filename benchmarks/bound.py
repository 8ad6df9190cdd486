"""The importance-weighted bound of a test set, beside the time that its matrix products alone would take.

python -m benchmarks.bound                     10 000 images, 1 000 draws each
python -m benchmarks.bound --write             put it into docs/cost.md, between its marks

The operations of the networks are counted, the rate of a matrix product of the decoder's shape is measured
before and after in the same process, in the arithmetic that the suite chooses and in torch's usual one, and
what counts is the ratio. It does not depend on what was learnt: the
model is a `vae` as it begins.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import math
import time

import torch
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import COST
from benchmarks.step import peak_from_now
from inference.backend.device import fast_float32
from inference.cli.options import Parser, positive
from inference.data.batches import HeldOut
from inference.data.datasets import Dataset
from inference.elbo.estimators import ImportanceWeighted
from inference.errors import run_command
from inference.metrics.importance import importance_sample
from inference.rundir.files import check_memory
from ppl_models import VAE
from tools.table import write_between

MARKS = "<!-- bound: made by python -m benchmarks.bound --write -->", "<!-- end of bound -->"
SHAPE = (1, 28, 28)
DRAWS = 1_000
FEW, MEMORY_AT = 100, (100, 1_000, 5_000)
ROWS = 3_000  # of the product that is measured: what is drawn at a time


@fast_float32(torch.device("cpu"))
def main(arguments: list[str]) -> int:
    """Weigh the images, print the table and, if asked, write it into docs/cost.md."""
    parser = Parser(prog="python -m benchmarks.bound", description=(__doc__ or "").splitlines()[0])
    words = "test images (default: 10000)"
    parser.add_argument("--images", type=positive(int), default=10_000, metavar="N", help=words)
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    check_memory(given.images * math.prod(SHAPE) * 5, f"--images {given.images}")  # as bytes, and as float32
    torch.manual_seed(0)
    model = VAE(SHAPE).eval()
    x = torch.randint(256, (given.images, *SHAPE), dtype=torch.uint8)
    test = HeldOut(Dataset("random", x, None, x, None), VAE, torch.device("cpu"))
    importance_sample(
        model, HeldOut(Dataset("random", x, None, x[:10], None), VAE, torch.device("cpu")), [DRAWS]
    )

    chosen = torch.get_float32_matmul_precision()
    before = product_rate(chosen), product_rate("highest")
    began = time.perf_counter()
    importance_sample(model, test, [DRAWS])
    seconds = time.perf_counter() - began
    rate, usual = (
        (a + product_rate(precision)) / 2 for a, precision in zip(before, (chosen, "highest"), strict=True)
    )
    operations = count(model, next(test.chunks(1))[0]["x"]) * given.images
    few = HeldOut(Dataset("random", x, None, x[:FEW], None), VAE, torch.device("cpu"))
    memory = ", ".join(f"{grown(model, few, draws):.0f} at {draws}" for draws in MEMORY_AT)
    lines = ["| what | measured |", "|---|---|"]
    lines.append(f"| -IWAE-{DRAWS} and k-hat of {given.images} images | {seconds:.1f} s |")
    lines.append(f"| operations in matrix products | {operations / 1e12:.2f} TFLOP |")
    for words, speed in (("a matrix product as the suite asks for it", rate), ("one as torch comes", usual)):
        alone = operations / speed
        lines.append(f"| rate of {words}, {torch.get_num_threads()} threads | {speed / 1e9:.0f} GFLOP/s |")
        ratio = f"the whole takes {seconds / alone:.2f} times as long"
        lines.append(f"| at that rate the products alone would take | {alone:.1f} s: {ratio} |")
    lines.append(f"| memory, MiB, of {FEW} images at so many draws each | {memory} |")
    print("\n".join(lines))
    if given.write:
        write_between(COST, MARKS, "\n".join(lines))
    return 0


def grown(model: VAE, test: HeldOut, draws: int) -> float:
    """MiB by which this process grows at its peak while it weighs so many draws an image."""
    peak = peak_from_now()
    importance_sample(model, test, [draws])
    return peak()


@torch.no_grad()
def product_rate(precision: str, seconds: float = 2.0) -> float:
    """Operations a second in a product of the shape of the decoder's last, (rows, 300) x (300, 784)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    a, b = torch.randn(ROWS, 300), torch.randn(784, 300)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        linear(a, b)
        done += 1
    torch.set_float32_matmul_precision(before)
    return done * 2 * ROWS * 300 * 784 / (time.perf_counter() - began)


@torch.no_grad()
def count(model: VAE, x: torch.Tensor) -> int:
    """Operations of the matrix products in all draws of one image."""
    with FlopCounterMode(display=False) as counter:
        ImportanceWeighted(DRAWS).draw(model.model, model.guide, x=x)
    return counter.get_total_flops()


if __name__ == "__main__":
    run_command(main)
