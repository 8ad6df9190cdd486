"""A training step captured as one graph of tensor operations.

`tests/compiled/test_capture.py` lists every function here that torch or Pyro does not document, and says
what breaks if one changes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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


def record(
    function: Callable[..., list[Tensor]], given: Sequence[Tensor], split_addmm: bool = False
) -> GraphModule:
    """Records the tensor operations of a function as a graph, for inputs of these shapes.

    Recording computes nothing and leaves the RNG state unchanged.

    Args:
        function: a function of tensors. It may change them in place, and read the model by closure.
        given: its inputs.
        split_addmm: whether a product with a bias becomes a product and a sum, which a compiler can fuse with
            the activation. Otherwise the bias is copied into the output first.

    Returns:
        The graph, a function of the same inputs.

    Raises:
        Exception: the function depends on the values of its tensors, or exchanges values with other processes
            by operations that cannot be compiled; torch raises errors of several types.
    """
    table = {torch.ops.aten.addmm.default: _split_addmm} if split_addmm else {}
    with pyro.validation_enabled(False), pyro.get_param_store().scope():
        graph = make_fx(
            function, decomposition_table=table, tracing_mode="fake", _allow_non_fake_inputs=True
        )(*given)
        if list(pyro.get_param_store()):
            raise RuntimeError("pyro.param is used: make it a torch.nn.Parameter of the model")
    called = [str(node.target) for node in graph.graph.nodes]
    several_gpus = any("sum_over_processes" in name for name in called) and any(x.is_cuda for x in given)
    if several_gpus or any("c10d" in name for name in called):  # the former is untested
        raise RuntimeError("processes exchange values within the step")
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _split_addmm(bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Computes addmm by a product and a difference: TorchInductor turns a sum into addmm again."""
    return alpha * (x @ y) - (-beta * bias) if (beta, alpha) != (1, 1) else x @ y - (-bias)


def value_and_gradients(
    loss: Loss, held: Mapping[str, Tensor], batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the objective and its gradients in a way that `record` can record.

    Args:
        loss: the loss.
        held: values of its parameters and buffers by name.
        batch: the inputs of the model.

    Returns:
        The objective, a scalar in nats per data point, and the gradients by name of the parameters that it
        depends on.
    """
    module = _CapturableLoss(loss)
    leaves = {
        name: held[name].detach().requires_grad_() for name, p in module.named_parameters() if p.requires_grad
    }
    objective = functional_call(module, {**held, **leaves}, (), dict(batch))
    found = torch.autograd.grad(objective, list(leaves.values()), allow_unused=True)
    gradients = {
        name: gradient.contiguous()
        for name, gradient in zip(leaves, found, strict=True)
        if gradient is not None
    }
    return objective.detach(), gradients


def named_tensors(loss: Loss) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the parameters (detached, in the same memory) and the buffers, by name."""
    module = _CapturableLoss(loss)
    return {name: p.detach() for name, p in module.named_parameters()}, dict(module.named_buffers())


def capture(
    loss: Loss, inputs: Mapping[str, Tensor], beta: Tensor | None = None
) -> tuple[GraphModule, list[bool]]:
    """Captures the objective and its gradients as a graph of tensor operations, for inputs of these shapes.

    Args:
        loss: the loss, whose parameters and buffers become inputs of the graph.
        inputs: a batch.
        beta: the model's KL weight, if it is a tensor that changes from step to step.

    Returns:
        The graph, and for each parameter whether it has a gradient. The graph is a function of the
        parameters, the buffers, beta (if given) and the batch, in this order. It returns the objective,
        whether the objective and all gradients are finite, and the gradients.

    Raises:
        Exception: see `record`.
    """
    parameters, buffers = named_tensors(loss)
    names, before_batch = [*parameters, *buffers], len(parameters) + len(buffers) + (beta is not None)
    reached: dict[str, Tensor] = {}

    def step(*given: Tensor) -> list[Tensor]:
        if beta is not None:
            loss.model.kl_weight = given[before_batch - 1]
        batch = dict(zip(inputs, given[before_batch:], strict=True))
        objective, gradients = value_and_gradients(loss, dict(zip(names, given, strict=False)), batch)
        reached.update(gradients)
        return [objective, finite(objective, list(gradients.values())), *gradients.values()]

    weight = [] if beta is None else [beta]
    given = [*parameters.values(), *buffers.values(), *weight, *inputs.values()]
    try:
        graph = record(step, given)
    finally:
        if beta is not None:
            loss.model.kl_weight = beta
    return graph, [name in reached for name in parameters]


def finite(objective: Tensor, gradients: list[Tensor]) -> Tensor:
    """Returns whether the objective and every gradient are finite, by the sums of the gradients."""
    return torch.stack([objective, *(g.sum() for g in gradients)]).isfinite().all()
