"""Drawing code after code: what was worked out before is kept, or the whole network runs for every code.

python -m benchmarks.sampling              print the table
python -m benchmarks.sampling --write      put it into README.md, between its marks

In float64 both draw the same codes from the same uniform numbers; the times are of float32, in turn, in one
process.
"""

import math
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from inference.disk import check_memory
from inference.errors import run_command
from inference.options import Parser, positive
from inference.table import write_readme
from ppl_models import CodePixelCNN, CodeTransformer
from ppl_models.code_prior import categorical
from ppl_models.distributions import PlaceByPlace
from ppl_models.nets.pixelcnn import Causal

MARKS = "<!-- sampling: made by python -m benchmarks.sampling --write -->", "<!-- end of sampling -->"
PRIORS = {"code_pixelcnn": CodePixelCNN, "code_transformer": CodeTransformer}
CODES, GRID = 128, (1, 8, 8)


class Naive(Causal):
    """The whole network again for every place."""

    def __init__(self, network: Causal):
        super().__init__()
        self.network = network

    def along(self, x: Tensor, condition: Tensor | None = None) -> Iterator[tuple[tuple[int, int], Tensor]]:
        for row in range(x.shape[-2]):
            for column in range(x.shape[-1]):
                yield (row, column), self.network(x, condition)[..., row, column]


def main(arguments: list[str]) -> int:
    """Time both ways, print the table and, if asked, write it into the README."""
    parser = Parser(prog="python -m benchmarks.sampling", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--images", type=positive(int), default=100, metavar="N", help="maps at a time (default: 100)")
    add("--rounds", type=positive(int), default=5, metavar="N", help="alternations (default: 5)")
    add("--write", action="store_true", help="write the table into README.md")
    given = parser.parse_args(arguments)
    check_memory(
        given.images * math.prod(GRID) * CODES * 8, f"--images {given.images}"
    )  # the logits, in float64
    lines = ["| prior | maps of 64 codes | kept, ms | naively, ms | times as fast | the same in float64 |"]
    lines.append("|---" * 6 + "|")
    for name in PRIORS:
        torch.manual_seed(0)
        model = PRIORS[name](GRID, codes=CODES).eval()
        kept, naive = times(model.network, given.images, given.rounds)
        same = torch.equal(*drawn(model.double().network, given.images))
        ratio = statistics.median(b / a for a, b in zip(kept, naive, strict=True))
        cells = [f"`{name}`", str(given.images), f"{1e3 * statistics.median(kept):.0f}"]
        cells += [f"{1e3 * statistics.median(naive):.0f}", f"{ratio:.1f}", "yes" if same else "NO"]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if given.write:
        write_readme(MARKS, "\n".join(lines))
    return 0


def drawn(network: Causal, images: int) -> list[Tensor]:
    """Codes drawn from the same seed, with what was worked out kept and naively: (images, 1, 8, 8) each."""
    found = []
    for way in (network, Naive(network)):
        torch.manual_seed(1)
        found.append(PlaceByPlace(way, categorical, GRID).expand([images]).sample())
    return found


def times(network: Causal, images: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds that each way takes, in turn, after a round that does not count."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(rounds + 1):
        for way, seconds in zip((network, Naive(network)), found, strict=True):
            began = time.perf_counter()
            PlaceByPlace(way, categorical, GRID).expand([images]).sample()
            seconds.append(time.perf_counter() - began)
    return found[0][1:], found[1][1:]


if __name__ == "__main__":
    run_command(main)
