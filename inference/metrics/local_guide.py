"""The best guide of its family for each data point: the guide's outputs with an offset per data point."""

import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution

from inference.elbo.traces import latent_sites
from inference.errors import UserError
from ppl_models.base import LatentVariableModel

STEPS = 500  # of Adam, with a learning rate that falls to zero along a cosine
LEARNING_RATE = 0.03  # in units of the guide's standard deviations
PARTICLES = 10  # samples per data point and step


class Particles(NamedTuple):
    """Samples of a guide, with a sum over the labels that it enumerates.

    Attributes:
        elbo: log p(x, z) - log q(z | x) of each sample, whose mean is the ELBO, (particles, batch).
        log_weights: logarithms of unbiased estimates of p(x), (particles, batch). Without an enumerated label
            they equal `elbo`. With one they are log sum_y p(x, y, z_y) / q(z_y | x, y).
    """

    elbo: Tensor
    log_weights: Tensor


class LocalGuide(Messenger):
    """Adds offsets to the outputs of a guide, a set per data point.

    A normal's location moves by its scale times an offset, and its scale is multiplied by the exponential of
    another. A full covariance L L^T becomes L T T^T L^T with a lower triangular T, and a label's logits get
    an offset. Offsets of zero are the guide itself. The distribution of a latent that depends on other
    latents keeps that dependence, and its outputs move by the same offsets for every value of these.

    The offsets are made when the guide runs first inside of the context. A site of a trace also has the
    distribution `without_score`, the same without the graph of the offsets.

    Attributes:
        offsets: by name of the latent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offsets: dict[str, tuple[Tensor, ...]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if msg["name"] not in self.offsets:
            self.offsets[msg["name"]] = _zeros(msg["fn"])
        offsets = self.offsets[msg["name"]]
        fn = msg["fn"]
        msg["fn"], msg["without_score"] = (
            _moved(fn, *offsets),
            _moved(fn, *(part.detach() for part in offsets)),
        )


def _zeros(fn: Distribution) -> tuple[Tensor, ...]:
    """Returns offsets of zero for a distribution.

    Raises:
        UserError: the distribution has neither a location and a scale nor logits.
    """
    match fn:
        case dist.Independent():
            return _zeros(fn.base_dist)
        case dist.Normal():
            return fn.loc.new_zeros(fn.loc.shape), fn.loc.new_zeros(fn.loc.shape)
        case dist.MultivariateNormal():
            return fn.loc.new_zeros(fn.loc.shape), fn.loc.new_zeros(fn.scale_tril.shape)
        case dist.OneHotCategorical() | dist.Categorical():
            return (fn.logits.new_zeros(fn.logits.shape),)
    raise UserError(
        f"a guide of {type(fn).__name__} has no location and scale to optimise. Choose another model."
    )


def _moved(fn: Any, *offsets: Tensor) -> Distribution:
    """Returns a distribution of the same family with offsets of its parameters, see `LocalGuide`."""
    match fn:
        case dist.Independent():
            return dist.Independent(_moved(fn.base_dist, *offsets), fn.reinterpreted_batch_ndims)
        case dist.Normal():
            shift, log_factor = offsets
            return dist.Normal(fn.loc + fn.scale * shift, fn.scale * log_factor.exp())
        case dist.MultivariateNormal():
            shift, raw = offsets
            tril = fn.scale_tril
            factor = raw.diagonal(dim1=-2, dim2=-1).exp().diag_embed()
            if tril.tril(-1).any():  # else the family is that of diagonal covariances
                factor = factor + raw.tril(-1)
            return dist.MultivariateNormal(
                fn.loc + (tril @ shift.unsqueeze(-1)).squeeze(-1), scale_tril=tril @ factor
            )
    return type(fn)(logits=fn.logits + offsets[0])


def sample_particles(
    model: LatentVariableModel,
    inputs: dict[str, Tensor],
    particles: int,
    local: LocalGuide | None = None,
) -> Particles:
    """Samples the latents from the guide, and enumerates the labels that the guide enumerates.

    Scales of sites, such as the weight of a KL term, are ignored: the result is about the bound itself. Its
    gradient with respect to offsets is along the path of the samples only. The other part, the score of q,
    has mean zero. Roeder, Wu and Duvenaud 2017, Sticking the Landing (arXiv 1703.09194).

    Args:
        model: the model.
        inputs: its inputs, `x` (batch, *shape) among them.
        particles: samples per data point.
        local: changes the guide; None means the guide itself.
    """
    plate = pyro.plate("particles", particles, dim=-2)
    with poutine.trace() as q, poutine.enum(first_available_dim=-3), plate, local or nullcontext():
        model.guide(**inputs)
    with poutine.trace() as p, pyro.plate("particles", particles, dim=-2), poutine.replay(trace=q.trace):
        model.model(**inputs)
    latents, key = latent_sites(q.trace), "without_score" if local else "fn"
    labels = [name for name, site in latents.items() if site["infer"].get("enumerate")]
    log_q = {
        name: site["fn" if name in labels else key].log_prob(site["value"]) for name, site in latents.items()
    }
    of_model = [p.trace.nodes[name] for name in ("x", *latents)]
    joint = sum(site["fn"].log_prob(site["value"]) for site in of_model)
    of_labels = [log_q.pop(name) for name in labels]
    joint = joint - sum(log_q.values())
    if not of_labels:
        return Particles(joint, joint)
    joint, log_label = torch.broadcast_tensors(joint, sum(of_labels[1:], of_labels[0]))
    joint, log_label = joint.flatten(0, -3), log_label.flatten(0, -3)  # (labels, particles, batch)
    return Particles((log_label.exp() * (joint - log_label)).sum(0), joint.logsumexp(0))


def fit_local_guide(model: LatentVariableModel, inputs: dict[str, Tensor]) -> LocalGuide:
    """Maximises the ELBO of each data point over the offsets of the guide's outputs.

    It starts from the guide itself. Adam takes noisy steps, so that the result is at most the best guide of
    the family: its ELBO is a lower bound on the best one.

    Args:
        model: the model, with parameters that need no gradient.
        inputs: its inputs, `x` (batch, *shape) among them.

    Returns:
        The messenger that changes the guide.

    Raises:
        UserError: the guide has no location and scale to optimise.
    """
    local = LocalGuide()
    with torch.no_grad():
        sample_particles(model, inputs, 1, local)
    parameters = [part.requires_grad_() for parts in local.offsets.values() for part in parts]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    with torch.enable_grad():
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
            loss = -sample_particles(model, inputs, PARTICLES, local).elbo.mean(0).sum()
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    local.offsets = {name: tuple(part.detach() for part in parts) for name, parts in local.offsets.items()}
    return local
