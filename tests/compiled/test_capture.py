"""Captured losses equal Pyro's on programs of any kind, and what is used without being documented is there.

`inference/compiled/capture.py` is the one file of the library that uses undocumented functions of torch,
and most of Pyro's. Only the codebook's sum over processes is another: `tests/backend/test_ranks.py` tests it.
`ppl_models/base.py` reads the stack of Pyro's handlers, and `inference/elbo/comparison.py` uses its check of
the mean-field restriction: both are tested here as well.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from inference.compiled.capture import capturable_loss
from tests.support import shortened

X = torch.tensor([[0.3], [-1.2], [2.0]])
Program = Callable[[Tensor, Tensor], None]


def normal() -> dist.Distribution:
    return dist.Normal(torch.zeros(2), 1.0).to_event(1)


def mixture() -> dist.Distribution:  # its KL divergence from a normal has no closed form
    components = dist.Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.7).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), components)


def pair(
    prior: Callable[[], Any] = normal, around: Any = None, model_alone: bool = False
) -> tuple[Program, Program]:
    """A model with one latent and its guide. `around` makes a handler of the latent, in both or one alone."""
    handler = around or (lambda: poutine.scale(scale=1.0))

    def model(w: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with handler():
                z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z @ w[:, None], 1.0).to_event(1), obs=x)

    def guide(w: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.scale(scale=1.0) if model_alone else handler():
            pyro.sample("z", dist.Normal(x * w, 0.5 + w**2).to_event(1))

    return model, guide


def auxiliary() -> tuple[Program, Program]:
    """A latent of the guide that the model does not have."""
    model, _ = pair()

    def guide(w: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x * w, 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u * w, 0.5 + w**2).to_event(1))

    return model, guide


def enumerated(where: str) -> tuple[Program, Program]:
    """A label of three values, summed over in the guide or in the model."""

    def model(w: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            infer = {"enumerate": "parallel"} if where == "model" else {}
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(3)), infer=infer)
            z = pyro.sample("z", dist.Normal(y.to(w), 1.0))
            pyro.sample("x", dist.Normal(z * w[0], 1.0), obs=x[:, 0])

    def guide(w: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if where == "guide":
                logits = torch.cat([x * w, x], -1)
                y = pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
                pyro.sample("z", dist.Normal(y * w[1], 0.5 + w[0] ** 2))
            else:
                pyro.sample("z", dist.Normal(x[:, 0] * w[1], 0.5 + w[0] ** 2))

    return model, guide


PROGRAMS: dict[str, tuple[Program, Program]] = {
    "plain": pair(),
    "mixture prior": pair(mixture),
    "scaled": pair(around=lambda: poutine.scale(scale=2.5)),
    "scaled in the model alone": pair(around=lambda: poutine.scale(scale=2.5), model_alone=True),
    "masked": pair(around=lambda: poutine.mask(mask=False)),
    "masked in part": pair(around=lambda: poutine.mask(mask=torch.tensor([True, False, True]))),
    "auxiliary latent": auxiliary(),
}
ELBOS: dict[str, Callable[[], ELBO]] = {
    "trace": lambda: Trace_ELBO(max_plate_nesting=1),
    "mean_field": lambda: TraceMeanField_ELBO(max_plate_nesting=1),
    "enum": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "four particles": lambda: Trace_ELBO(num_particles=4, max_plate_nesting=1),
    "four at once": lambda: Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1),
    "mean_field, four particles": lambda: TraceMeanField_ELBO(num_particles=4, max_plate_nesting=1),
}


def captured_and_pyro_s(elbo: ELBO, model: Program, guide: Program) -> None:
    """Asserts that the loss and its gradient, captured on one batch and replayed on another, are Pyro's."""

    def step(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        w = w.detach().requires_grad_()
        loss = capturable_loss(elbo, model, guide, w, x)
        return loss, torch.autograd.grad(loss, w)[0]

    w, x = torch.randn(2), X.to(torch.get_default_dtype())
    with pyro.validation_enabled(False):
        graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(w, 2 * x)
    pyro.set_rng_seed(3)
    ours = graph(w, x)
    pyro.set_rng_seed(3)
    w.requires_grad_()
    loss = elbo.differentiable_loss(model, guide, w, x)
    torch.testing.assert_close(ours, (loss.detach(), torch.autograd.grad(loss, w)[0]), rtol=1e-12, atol=1e-12)


CASES = [(elbo, program) for elbo in ELBOS for program in PROGRAMS]
FEW_CASES = [case for case in CASES if case[0] in ("trace", "mean_field") or case[1] == "mixture prior"]


@pytest.mark.parametrize("case", shortened(CASES, FEW_CASES), ids="-".join)
def test_a_captured_loss_is_pyro_s(case: tuple[str, str], float64: None) -> None:
    elbo, program = case
    if program == "scaled in the model alone" and elbo == "enum":
        pytest.skip("Pyro refuses it")
    captured_and_pyro_s(ELBOS[elbo](), *PROGRAMS[program])


def test_a_captured_sum_over_labels_is_pyro_s(float64: None) -> None:
    captured_and_pyro_s(ELBOS["enum"](), *enumerated("guide"))


def test_a_label_without_probability_costs_nothing(float64: None) -> None:
    """q(y) = 0 leaves out a cost of infinity, as Pyro does, where 0 times infinity is not a number."""

    def model(w: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(2)))
            value = torch.where(y == 1, -torch.inf, -(w**2).sum() * x[:, 0] ** 2)
            pyro.factor("x", value)

    def guide(w: Tensor, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = torch.stack([x[:, 0] * w[0], torch.full((len(x),), -1e9, dtype=x.dtype)], -1)
            pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    captured_and_pyro_s(ELBOS["enum"](), model, guide)


def test_a_latent_that_is_not_reparameterised_is_not_captured() -> None:
    """There the surrogate loss has the right gradient, but not the value of the loss."""

    def model() -> None:
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))

    def guide() -> None:
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Bernoulli(logits=torch.tensor(0.3, requires_grad=True)))

    with pytest.raises(NotImplementedError, match="z is not reparameterised"):
        capturable_loss(ELBOS["trace"](), model, guide)


