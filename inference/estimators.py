"""Which Pyro ELBO by which name, and the loss that training minimises."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from ppl_models.base import KL, LatentVariableModel


class Estimator(NamedTuple):
    """A Pyro ELBO, and how it works out a divergence that has a closed form: as `bound` is told with `kl`."""

    elbo: Callable[[], ELBO]
    kl: KL


# `max_plate_nesting` is always given: without it Pyro runs model and guide once more to find out, and draws
# noise for it.
ESTIMATORS = {
    "trace": Estimator(partial(Trace_ELBO, max_plate_nesting=1), "sampled"),
    "mean_field": Estimator(partial(TraceMeanField_ELBO, max_plate_nesting=1), "closed"),
    "enum": Estimator(
        partial(TraceEnum_ELBO, max_plate_nesting=1, strict_enumeration_warning=False), "sampled"
    ),
}


class Loss(nn.Module):
    """The negative ELBO per image as one module, so that whatever wraps a torch module can wrap it.

    It holds the model, hence all parameters; Pyro's parameter store stays empty.
    """

    def __init__(self, model: LatentVariableModel, estimator: str):
        super().__init__()
        self.model = model
        self.elbo = ESTIMATORS[estimator].elbo()

    def forward(self, **inputs: Tensor) -> Tensor:
        """The objective of one batch, a scalar in nats: Pyro's sum over the plate, by the batch's size."""
        loss = self.elbo.differentiable_loss(self.model.model, self.model.guide, **inputs)
        return loss / len(inputs["x"])
