"""Diagnostics of a trained model's posterior: gaps, active dimensions, aggregate posterior, calibration."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from inference.errors import UserError
from inference.metrics.aggregate import aggregate_posterior
from inference.metrics.bounds import chunk_terms
from inference.metrics.codes import ACTIVE, code_variances
from inference.metrics.gaps import Gaps, inference_gaps
from inference.metrics.importance import MIN_POOL
from inference.metrics.rank_calibration import BINS, Calibration, rank_calibration
from inference.metrics.run_evaluation import Metrics, why_no_importance_weights
from ppl_models.base import LatentVariableModel

MIN_SIMULATIONS = 5 * BINS  # five expected ranks per bin, which the chi-squared test needs
LEAST = {"images": 1, "particles": MIN_POOL, "aggregate_images": 2, "simulations": MIN_SIMULATIONS}
NOT_A_PRODUCT = "the prior or the guide is not a product of normals over the dimensions"

TITLES = {
    "negative_elbo": "-ELBO of the encoder",
    "negative_elbo_optimized": "-ELBO of the best guide",
    "negative_log_p": "-log p(x)",
    "inference_gap": "inference gap, log p(x) - ELBO",
    "amortization_gap": "  amortisation gap",
    "approximation_gap": "  approximation gap",
    "k_hat_above_0.7": "k-hat above 0.7, encoder",
    "k_hat_above_0.7_optimized": "k-hat above 0.7, best guide",
    "active_units": "active dimensions",
    "kl": "KL(q(z|x) || p(z))",
    "mutual_information": "  mutual information",
    "aggregate_kl": "  KL(q(z) || p(z))",
    "mutual_information_upper": "new images: information at most",
    "aggregate_kl_lower": "new images: KL(q(z)||p(z)) at least",
    "aggregate_kl_marginals": "sum of KL(q(z_j)||p(z_j)) at least",
    "rank_spread": "spread of the ranks, 1 if uniform",
    "rank_p_value": "p-value of uniform ranks",
    "ranks_rejected": "dimensions rejected",
}
UNITS = {
    "active_units": "dimensions",
    "k_hat_above_0.7": "fraction",
    "k_hat_above_0.7_optimized": "fraction",
    "rank_spread": "ratio",
    "rank_p_value": "probability",
    "ranks_rejected": "dimensions",
}  # of all other metrics: nats per image

Part = TypeVar("Part")


class Group(NamedTuple):
    """Metrics that one part of the diagnostics measures, and what they are measured on."""

    heading: str
    metrics: Metrics


@dataclass
class Diagnostics:
    """What `diagnose` finds. It prints as a table.

    Attributes:
        model: name of the model.
        noun: one observation: image, point or sequence.
        images: how many observations the gaps are measured on.
        aggregate_images: how many make up the aggregate posterior.
        simulations: how many simulated observations the ranks are of.
        metrics: by name: `value`, and `se` and `mc_se` if known, as in results.json.
        how: how log p(x) was computed.
        dimensions: by name of the latent and of the quantity, one number per dimension: `kl`,
            `variance_of_means` and `rank_p_value`.
        undefined: why a part is undefined for the model, by name of the part.
        gaps: the gaps of each observation, or None.
        calibration: the ranks, or None.
    """

    model: str
    noun: str
    images: int
    aggregate_images: int
    simulations: int
    metrics: Metrics = field(default_factory=dict)
    how: str = ""
    dimensions: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    gaps: Gaps | None = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `diagnostics` in results.json."""
        counted = ("images", "aggregate_images", "simulations", "how", "dimensions", "undefined")
        return {name: getattr(self, name) for name in counted} | {"test": self.metrics}

    def __str__(self) -> str:
        width = max(map(len, TITLES.values())) + 2
        lines = []
        for group in groups(self.to_json(), self.noun):
            lines += [f"{self.model}, {group.heading}", f"  {'':{width}} {'value':>10} {'s.e.':>8} m.c.s.e."]
            lines += [f"  {title(name):{width}} {numbers(metric)}" for name, metric in group.metrics.items()]
        lines += [f"{self.model}, {name}: undefined, {why}" for name, why in self.undefined.items()]
        return "\n".join(lines)


def title(name: str) -> str:
    """Returns the name of a metric as tables show it."""
    if not name.startswith("iwae_"):
        return TITLES.get(name, name)
    particles, _, guide = name.removeprefix("iwae_").partition("_")
    return f"-IWAE-{particles}, {'best guide' if guide else 'encoder'}"


def numbers(metric: Mapping[str, float]) -> str:
    """Returns the value of a metric and its errors as tables show them, blank if one is unknown."""
    value = metric["value"]
    small = f"{value:10.2g}" if 0 < abs(value) < 1e-3 else f"{value:10.4f}"
    se, mc_se = (f"{metric[key]:8.4f}" if key in metric else " " * 8 for key in ("se", "mc_se"))
    return f"{small} {se} {mc_se}".rstrip()