def test_a_label_summed_in_the_model_is_not_captured() -> None:
    with pytest.raises(NotImplementedError, match="the model enumerates a latent"):
        capturable_loss(ELBOS["enum"](), *enumerated("model"), torch.randn(2), X)


# What is used without being documented: the function, and the names of the parameters that are relied on.
UNDOCUMENTED = {
    "torch.fx.experimental.proxy_tensor.make_fx": [
        "decomposition_table",
        "tracing_mode",
        "_allow_non_fake_inputs",
    ],
    "pyro.infer.traceenum_elbo._compute_model_factors": ["model_trace", "guide_trace"],
    "pyro.infer.util.Dice._get_log_factors": ["self", "target_ordinal"],
    "pyro.infer.elbo.ELBO._get_traces": ["self", "model", "guide", "args", "kwargs"],
    "pyro.infer.trace_elbo.Trace_ELBO._differentiable_loss_particle": ["self", "model_trace", "guide_trace"],
    "pyro.infer.trace_mean_field_elbo._check_mean_field_requirement": ["model_trace", "guide_trace"],
}


@pytest.mark.parametrize("name", list(UNDOCUMENTED))
def test_undocumented_functions_are_there(name: str) -> None:
    """If this fails, captured steps fall back to plain ones, or (the last) compare raises."""
    import torch._inductor

    found: Any = {"torch": torch, "pyro": pyro}[name.split(".")[0]]
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    assert set(UNDOCUMENTED[name]) <= set(inspect.signature(found).parameters)


def test_svi_records_parameters_in_a_trace_of_params_alone() -> None:
    """If this fails, plain SVI trains nothing: `ppl_models.base` registers parameters for such a trace."""
    from pyro.poutine.runtime import _PYRO_STACK

    seen: list[bool] = []

    def program() -> None:
        seen.append(any(getattr(messenger, "param_only", False) for messenger in _PYRO_STACK))
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

    pyro.infer.SVI(program, program, pyro.optim.Adam({}), Trace_ELBO()).step()
    assert seen and all(seen)
    seen.clear()
    poutine.trace(program).get_trace()
    assert seen == [False]
