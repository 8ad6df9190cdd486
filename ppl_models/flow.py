"""Normalizing flow of points, trained by maximum likelihood."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from torch import Tensor, nn

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import SplineCoupling
from ppl_models.elbo_terms import KL, ELBOTerms

CACHES = {"_cache_log_detJ", "_cached_log_scale"}  # cached by Pyro's transforms in addition to points
BINS, BOUND = 16, 4.0  # of a spline; outside [-BOUND, BOUND] it is the identity


class Flow(LatentVariableModel):
    """p(x).

    p(x) = N(f(x); 0, I) |det df/dx|                    x (batch, d)

    f is a chain of layers from points to noise: a shift and scale per axis, then couplings or masked
    autoregressive layers. A coupling transforms one half of the axes by linear rational splines that depend
    on the other half. An autoregressive layer scales and shifts an axis depending on the axes before it.
    Sampling applies the inverse layers to noise. The model has no latents and the guide is empty: the bound
    equals the log-likelihood. `bound` computes the determinant of the Jacobian that autograd returns.

    Rezende and Mohamed 2015, Variational Inference with Normalizing Flows (arXiv 1505.05770); Papamakarios,
    Pavlakou and Murray 2017, Masked Autoregressive Flow (arXiv 1705.07057); Dolatabadi, Erfani and
    Leckie 2020, Invertible Generative Modeling using Linear Rational Splines (arXiv 2001.05168).
    """

    estimators = ("trace",)
    observation, example_shape = "points", (2,)
    default_dataset = "smiley"
    has_latents = has_mean = False
    defaults = {"steps": 4_000, "batch_size": 128, "lr": 3e-3, "schedule": "cosine"}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        kind: Annotated[Literal["coupling", "autoregressive"], "type of the layers"] = "coupling",
        layers: Annotated[int, "number of layers"] = 4,
        hidden: Annotated[int, "width of the two hidden layers in each layer's network"] = 64,
    ):
        super().__init__(shape, classes)
        (d,) = shape
        if d < 2:
            raise ValueError("a flow transforms at least two dimensions, and the data have one.")
        self.loc, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))
        if kind == "coupling":
            self.layers = nn.ModuleList(SplineCoupling(d, hidden, BINS, BOUND) for _ in range(layers))
        else:
            self.layers = nn.ModuleList(
                transforms.affine_autoregressive(d, hidden_dims=[hidden, hidden]) for _ in range(layers)
            )

    def __getstate__(self) -> dict[str, Any]:
        """Clears the transforms' caches, whose autograd graph cannot be copied or pickled."""
        for layer in cast(Iterable[Any], self.layers):
            layer.clear_cache()
            for part in layer.modules():
                vars(part).update(dict.fromkeys(vars(part).keys() & CACHES))
        return super().__getstate__()

    def chain(self) -> list[transforms.Transform]:
        """Returns the layers of f in order, with a reversal of the axes after each learned layer."""
        d = len(self.loc)
        reverse = transforms.Permute(torch.arange(d - 1, -1, -1, device=self.loc.device))
        scale = (-self.log_scale).exp()
        layers: list[transforms.Transform] = [
            transforms.AffineTransform(-self.loc * scale, scale, event_dim=1)
        ]
        for layer in self.layers:
            layers += [layer, reverse]
        return layers

    def distribution(self) -> dist.TransformedDistribution:
        """Returns p(x): standard normal noise through the inverse of f."""
        noise = dist.Normal(torch.zeros_like(self.loc), 1.0).to_event(1)
        return dist.TransformedDistribution(noise, [layer.inv for layer in reversed(self.chain())])

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.distribution(), obs=x)

    def guide(self, x: Tensor) -> None:
        pass

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            e = x
            for layer in self.chain():
                e = layer(e)
            rows = [
                torch.autograd.grad(column.sum(), x, retain_graph=True, create_graph=keep)[0]
                for column in e.unbind(-1)
            ]
            log_p = densities.normal(e, 0.0, 1.0) + torch.stack(rows, dim=-2).slogdet().logabsdet
        if not keep:
            log_p = log_p.detach()
        return ELBOTerms(
            reconstruction=-log_p, metrics={"bits_per_dim": -log_p / (math.log(2) * x.shape[-1])}
        )

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Returns log p(x) of points `(batch, d)`, `(batch,)`."""
        return self.distribution().log_prob(x)
