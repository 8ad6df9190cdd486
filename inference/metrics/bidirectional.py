"""-IWAE-m next to annealed importance sampling of log p(x), whose error is bounded on simulated data."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from inference.backend.device import rng_state_preserved
from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from inference.elbo.traces import latent_sites
from inference.errors import UserError
from inference.metrics.annealing import CHAINS, Annealing
from inference.metrics.diagnostics import numbers
from inference.metrics.estimate import Estimate
from inference.metrics.importance import MEMORY, bound_of_weights, bytes_per_sample, sample_pool
from inference.metrics.run_evaluation import Metrics
from ppl_models.base import LatentVariableModel

PARTICLES = 5_000  # of the importance-weighted bound
BLOCK = 50  # most images at once
BLOCK_MEMORY = 2**28  # approximate working memory of the chains, bytes
ERRORS = 2  # two estimates agree if they differ by at most this many Monte Carlo errors
# Their chains of an image start at one sample of its posterior. Only the spread over images has that noise.
DEPENDENT = {"ais_reverse", "ais_gap"}

TITLES = {
    "ais": "-log p(x) by AIS",
    "ais_reverse": "-log p(x) by reverse AIS",
    "ais_difference": "-IWAE minus AIS",
    "ais_gap": "AIS minus reverse AIS",
}


@dataclass
class AnnealedBounds:
    """What `annealed_bounds` finds. It prints as a table.

    Attributes:
        model: name of the model.
        noun: one observation: image, point or sequence.
        images: how many test observations, and how many simulated ones.
        temperatures: of annealed importance sampling.
        chains: per observation.
        test: metrics of the test observations by name, see `annealed_bounds`.
        simulated: metrics of observations that the model has generated.
    """

    model: str
    noun: str
    images: int
    temperatures: int
    chains: int
    test: Metrics
    simulated: Metrics

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `ais` in results.json."""
        found = asdict(self)
        return {name: found[name] for name in ("images", "temperatures", "chains", "test", "simulated")}

    def __str__(self) -> str:
        width = max(map(len, TITLES.values())) + 2
        how = f"nats per {self.noun}; {self.temperatures} temperatures, {self.chains} chains per {self.noun}"
        parts = {f"first {self.images} test {self.noun}s": self.test}
        parts |= {f"{self.images} simulated {self.noun}s": self.simulated}
        lines = []
        for what, metrics in parts.items():
            lines += [f"{self.model}, {what}, {how}", f"  {'':{width}} {'value':>10} {'s.e.':>8} m.c.s.e."]
            lines += [
                f"  {TITLES.get(name, f'-IWAE-{PARTICLES}'):{width}} {numbers(metric)}"
                for name, metric in metrics.items()
            ]
            verdict = "agree within" if agrees(metrics) else "differ by more than"
            lines.append(f"  -IWAE-{PARTICLES} and AIS {verdict} {ERRORS} Monte Carlo errors")
        return "\n".join(lines)


@rng_state_preserved()
def annealed_bounds(model: LatentVariableModel, test: HeldOut, temperatures: int) -> AnnealedBounds:
    """Compares the importance-weighted bound with annealed importance sampling (AIS) of log p(x).

    Both are at most log p(x) in the mean. So if -IWAE-5000 is above -log p(x) by AIS, the bound is loose. The
    model also generates as many images as there are test images. The latents that generated an image are an
    exact sample of its posterior. Reverse AIS starts there, and its estimate of log p(x) is at least log p(x)
    in the mean. The difference from AIS bounds the error of both on these images: bidirectional Monte Carlo.
    Grosse, Ghahramani and Adams 2015 (arXiv 1511.02543).

    Args:
        model: the model; it is not changed. The RNG state is preserved.
        test: the images.
        temperatures: of AIS; more of them make it more accurate.

    Returns:
        Metrics of the test images: `iwae_5000` and `ais`, negated, and `ais_difference`, the first less the
        second. Metrics of the simulated images: the same, `ais_reverse`, and `ais_gap`, `ais` less
        `ais_reverse`, whose only errors are those over images.

    Raises:
        UserError: the model has no p(x), or a latent without a density; or an estimate is not finite.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    name = model.registered_name or type(model).__name__
    parts: dict[str, dict[str, list[Estimate]]] = {"test": {}, "simulated": {}}
    bar = tqdm(total=2 * len(test), unit="image", desc=f"{temperatures} temperatures", disable=None)
    with pyro.validation_enabled(False), bar:
        _check(name, frozen, test)
        size = bytes_per_sample(frozen, test)
        images = max(min(BLOCK, BLOCK_MEMORY // (size * CHAINS)), 1)
        for number, (inputs, _, _) in enumerate(test.chunks(images)):
            torch.manual_seed(number)
            simulated, latents = _simulate(frozen, inputs)
            for part, of, posterior in (("test", inputs, None), ("simulated", simulated, latents)):
                for metric, estimate in _estimates(frozen, of, temperatures, size, posterior).items():
                    parts[part].setdefault(metric, []).append(estimate)
                bar.update(len(of["x"]))
    found = {part: _metrics(estimates) for part, estimates in parts.items()}
    noun = OBSERVATIONS[model.observation].data.noun
    return AnnealedBounds(name, noun, len(test), temperatures, CHAINS, found["test"], found["simulated"])


def agrees(metrics: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the bound and AIS agree within their Monte Carlo errors on the same images."""
    difference = metrics["ais_difference"]
    return abs(difference["value"]) <= ERRORS * difference["mc_se"]


