"""Which Pyro ELBO by which name, and the loss that training minimises."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_models.base import KL, LatentVariableModel


class Estimator(NamedTuple):
    """A Pyro ELBO, and how it works out a divergence that has a closed form: as `bound` is told with `kl`."""

    elbo: Callable[[], ELBO]
    kl: KL


class MeanField(TraceMeanField_ELBO):
    """`TraceMeanField_ELBO`, with a shorter way to the same sum once its checks have passed.

    With validation on it is Pyro's own. With validation off it leaves out the log-densities of latents whose
    divergence is closed: Pyro works them out and never reads them, which shows in a small model's step.
    """

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor | float:
        if is_validation_enabled():
            return super().differentiable_loss(model, guide, *args, **kwargs)
        with poutine.trace() as q:
            guide(*args, **kwargs)
        with poutine.trace() as p, poutine.replay(trace=q.trace):
            model(*args, **kwargs)
        loss = 0.0
        for name, site in p.trace.nodes.items():
            if site["type"] == "sample" and not site_is_subsample(site):
                term = _term(site, q.trace.nodes.get(name))
                loss = loss + scale_and_mask(term, site["scale"], site["mask"]).sum()
        return loss


def _term(site: Any, guide_site: Any) -> Tensor:
    """-log p of an observation; of a latent KL(q || p), or log q - log p where it has no closed form."""
    if guide_site is None:
        return -site["fn"].log_prob(site["value"])
    try:
        return kl_divergence(guide_site["fn"], site["fn"])
    except NotImplementedError:
        return guide_site["fn"].log_prob(site["value"]) - site["fn"].log_prob(site["value"])


# `max_plate_nesting` is always given: without it Pyro runs model and guide once more to find out, and draws
# noise for it.
ESTIMATORS = {
    "trace": Estimator(partial(Trace_ELBO, max_plate_nesting=1), "sampled"),
    "mean_field": Estimator(partial(MeanField, max_plate_nesting=1), "closed"),
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