def groups(found: Mapping[str, Any], noun: str) -> list[Group]:
    """Returns the metrics of `Diagnostics.to_json` in groups of what they are measured on.

    Args:
        found: the content of `diagnostics` in results.json.
        noun: one observation.
    """
    of_guide = ("kl", "mutual", "aggregate", "active")
    parts: dict[str, Metrics] = {"gaps": {}, "aggregate": {}, "ranks": {}}
    for name, metric in found["test"].items():
        part = "ranks" if name.startswith("rank") else "aggregate" if name.startswith(of_guide) else "gaps"
        parts[part][name] = metric
    n = found["aggregate_images"]
    headings = {
        "gaps": f"first {found['images']} test {noun}s, nats per {noun}; log p(x) by {found['how']}",
        "aggregate": f"first {n} test {noun}s, nats per {noun}; log {n} = {math.log(n):.2f}",
        "ranks": f"{found['simulations']} simulated {noun}s",
    }
    return [Group(headings[part], metrics) for part, metrics in parts.items() if metrics]


def diagnose_model(
    model: LatentVariableModel,
    test: HeldOut,
    images: int,
    *,
    particles: int,
    aggregate_images: int,
    simulations: int,
    annealing: int,
) -> Diagnostics:
    """Diagnoses the posterior of a model; see `inference.diagnose`.

    Args:
        model: the model. Its mode and the RNG state are preserved.
        test: the test set.
        images: how many of it the gaps are measured on, the first ones.
        particles: samples per image of the bounds.
        aggregate_images: how many images make up the aggregate posterior, the first ones.
        simulations: the number of simulated images.
        annealing: temperatures of annealed importance sampling; 0 means none.

    Raises:
        UserError: the model has no posterior to diagnose, or there are too few images or samples.
    """
    given = {"images": images, "particles": particles, "aggregate_images": aggregate_images}
    for name, number in (given | {"simulations": simulations}).items():
        if number < LEAST[name]:
            raise UserError(f"{name} is {number}. Give {LEAST[name]} or more.")
    if len(test) < 2:
        raise UserError("the test set has a single image. Give two or more.")
    was_training = model.training
    model.eval()
    try:
        name = _check(model, test)
        few, many = first(model, test, images), first(model, test, aggregate_images)
        noun = OBSERVATIONS[model.observation].data.noun
        found = Diagnostics(name, noun, len(few), len(many), simulations)

        def attempt(part: str, compute: Callable[[], Part]) -> Part | None:
            try:
                return compute()
            except UserError as error:
                found.undefined[part] = str(error)
                return None

        found.gaps = attempt("gaps", lambda: inference_gaps(model, few, particles, annealing))
        _add_aggregate(found, model, many)
        found.calibration = attempt("ranks", lambda: rank_calibration(model, few, simulations))
    finally:
        model.train(was_training)
    if found.gaps:
        found.metrics, found.how = found.gaps.metrics | found.metrics, found.gaps.how
    if found.calibration:
        found.metrics |= found.calibration.metrics
        _add_dimensions(found, "rank_p_value", found.calibration.p_values)
    return found


def _check(model: LatentVariableModel, test: HeldOut) -> str:
    """Returns the name of a model. Raises UserError if it has no posterior to diagnose."""
    name = model.registered_name or type(model).__name__
    inputs, without_noise, _ = next(test.chunks(1))
    terms = chunk_terms(model, inputs, without_noise, 1).values
    why = why_no_importance_weights(model, test.data, {term: {} for term in terms})
    if why:
        raise UserError(f"{name} {why}, and so no posterior to diagnose. Choose another model.")
    return name


def first(model: LatentVariableModel, test: HeldOut, n: int) -> HeldOut:
    """Returns the first n images of a test set."""
    data = test.data
    y = None if data.y_test is None else data.y_test[:n]
    return HeldOut(replace(data, x_test=data.x_test[:n], y_test=y), type(model), test.device)


def _add_aggregate(found: Diagnostics, model: LatentVariableModel, test: HeldOut) -> None:
    """Adds the decomposition of the KL term, and what is known of each dimension."""
    aggregate, variances = aggregate_posterior(model, test), code_variances(model, test)
    if variances:
        active = sum(int((of > ACTIVE).sum()) for of in variances.values())
        found.metrics["active_units"] = {"value": float(active)}
    found.metrics |= aggregate.metrics
    _add_dimensions(found, "kl", aggregate.kl_of_dimensions)
    _add_dimensions(found, "variance_of_means", variances)
    missing = [name for name in variances if name not in aggregate.kl_of_dimensions]
    if missing:
        found.undefined[f"KL per dimension of {', '.join(missing)}"] = NOT_A_PRODUCT


def _add_dimensions(found: Diagnostics, quantity: str, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        found.dimensions.setdefault(name, {})[quantity] = value.double().tolist()
