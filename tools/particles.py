"""Measures the importance-weighted bound and its gradients as the number of particles grows.

python -m tools.particles

The model is p(z) = N(0, 1), p(x | z) = N(x; z, 1) at x = 0, with the posterior N(0, 1/2). The guide is
normal; its mean and scale are given relative to the posterior. Derivations 6 and 7 prove the rates.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.elbo.importance_weighted import ImportanceWeighted

SHIFT = 0.5  # of the guide's mean in the table of gradients
CHUNK = 2**20  # samples of z at a time
BLOCKS = 16  # groups of estimates, whose spread gives the errors
# Whether the gradient is doubly reparameterised, its name, numbers of particles, and number of estimates.
RATES = (
    (False, "plain", (16, 64, 256), 2**18),
    (True, "doubly reparameterised", (256, 1_024, 4_096), 2**13),
)


class Pair:
    """The model at x = 0, and a guide N(shift / sqrt(2), scale^2 / 2) of as many copies as `shift` has.

    Args:
        shift: the guide's mean less the posterior's, in standard deviations of the posterior, `(n,)`.
        scale: the guide's standard deviation, in standard deviations of the posterior.
    """

    def __init__(self, shift: Tensor, scale: float = 1.0):
        self.shift, self.scale = shift, scale

    def model(self, x: Tensor) -> None:
        """Samples z and observes x."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        """Samples z."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.shift / math.sqrt(2), self.scale / math.sqrt(2)))


class Ratio(NamedTuple):
    """Signal-to-noise ratio of a gradient estimate at one number of particles.

    Attributes:
        mean: mean of the estimates.
        ratio: absolute mean over standard deviation.
        blocks: the ratio without each of the blocks in turn, for the jackknife, `(BLOCKS,)`.
    """

    mean: float
    ratio: float
    blocks: Tensor


def gap(shift: float, scale: float, particles: int, samples: int = 2**23) -> tuple[float, float]:
    """Returns log p(x) - L_K in nats, and its standard error.

    If the weights have a finite variance, r - 1 - log r is averaged, which has the mean of -log r and less
    noise.

    Args:
        shift: see `Pair`.
        scale: see `Pair`.
        particles: K.
        samples: samples of z in all.
    """
    values = []
    with torch.no_grad():
        for copies in _chunks(samples // particles, particles):
            pair, x = Pair(torch.full((copies,), shift), scale), torch.zeros(copies)
            log_w = ImportanceWeighted(particles).sample(pair.model, pair.guide, x).log_weights.double()
            log_r = log_w.logsumexp(0) - math.log(particles) + 0.5 * math.log(4 * math.pi)
            values.append(torch.expm1(log_r) - log_r if scale**2 > 0.5 else -log_r)
    found = torch.cat(values)
    return found.mean().item(), found.std().item() / math.sqrt(len(found))


def gradients(particles: int, doubly: bool, estimates: int, shift: float = SHIFT) -> Ratio:
    """Measures the gradient of the bound in the guide's shift, over independent estimates.

    Args:
        particles: K.
        doubly: whether the gradient is doubly reparameterised.
        estimates: number of estimates, a multiple of `BLOCKS`.
        shift: see `Pair`.
    """
    found = []
    for copies in _chunks(estimates, particles):
        shifts = torch.full((copies,), shift, requires_grad=True)
        pair, x = Pair(shifts), torch.zeros(copies)
        loss = ImportanceWeighted(particles, doubly).differentiable_loss(pair.model, pair.guide, x)
        found.append(-torch.autograd.grad(loss, shifts)[0].double())
    g = torch.cat(found)
    blocks = g.view(BLOCKS, -1)
    left = torch.stack([_ratio(torch.cat([blocks[:i], blocks[i + 1 :]]).flatten()) for i in range(BLOCKS)])
    return Ratio(g.mean().item(), _ratio(g).item(), left)


def slope(particles: Sequence[int], ratios: Sequence[Ratio]) -> tuple[float, float]:
    """Returns the slope of log ratio over log K by least squares, and its standard error."""
    x = torch.tensor(particles).double().log()
    x = (x - x.mean()) / (x - x.mean()).square().sum()
    whole = x @ torch.tensor([ratio.ratio for ratio in ratios]).double().log()
    return whole.item(), jackknife(x @ torch.stack([ratio.blocks for ratio in ratios]).log())


def jackknife(left: Tensor) -> float:
    """Returns the standard error of a statistic from its values without one block each, `(blocks,)`."""
    return ((len(left) - 1) * left.var(correction=0)).sqrt().item()


def constants(shift: float) -> tuple[float, float]:
    """Returns the limits of ratio * sqrt(K), plain, and of ratio / sqrt(K), doubly reparameterised."""
    b = math.exp(shift**2)
    noise = b**6 - 4 * b**4 + 4 * b**3 - b**2
    return shift * math.sqrt(b / (1 + shift**2)), b / math.sqrt(noise)


def _ratio(g: Tensor) -> Tensor:
    return g.mean().abs() / g.std()


def _chunks(total: int, particles: int) -> Iterator[int]:
    """Yields how many copies to sample at a time, `total` in all."""
    size = max(CHUNK // particles, 1)
    for start in range(0, total, size):
        yield min(size, total - start)


def main(arguments: list[str]) -> int:
    """Prints the gap of the bound, and the signal-to-noise ratios of both gradients."""
    parser = Parser(prog="python -m tools.particles", description=(__doc__ or "").splitlines()[0])
    parser.parse_args(arguments)
    torch.manual_seed(0)
    print("gap log p(x) - L_K in nats\n")
    print("| guide | K = 1 | 10 | 100 | 1000 | 10000 |\n|---|---|---|---|---|---|")
    for shift, scale, name in ((SHIFT, 1.0, "N(1/2, 1)"), (0.0, 3**-0.5, "N(0, 1/3)")):
        gaps = [gap(shift, scale, particles) for particles in (1, 10, 100, 1_000, 10_000)]
        print(f"| {name} | " + " | ".join(f"{value:.3g} ± {error:.1g}" for value, error in gaps) + " |")
    print("\nsignal-to-noise ratio of the gradient in the guide's mean\n")
    print("| gradient | K | ratio | ratio over its power of K | limit |\n|---|---|---|---|---|")
    slopes = []
    for doubly, name, numbers, estimates in RATES:
        ratios = [gradients(particles, doubly, estimates) for particles in numbers]
        for particles, (_, ratio, blocks) in zip(numbers, ratios, strict=True):
            power = math.sqrt(particles if doubly else 1 / particles)
            error, limit = jackknife(blocks), constants(SHIFT)[doubly]
            cells = (
                f"{ratio:.3g} ± {error:.1g}",
                f"{ratio / power:.3f} ± {error / power:.3f}",
                f"{limit:.3f}",
            )
            print(f"| {name} | {particles} | " + " | ".join(cells) + " |")
        slopes.append(f"{name}: {{:.3f}} ± {{:.3f}}".format(*slope(numbers, ratios)))
    print(f"\nslope of log ratio over log K: {', '.join(slopes)}")
    return 0


if __name__ == "__main__":
    run_command(main)
