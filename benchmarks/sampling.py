"""Drawing place after place: what was worked out before is kept, or the whole network runs for every place.

python -m benchmarks.sampling              print the table
python -m benchmarks.sampling --write      put it into docs/cost.md, between its marks

In float64 both draw the same from the same uniform numbers; times are of float32, in turn, in one process.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import math
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import COST
from inference.cli.options import Parser, positive
from inference.errors import run_command
from inference.rundir.files import check_memory
from ppl_models import CodePixelCNN, CodeTransformer, PixelVAE
from ppl_models.code_prior import categorical
from ppl_models.distributions import AutoregressiveGrid
from ppl_models.nets.pixelcnn import Causal
from tools.table import write_between

MARKS = "<!-- sampling: made by python -m benchmarks.sampling --write -->", "<!-- end of sampling -->"
PRIORS = {"code_pixelcnn": CodePixelCNN, "code_transformer": CodeTransformer}
CODES, GRID, IMAGE = 128, (1, 8, 8), (1, 28, 28)
FEWER = 10  # images of 784 pixels at a time, for a hundred maps of 64 codes


def contenders() -> Iterator[tuple[str, AutoregressiveGrid, int]]:
    """A model's name, what it draws one place after another, and how many for a hundred maps of codes."""
    for name, prior in PRIORS.items():
        torch.manual_seed(0)
        yield name, AutoregressiveGrid(prior(GRID, codes=CODES).eval().network, categorical, GRID), 1
    torch.manual_seed(0)
    model = PixelVAE(IMAGE).eval()
    condition = model.decoder(torch.randn(1, model.z_dim)).detach()[0]
    yield "pixel_vae", AutoregressiveGrid(model.pixelcnn, model.family, IMAGE, condition), FEWER


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
    """Time both ways, print the table and, if asked, write it into docs/cost.md."""
    parser = Parser(prog="python -m benchmarks.sampling", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--images", type=positive(int), default=100, metavar="N", help="maps at a time (default: 100)")
    add("--rounds", type=positive(int), default=5, metavar="N", help="alternations (default: 5)")
    add("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    check_memory(given.images * math.prod(GRID) * CODES * 8, f"--images {given.images}")  # logits, in float64
    lines = [
        "| what draws | how many | of places | kept, ms | naively, ms | times as fast | the same in float64 |"
    ]
    lines.append("|---" * 7 + "|")
    for name, image, divided in contenders():
        images = max(given.images // divided, 1)
        kept, naive = times(image, images, given.rounds)
        same = torch.equal(*drawn(image, images))
        ratio = statistics.median(b / a for a, b in zip(kept, naive, strict=True))
        places = math.prod(image.event_shape)
        cells = [f"`{name}`", str(images), str(places), f"{1e3 * statistics.median(kept):.0f}"]
        cells += [f"{1e3 * statistics.median(naive):.0f}", f"{ratio:.1f}", "yes" if same else "NO"]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if given.write:
        write_between(COST, MARKS, "\n".join(lines))
    return 0


def ways(image: AutoregressiveGrid, images: int) -> list[AutoregressiveGrid]:
    """So many images, with what was worked out kept, and naively."""
    networks = (image.network, Naive(image.network))
    return [
        AutoregressiveGrid(network, image.family, image.event_shape, image.condition).expand([images])
        for network in networks
    ]


def drawn(image: AutoregressiveGrid, images: int) -> list[Tensor]:
    """What both ways draw from the same seed in float64: (images, *shape) each."""
    image.network.double()
    image.condition = None if image.condition is None else image.condition.double()
    found = []
    for way in ways(image, images):
        torch.manual_seed(1)
        found.append(way.sample())
    return found


def times(image: AutoregressiveGrid, images: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds that each way takes, in turn, after a round that does not count."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(rounds + 1):
        for way, seconds in zip(ways(image, images), found, strict=True):
            began = time.perf_counter()
            way.sample()
            seconds.append(time.perf_counter() - began)
    return found[0][1:], found[1][1:]


if __name__ == "__main__":
    run_command(main)
