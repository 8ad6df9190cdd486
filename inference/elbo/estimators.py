"""Pyro's ELBO estimators by name, and the loss that training minimises."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from inference.elbo.importance_weighted import ImportanceWeighted
from inference.errors import UserError
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL


class Estimator(NamedTuple):
    """A Pyro ELBO and its counterpart by hand.

    Attributes:
        elbo: makes the ELBO from the number of particles.
        kl: how `bound` computes a KL term that has a closed form, to match the ELBO.
        particles: the default number of particles. If it is 1, no other number is supported.
    """

    elbo: Callable[[int], ELBO]
    kl: KL
    particles: int = 1

    @property
    def importance_weighted(self) -> bool:
        """Whether the bound is importance-weighted, so that KL weights and penalties are not supported."""
        return self.particles > 1


# `max_plate_nesting` is always given: without it Pyro runs model and guide once more to find it out, and
# samples noise for that.
ESTIMATORS = {
    "trace": Estimator(partial(Trace_ELBO, max_plate_nesting=1), "sampled"),
    "mean_field": Estimator(partial(TraceMeanField_ELBO, max_plate_nesting=1), "closed"),
    "enum": Estimator(
        partial(TraceEnum_ELBO, max_plate_nesting=1, strict_enumeration_warning=False), "sampled"
    ),
    "iwae": Estimator(ImportanceWeighted, "sampled", 50),
    "iwae_dreg": Estimator(lambda particles: ImportanceWeighted(particles, doubly=True), "sampled", 50),
}


@contextmanager
def checked_by_pyro() -> Iterator[None]:
    """Converts Pyro's warning that the mean-field restriction fails to an error, and silences that of NaN.

    Pyro checks the restriction if its validation is on. Training itself reports a loss that is not finite.

    Raises:
        UserError: the guide's latents come in another order than the model's, so that `TraceMeanField_ELBO`
            may not be a bound.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered (NaN|inf)", category=UserWarning)
        warnings.filterwarnings("error", message="Failed to verify mean field", category=UserWarning)
        try:
            yield
        except UserWarning as warning:
            if "mean field" not in str(warning):
                raise
            raise UserError(
                "the mean_field estimator needs the same order of latents in model and guide. "
                "Reorder the guide's sample statements or use the trace estimator."
            ) from None


class Loss(nn.Module):
    """The objective of a model as one module: a Pyro estimator of its model and guide, per image.

    Args:
        model: the model; its parameters are the module's.
        estimator: a name in `ESTIMATORS`.
        particles: samples per image of an importance-weighted estimator; None means its default.

    Raises:
        ValueError: the estimator does not support the model's settings or the number of particles.
    """

    def __init__(self, model: LatentVariableModel, estimator: str, particles: int | None = None):
        super().__init__()
        default = ESTIMATORS[estimator].particles
        weighted = ESTIMATORS[estimator].importance_weighted
        if weighted and getattr(model, "beta", 1.0) != 1.0:
            raise ValueError(f"{estimator} does not support KL weights. Set beta to 1, not {model.beta:g}.")
        if weighted and getattr(model, "free_bits", 0.0) > 0:
            raise ValueError(
                f"{estimator} does not support penalties. Set free bits to 0, not {model.free_bits:g}."
            )
        if not weighted and particles not in (None, 1):
            raise ValueError(f"{estimator} takes one sample per image. Leave out particles, or use iwae.")
        self.model = model
        self.elbo = ESTIMATORS[estimator].elbo(particles or default)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Returns the objective of one batch, a scalar in nats per image.

        Args:
            **inputs: the model's inputs, x (batch, *shape) among them.

        Raises:
            UserError: Pyro's validation is on, and the mean-field restriction fails.
        """
        with checked_by_pyro():
            loss = self.elbo.differentiable_loss(self.model.model, self.model.guide, **inputs)
        return loss / len(inputs["x"])
