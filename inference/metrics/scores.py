"""A bound on -log p(x) of each data point, for the detection of outliers."""

import sys
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from inference.backend.device import rng_state_preserved
from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from inference.errors import UserError
from inference.metrics.bounds import CHUNK, chunk_terms
from inference.metrics.importance import MIN_POOL, bound_of_weights, importance_samples
from inference.metrics.run_evaluation import why_no_importance_weights
from ppl_models.base import LatentVariableModel


class Scores(NamedTuple):
    """A negated bound on log p(x) of each data point: larger values are less likely data.

    Attributes:
        metric: "iwae_m", "negative_elbo" or "negative_log_p", which is exact.
        values: in nats, (n,), float64.
        mc_se: the Monte Carlo standard error of each value, (n,).
        y: labels (n,), or None.
    """

    metric: str
    values: Tensor
    mc_se: Tensor
    y: Tensor | None

    def summary(self) -> dict[str, float]:
        """Returns `value`, the mean, `se`, its standard error over the data points, and `mc_se`."""
        n = len(self.values)
        found = {"value": self.values.mean().item(), "mc_se": self.mc_se.square().sum().sqrt().item() / n}
        return found | ({"se": self.values.std().item() / n**0.5} if n > 1 else {})


@torch.no_grad()
@rng_state_preserved()
def score_points(model: LatentVariableModel, test: HeldOut, particles: int) -> Scores:
    """Computes a bound on -log p(x) for each data point.

    It is the importance-weighted bound -IWAE-m, which is the negative ELBO for one particle. A model without
    importance weights has the mean of the negative ELBO over several samples, and a model without latents
    -log p(x) itself. The mean of the values is the metric that `inference.evaluate` prints.

    Args:
        model: the model. Its mode and the RNG state are preserved.
        test: the data.
        particles: samples per data point of the importance-weighted bound, m.

    Raises:
        UserError: the model has no bound.
    """
    was_training, y = model.training, None if test.y is None else test.y.cpu()
    model.eval()
    try:
        inputs, without_noise, _ = next(test.chunks(1))
        terms = chunk_terms(model, inputs, without_noise, 1).values
        if "negative_log_p" in terms:
            return Scores("negative_log_p", *_elbo(model, test, "negative_log_p", 1), y)
        if "negative_elbo" not in terms:
            raise UserError(f"{type(model).__name__} has no bound on log p(x). Choose another model.")
        why_none = why_no_importance_weights(model, test.data, {name: {} for name in terms})
        if why_none:
            print(f"{type(model).__name__} {why_none}: the scores are -ELBO", file=sys.stderr)
            samples = OBSERVATIONS[model.observation].data.samples
            return Scores("negative_elbo", *_elbo(model, test, "negative_elbo", samples), y)
        chunks = importance_samples(model, test, max(particles, MIN_POOL))
        bounds, variances = zip(
            *(bound_of_weights(chunk.log_weights, particles) for _, chunk in chunks), strict=True
        )
        return Scores(f"iwae_{particles}", torch.cat(bounds), torch.cat(variances).sqrt(), y)
    finally:
        model.train(was_training)


def _elbo(model: LatentVariableModel, test: HeldOut, name: str, samples: int) -> tuple[Tensor, Tensor]:
    """Returns the mean of a term over samples, and its Monte Carlo error, (n,) each."""
    found = []
    with pyro.validation_enabled(False):
        for number, (inputs, without_noise, _) in enumerate(test.chunks(CHUNK)):
            torch.manual_seed(number)
            found.append(chunk_terms(model, inputs, without_noise, samples).values[name].double().cpu())
    values = torch.cat(found, dim=1)  # (samples, n)
    variances = values.var(0) if len(values) > 1 else torch.zeros_like(values[0])
    return values.mean(0), (variances / len(values)).sqrt()
