"""Simulation-based calibration: whether the guide is the posterior, on data that the model generates."""

from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from inference.backend.device import rng_state_preserved
from inference.data.held_out import HeldOut
from inference.elbo.traces import latent_sites
from inference.errors import UserError
from inference.metrics.importance import bytes_per_sample
from ppl_models.base import LatentVariableModel

SAMPLES = 99  # of the guide per simulated image, so that there are a hundred ranks
BINS = 20  # of a histogram, with five ranks each
LEVEL = 0.01  # of the test
MEMORY = 2**28  # approximate working memory, bytes


class Calibration(NamedTuple):
    """The ranks of the true latents among samples of the guide.

    Attributes:
        metrics: `rank_spread`, `rank_p_value` and `ranks_rejected`, see `rank_metrics`.
        ranks: by name of the latent, 0 to `SAMPLES`, (simulations, d).
        p_values: by name of the latent, (d,).
    """

    metrics: dict[str, dict[str, float]]
    ranks: dict[str, Tensor]
    p_values: dict[str, Tensor]


@rng_state_preserved()
def rank_calibration(model: LatentVariableModel, test: HeldOut, simulations: int) -> Calibration:
    """Compares the guide with the posterior by simulation-based calibration.

    Latents z are sampled from the prior, x from p(x | z), and then 99 samples from q(z | x). If the guide is
    the posterior, each dimension of z has a uniform rank among them. Talts, Betancourt, Simpson, Vehtari and
    Gelman 2018, Validating Bayesian Inference Algorithms with Simulation-Based Calibration (arXiv
    1804.06788). The reverse does not hold: a guide that is the prior has uniform ranks too.

    Args:
        model: the model, in evaluation mode. The RNG state is preserved.
        test: data of the model, from which the memory of a sample is estimated.
        simulations: the number of simulated images.

    Raises:
        UserError: the model has no continuous latent, or no p(x) with its options.
    """
    torch.manual_seed(0)
    at_once = max(MEMORY // (bytes_per_sample(model, test) * SAMPLES), 1)
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad(), pyro.validation_enabled(False):
        for start in range(0, simulations, at_once):
            for name, rank in _ranks(model, min(at_once, simulations - start)).items():
                found.setdefault(name, []).append(rank.cpu())
    if not found:
        raise UserError(
            f"{type(model).__name__} has no continuous latent whose rank can be computed. "
            "Choose another model."
        )
    ranks = {name: torch.cat(parts) for name, parts in found.items()}
    p_values = {name: uniformity(rank) for name, rank in ranks.items()}
    return Calibration(rank_metrics(ranks, p_values), ranks, p_values)


def _ranks(model: LatentVariableModel, n: int) -> dict[str, Tensor]:
    """Returns the ranks of the latents of n simulated images by name, (n, d)."""
    like = next(model.parameters())
    more = {"y": torch.randint(model.classes, (n,), device=like.device)} if "y" in model.inputs else {}
    truth = model.generate(n, y=more.get("y")).nodes
    if "x" not in truth:
        raise UserError(f"{type(model).__name__} has no p(x) with these options. Choose another model.")
    inputs = {"x": truth["x"]["value"].to(torch.get_default_dtype()), **more}
    with poutine.trace() as q, pyro.plate("particles", SAMPLES, dim=-2):
        model.guide(**inputs)
    sites: dict[str, Any] = {
        name: site for name, site in latent_sites(q.trace).items() if not site["fn"].has_enumerate_support
    }
    return {
        name: (site["value"] < truth[name]["value"]).sum(0).flatten(1).to(torch.int16)
        for name, site in sites.items()
    }


def uniformity(ranks: Tensor) -> Tensor:
    """Returns the p-value of Pearson's chi-squared test of uniform ranks, one per dimension.

    Args:
        ranks: 0 to `SAMPLES`, (simulations, d). The test needs five simulations per bin, 100.

    Returns:
        p-values (d,), in float64.
    """
    observed = counts(ranks).double()
    expected = len(ranks) / BINS
    statistic = ((observed - expected) ** 2 / expected).sum(0)
    half = torch.full_like(statistic, (BINS - 1) / 2)  # of the degrees of freedom
    return torch.special.gammaincc(half, statistic / 2)


def counts(ranks: Tensor) -> Tensor:
    """Returns how many ranks (simulations, d) each bin of the histogram has, (bins, d)."""
    width = (SAMPLES + 1) // BINS
    return torch.stack([(ranks // width == i).sum(0) for i in range(BINS)])


def rank_metrics(ranks: dict[str, Tensor], p_values: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Returns metrics of the ranks over all dimensions.

    Args:
        ranks: by name of the latent, (simulations, d).
        p_values: of their uniformity by name of the latent, (d,).

    Returns:
        `rank_spread`, the mean squared distance of a rank from the middle, 1 if the ranks are uniform, above
        1 if the guide is too narrow or has the wrong mean, and below 1 if it is too wide; `rank_p_value`, the
        smallest p-value times the number of dimensions, at most 1 (Bonferroni's correction); and
        `ranks_rejected`, the number of dimensions that the corrected test rejects at the level of 0.01.
    """
    every = torch.cat(list(ranks.values()), dim=1).double()
    uniform = ((SAMPLES + 1) ** 2 - 1) / 12  # the variance of a rank that is uniform on 0 ... SAMPLES
    spread = ((every - SAMPLES / 2) ** 2).mean(1) / uniform
    p = torch.cat(list(p_values.values()))
    error = {"se": (spread.std() / len(spread) ** 0.5).item()} if len(spread) > 1 else {}
    return {
        "rank_spread": {"value": spread.mean().item(), **error},
        "rank_p_value": {"value": min((p.min() * len(p)).item(), 1.0)},
        "ranks_rejected": {"value": float((p * len(p) < LEVEL).sum())},
    }