def _check(name: str, model: LatentVariableModel, test: HeldOut) -> None:
    """Raises UserError unless all latents are continuous and have a density under guide and model."""
    inputs, _, _ = next(test.chunks(1))
    with torch.no_grad(), poutine.trace() as q:
        model.guide(**inputs)
    sites = latent_sites(q.trace)
    why = ""
    if not sites:
        why = "has none"
    for latent, site in sites.items():
        if isinstance(site["fn"], dist.Delta):
            why = f"has a guide that is a point for {latent}"
        elif site["fn"].support.is_discrete:
            why = f"has the discrete {latent}"
    if not why and "x" not in model.generate(1).nodes:
        why = "has no p(x) with these options"
    if why:
        raise UserError(
            f"annealed importance sampling needs continuous latents with a density, and {name} {why}. "
            "Use inference.evaluate."
        )


@torch.no_grad()
def _simulate(
    model: LatentVariableModel, inputs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Generates as many images as there are in the inputs.

    Returns:
        The inputs of the model, with the same labels if it takes labels, and the latents that generated the
        images, a sample of their posterior, (batch, *event) by name.
    """
    nodes = model.generate(len(inputs["x"]), y=inputs.get("y")).nodes
    values = {name: site["value"] for name, site in nodes.items() if site["type"] == "sample"}
    return inputs | {"x": values.pop("x").to(inputs["x"])}, values


def _estimates(
    model: LatentVariableModel,
    inputs: dict[str, Tensor],
    temperatures: int,
    size: int,
    posterior: dict[str, Tensor] | None,
) -> dict[str, Estimate]:
    """Returns negated estimates of log p(x) by name, and their differences.

    Args:
        model: the model, whose parameters need no gradient.
        inputs: its inputs.
        temperatures: of annealed importance sampling.
        size: memory of a sample of an image, bytes.
        posterior: a sample of the posterior of each image, for reverse AIS; None if there is none.
    """
    rows = max(MEMORY * 2**20 // size, 1)
    with torch.no_grad():
        pool = sample_pool(model, inputs, PARTICLES, rows).log_weights
    annealing = Annealing(model, inputs, temperatures)
    iwae = Estimate(*bound_of_weights(pool, PARTICLES))
    ais = Estimate(*bound_of_weights(annealing.forward().cpu(), CHAINS))
    found = {f"iwae_{PARTICLES}": iwae, "ais": ais}
    if posterior is not None:
        value, variance = bound_of_weights(-annealing.reverse(posterior).cpu(), CHAINS)  # of 1 / p(x)
        found["ais_reverse"] = Estimate(-value, variance)
        found["ais_gap"] = ais.minus(found["ais_reverse"])
    return found | {"ais_difference": iwae.minus(ais)}


def _metrics(parts: dict[str, list[Estimate]]) -> Metrics:
    """Returns the means over images with their errors. Raises UserError if an estimate is not finite."""
    joined = {name: Estimate(*map(torch.cat, zip(*of, strict=True))) for name, of in parts.items()}
    if not all(estimate.value.isfinite().all() for estimate in joined.values()):
        raise UserError("an estimate of log p(x) is not finite. Train the model again.")
    found = {name: estimate.metric() for name, estimate in joined.items()}
    for name in DEPENDENT & found.keys():
        del found[name]["mc_se"]
    return found
