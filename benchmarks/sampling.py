"""Times autoregressive sampling with cached activations against running the whole network at every position.

python -m benchmarks.sampling              print the table
python -m benchmarks.sampling --write      write it into docs/cost.md, between its marks

Both are timed in float32, alternately, in one process. The last column says whether both return the same
samples in float64 from the same seed.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import math
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import COST
from inference.backend.files import check_memory
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.rundir.kinds import COUNT
from ppl_models import CodePixelCNN, CodeTransformer, PixelVAE
from ppl_models.code_prior import categorical
from ppl_models.distributions import AutoregressiveGrid
from ppl_models.nets.pixelcnn import CausalNetwork
from tools.table import write_between

MARKS = "<!-- sampling: made by python -m benchmarks.sampling --write -->", "<!-- end of sampling -->"
PRIORS = {"code_pixelcnn": CodePixelCNN, "code_transformer": CodeTransformer}
CODES, GRID, IMAGE = 128, (1, 8, 8), (1, 28, 28)
FEWER = 10  # of the images of 784 pixels: one for this many maps of 64 codes


def contenders() -> Iterator[tuple[str, AutoregressiveGrid, int]]:
    """Yields the name of a model, its autoregressive distribution, and a divisor of the number of samples."""
    for name, prior in PRIORS.items():
        torch.manual_seed(0)
        yield name, AutoregressiveGrid(prior(GRID, codes=CODES).eval().network, categorical, GRID), 1
    torch.manual_seed(0)
    model = PixelVAE(IMAGE).eval()
    condition = model.decoder(torch.randn(1, model.z_dim)).detach()[0]
    yield "pixel_vae", AutoregressiveGrid(model.pixelcnn, model.family, IMAGE, condition), FEWER


class Naive(CausalNetwork):
    """A causal network without a cache: it runs on the whole input at every position."""

    def __init__(self, network: CausalNetwork):
        super().__init__()
        self.network = network

    def sequential(
        self, x: Tensor, condition: Tensor | None = None
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        for row in range(x.shape[-2]):
            for column in range(x.shape[-1]):
                yield (row, column), self.network(x, condition)[..., row, column]


def main(arguments: list[str]) -> int:
    """Times both variants, prints the table and, with `--write`, writes it into docs/cost.md."""
    parser = Parser(prog="python -m benchmarks.sampling", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add(
        "--images",
        type=COUNT.parse,
        default=100,
        metavar="N",
        help="number of maps of codes (default: 100)",
    )
    add("--rounds", type=COUNT.parse, default=5, metavar="N", help="number of rounds (default: 5)")
    add("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    check_memory(given.images * math.prod(GRID) * CODES * 8, f"--images {given.images}")  # logits, in float64
    lines = ["| model | samples | positions | cached, ms | uncached, ms | speed-up | identical in float64 |"]
    lines.append("|---" * 7 + "|")
    for name, distribution, divisor in contenders():
        samples = max(given.images // divisor, 1)
        cached, uncached = times(distribution, samples, given.rounds)
        identical = torch.equal(*float64_samples(distribution, samples))
        ratio = statistics.median(b / a for a, b in zip(cached, uncached, strict=True))
        positions = math.prod(distribution.event_shape)
        cells = [f"`{name}`", str(samples), str(positions), f"{1e3 * statistics.median(cached):.0f}"]
        cells += [f"{1e3 * statistics.median(uncached):.0f}", f"{ratio:.1f}", "yes" if identical else "NO"]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if given.write:
        write_between(COST, MARKS, "\n".join(lines))
    return 0


def variants(distribution: AutoregressiveGrid, samples: int) -> list[AutoregressiveGrid]:
    """Returns the distribution with and without the cache, expanded to a number of samples."""
    networks = (distribution.network, Naive(distribution.network))
    own = distribution.family, distribution.event_shape, distribution.condition
    return [AutoregressiveGrid(network, *own).expand([samples]) for network in networks]


def float64_samples(distribution: AutoregressiveGrid, samples: int) -> list[Tensor]:
    """Samples from both variants in float64 with the same seed; each result is (samples, *shape)."""
    distribution.network.double()
    distribution.condition = None if distribution.condition is None else distribution.condition.double()
    found = []
    for variant in variants(distribution, samples):
        torch.manual_seed(1)
        found.append(variant.sample())
    return found


def times(distribution: AutoregressiveGrid, samples: int, rounds: int) -> tuple[list[float], list[float]]:
    """Times both variants alternately; one more round runs first and is not recorded.

    Returns:
        Seconds per round with the cache, and without it.
    """
    found: tuple[list[float], list[float]] = [], []
    for _ in range(rounds + 1):
        for variant, seconds in zip(variants(distribution, samples), found, strict=True):
            start = time.perf_counter()
            variant.sample()
            seconds.append(time.perf_counter() - start)
    return found[0][1:], found[1][1:]


if __name__ == "__main__":
    run_command(main)
