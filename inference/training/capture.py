"""A training step captured as one graph of tensor operations, and compiled by TorchInductor.

`tests/training/test_capture.py` lists every function here that torch or Pyro does not document, and says
what breaks if one changes.
"""

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import TraceEnum_ELBO
from pyro.infer.elbo import ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.einsum.torch_log import einsum
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from inference.elbo.estimators import Loss
from inference.elbo.importance_weighted import ImportanceWeighted


def capturable_loss(
    elbo: ELBO, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
) -> Tensor:
    """Computes `elbo.differentiable_loss` without reading a Python number from a tensor.

    Pyro's method reads the loss as a Python number and branches on a mask. `torch.fx` cannot capture that.

    Args:
        elbo: one of Pyro's `Trace_ELBO`, `TraceMeanField_ELBO` and `TraceEnum_ELBO`, or `ImportanceWeighted`.
        model: a Pyro program.
        guide: a Pyro program.
        *args: arguments of both programs.
        **kwargs: arguments of both programs.

    Returns:
        The loss, a scalar in nats.

    Raises:
        NotImplementedError: a latent of the guide is not reparameterised, so that Pyro's surrogate loss has
            another value; or the model enumerates a latent.
    """
    if isinstance(elbo, ImportanceWeighted):
        return elbo.differentiable_loss(model, guide, *args, **kwargs)
    loss: Any = 0.0
    for model_trace, guide_trace in elbo._get_traces(model, guide, args, kwargs):
        if isinstance(elbo, TraceEnum_ELBO):
            particle = -_enumerated_elbo(model_trace, guide_trace)
        else:
            for name, site in guide_trace.nodes.items():
                if site["type"] == "sample" and not is_identically_zero(site["score_parts"].score_function):
                    raise NotImplementedError(f"{name} is not reparameterised")
            _, particle = elbo._differentiable_loss_particle(model_trace, guide_trace)
        loss = loss + particle / elbo.num_particles
    return loss


def _enumerated_elbo(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """Returns the ELBO of `TraceEnum_ELBO` for latents that the guide enumerates: the expected cost.

    Pyro drops costs of probability zero with a mask whose values it reads. Here `torch.where` drops them.
    """
    costs, log_factors, ordering, _, _ = _compute_model_factors(model_trace, guide_trace)
    if log_factors:
        raise NotImplementedError("the model enumerates a latent")
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample":
            costs.setdefault(ordering[name], []).append(packed.neg(site["packed"]["log_prob"]))
    dice, elbo = Dice(guide_trace, ordering), torch.zeros(())
    for ordinal, terms in costs.items():
        factors = dice._get_log_factors(ordinal)
        weight = math.exp(sum(factor for factor in factors if not isinstance(factor, Tensor)))
        factors = [factor for factor in factors if isinstance(factor, Tensor)]
        for cost in terms:
            elbo = elbo + weight * _expected(cost, factors)
    return elbo


def _expected(cost: Tensor, log_factors: list[Tensor]) -> Tensor:
    """Returns the expectation of a packed cost; the probabilities are products of packed factors."""
    if not log_factors:
        return cost.sum()
    inputs: list[str] = [vars(factor)["_pyro_dims"] for factor in log_factors]
    output = "".join(dim for dim in vars(cost)["_pyro_dims"] if any(dim in dims for dims in inputs))
    log_prob = einsum(f"{','.join(inputs)}->{output}", *log_factors)
    prob = log_prob.exp()
    vars(prob)["_pyro_dims"] = output
    cost, prob = packed.broadcast_all(cost, prob)
    return (prob * torch.where(prob > 0, cost, 0.0)).sum()


class _CapturableLoss(nn.Module):
    """`Loss` by `capturable_loss`."""

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss

    def forward(self, **inputs: Tensor) -> Tensor:
        model = self.loss.model
        return capturable_loss(self.loss.elbo, model.model, model.guide, **inputs) / len(inputs["x"])


def capture(
    loss: Loss, inputs: Mapping[str, Tensor], beta: Tensor | None = None
) -> tuple[GraphModule, list[bool]]:
    """Captures the objective and its gradients as a graph of tensor operations, for inputs of these shapes.

    Capturing computes nothing and leaves the RNG state unchanged.

    Args:
        loss: the loss, whose parameters and buffers become inputs of the graph.
        inputs: a batch.
        beta: the model's KL weight, if it is a tensor that changes from step to step.

    Returns:
        The graph, and for each parameter whether it has a gradient. The graph is a function of the
        parameters, the buffers, beta (if given) and the batch, in this order. It returns the objective,
        whether the objective and all gradients are finite, and the gradients.

    Raises:
        Exception: the step depends on the values of its tensors or on other processes; torch raises
            errors of several types.
    """
    module = _CapturableLoss(loss)
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    names, before_batch = [*parameters, *buffers], len(parameters) + len(buffers) + (beta is not None)
    reached: list[bool] = []

    def step(*given: Tensor) -> list[Tensor]:
        leaves = [value.detach().requires_grad_() for value in given[: len(parameters)]]
        held = dict(zip(names, [*leaves, *given[len(parameters) :]], strict=False))
        if beta is not None:
            loss.model.kl_weight = given[before_batch - 1]
        batch = dict(zip(inputs, given[before_batch:], strict=True))
        objective = functional_call(module, held, (), batch)
        found = torch.autograd.grad(objective, leaves, allow_unused=True)
        reached[:] = [gradient is not None for gradient in found]
        gradients = [gradient.contiguous() for gradient in found if gradient is not None]
        return [objective.detach(), finite(objective.detach(), gradients), *gradients]

    given = [
        *(p.detach() for p in parameters.values()),
        *buffers.values(),
        *[beta][: beta is not None],
        *inputs.values(),
    ]
    try:
        with pyro.validation_enabled(False), pyro.get_param_store().scope():
            graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)
            if list(pyro.get_param_store()):
                raise RuntimeError("pyro.param is used: make it a torch.nn.Parameter of the model")
    finally:
        if beta is not None:
            loss.model.kl_weight = beta
    if any("c10d" in str(node.target) for node in graph.graph.nodes):
        raise RuntimeError("processes exchange values within the step")
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, reached


def compiled(graph: GraphModule, given: list[Any]) -> Callable[..., Any]:
    """Compiles a graph with TorchInductor. It uses torch's RNG, as the graph does."""
    # The user cannot do anything about a missing CUDA compiler or torch's own deprecations.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch._inductor.compile(graph, given, options={"fallback_random": True})


def finite(objective: Tensor, gradients: list[Tensor]) -> Tensor:
    """Returns whether the objective and every gradient are finite, by the sums of the gradients."""
    return torch.stack([objective, *(g.sum() for g in gradients)]).isfinite().all()
