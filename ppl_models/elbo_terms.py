"""The terms of a negative ELBO, and the weight of its KL terms."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from pyro import poutine
from torch import Tensor

# How `bound` computes a KL term: in closed form, as `TraceMeanField_ELBO` does, or from the guide's samples,
# as `Trace_ELBO` does.
KL = Literal["closed", "sampled"]


class ELBOTerms:
    """The terms of a negative evidence lower bound, one value per data point, in nats.

    Args:
        weights: factors of terms and penalties in the training objective (default: 1 each). They do not
            change the bound.
        penalties: scalars that training minimises in addition to the bound. They are not part of it.
        metrics: values `(..., batch)` that are reported only, such as a squared error.
        **terms: `reconstruction` = -log p(x | latents) and one KL term per latent (`kl_z`, `kl_y`, ...), each
            of shape `(batch,)`, or `(particles, batch)` if the latents have a leading dimension of particles.
            A KL term of None means that its latent has no prior term: then the terms are not a bound.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float | Tensor] | None = None,
        penalties: Mapping[str, Tensor] | None = None,
        metrics: Mapping[str, Tensor] | None = None,
        **terms: Tensor | None,
    ):
        given = {name: term for name, term in terms.items() if term is not None}
        self.terms = dict(zip(given, torch.broadcast_tensors(*given.values()), strict=True))
        self.is_bound = bool(terms) and len(given) == len(terms)
        self.penalties = dict(penalties or {})
        self.weights = dict(weights or {})
        self.metrics = dict(metrics or {})

    @property
    def kl(self) -> Tensor | None:
        """The sum of all KL terms, `(..., batch)`; None if the model has no latents."""
        kls = [term for name, term in self.terms.items() if name.startswith("kl_")]
        return sum(kls[1:], kls[0]) if kls else None

    @property
    def negative_elbo(self) -> Tensor | None:
        """Reconstruction + kl, `(..., batch)`; None if the terms are not a bound, as for an auto-encoder."""
        terms = list(self.terms.values())
        return sum(terms[1:], terms[0]) if self.is_bound else None

    @property
    def objective(self) -> Tensor:
        """The training objective, a scalar: the weighted sum of the terms' batch means and the penalties."""
        parts = {name: term.mean() for name, term in self.terms.items()} | self.penalties
        return sum((self.weights.get(name, 1.0) * part for name, part in parts.items()), torch.zeros(()))

    @property
    def importance_weighted(self) -> Tensor:
        """The importance-weighted bound -log 1/m sum_k p(x, z_k) / q(z_k | x), `(batch,)`.

        The terms must have the shape `(m, batch)` and sampled KL terms. Burda, Grosse and Salakhutdinov 2016,
        Importance Weighted Autoencoders (arXiv 1509.00519), equation 8.

        Raises:
            ValueError: The terms are not a bound.
        """
        if self.negative_elbo is None:
            raise ValueError("The terms do not bound log p(x). Importance weights need every KL term.")
        return math.log(len(self.negative_elbo)) - (-self.negative_elbo).logsumexp(0)

    def report(self) -> dict[str, Tensor]:
        """Returns every value by name.

        Returns:
            `negative_elbo`, the terms, `kl` and the metrics, `(..., batch)` each, and the scalar penalties.
            A model without latents has `negative_log_p` instead of the bound and its terms.
        """
        if self.is_bound and self.kl is None:
            return {"negative_log_p": self.terms["reconstruction"], **self.metrics, **self.penalties}
        first = {
            "negative_elbo": self.negative_elbo,
            "reconstruction": self.terms.get("reconstruction"),
            "kl": self.kl,
        }
        sums = {name: value for name, value in first.items() if value is not None}
        return sums | self.terms | self.metrics | self.penalties


def scale_kl(beta: float | Tensor) -> AbstractContextManager:
    """Multiplies a latent's KL term by beta.

    It must enclose the latent's site in the model and in the guide: a KL term is the difference of their two
    log densities. A beta of 0 becomes a mask, because Pyro rejects a scale of 0.

    Args:
        beta: the weight; a scalar tensor may change from step to step.
    """
    if isinstance(beta, Tensor):
        return poutine.scale(scale=beta)
    if beta == 1:
        return nullcontext()
    return poutine.scale(scale=beta) if beta > 0 else poutine.mask(mask=False)
