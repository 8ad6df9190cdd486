"""With --precision bfloat16 the networks run in bfloat16; densities, KL terms and samples stay in float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inference.data.examples import example_inputs
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.rundir.config import defaults
from inference.training.gradients import Gradients
from inference.training.precision import bfloat16_networks
from ppl_models import GMVAE, MODELS, densities
from ppl_models.base import LatentVariableModel
from ppl_models.nets.heads import loc_scale
from ppl_models.programs import latents_of

SHAPE, CLASSES = (1, 8, 8), 10
OTHERS = {"flow": {"kind": "autoregressive"}, "made": {"masks": 3, "layers": 2, "order": "random"}}
# The smoothness is a function of a gradient, which outputs of the networks that are kept do not have.
SMOOTH = {"regularized_ssvae": {"smooth_weight": 0.0}}
CASES = [*((name, {}) for name in MODELS), *OTHERS.items(), ("pixel_vae", {"shape": (3, 8, 8)})]


def build(name: str, shape: tuple[int, ...] = SHAPE, **options: Any) -> LatentVariableModel:
    """The model for small images, with weights large enough that every parameter of a density varies."""
    cls = MODELS[name]
    settings = defaults(cls, shape) | options
    model = cls(cls.padded(shape), CLASSES, **{option: settings[option] for option in cls.options()})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


@contextmanager
def networks(run: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> Iterator[None]:
    """Every outermost call of a network, a module that is neither a model nor a loss, goes through `run`."""
    call, depth = nn.Module.__call__, 0

    def watched(self: nn.Module, *given: Any, **named: Any) -> Any:
        nonlocal depth
        if depth or isinstance(self, LatentVariableModel | Loss):
            return call(self, *given, **named)
        depth += 1
        try:
            return run(lambda *inner: call(self, *inner, **named), given)
        finally:
            depth -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__call__", watched)
        yield


class Bfloat16(TorchDispatchMode):
    """Records every operation in bfloat16, inside and outside of networks, casts to float32 excepted."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: set[str] = set()
        self.outside: set[str] = set()
        self.record = self.outside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if func is torch.ops.aten._to_copy.default and out.dtype == torch.float32:
            return out
        if any(tensor.dtype == torch.bfloat16 for tensor in tensors):
            self.record.add(str(func))
        return out

    def within(self, function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        before, self.record = self.record, self.inside
        try:
            return function(*given)
        finally:
            self.record = before


def sampled(model: LatentVariableModel, inputs: dict[str, Tensor]) -> tuple[Any, Any]:
    """The traces of the guide and of the model, with every value of an enumerated latent."""
    with poutine.trace() as guide, poutine.enum(first_available_dim=-2):
        model.guide(**inputs)
    with poutine.trace() as program, poutine.replay(trace=guide.trace):
        model.model(**inputs)
    return guide.trace, program.trace


@pytest.mark.parametrize(("name", "options"), CASES)
def test_only_networks_compute_in_bfloat16(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operation by operation, for Pyro's loss under each estimator and for the bound by hand."""
    grad, watch = torch.autograd.grad, Bfloat16()

    def backwards(*given: Any, **named: Any) -> Any:
        """A gradient inside of a loss or a bound: of networks in their precision, of densities in float32."""
        assert not torch.is_autocast_enabled("cpu")
        return watch.within(lambda: grad(*given, **named), ())

    monkeypatch.setattr(torch.autograd, "grad", backwards)
    for estimator in MODELS[name].estimators:
        particles = min(ESTIMATORS[estimator].particles, 3)
        unweighted = {"beta": 1.0} if particles > 1 and "beta" in MODELS[name].options() else {}
        model = build(name, **options, **unweighted)
        inputs = example_inputs(model, 4)
        with networks(watch.within), bfloat16_networks(model, "cpu"), pyro.validation_enabled(False), watch:
            assert Loss(model, estimator, particles)(**inputs).dtype == torch.float32
    with networks(watch.within), bfloat16_networks(model, "cpu"), pyro.validation_enabled(False):
        with torch.no_grad(), watch:
            guide, _ = sampled(model, inputs)
        for kl in ("closed", "sampled"):
            with watch:
                bound = model.bound(**inputs, latents=latents_of(guide), kl=kl)
        log_p = model.log_likelihood(inputs["x"])
    assert watch.outside == set()
    assert watch.inside
    values = [*bound.terms.values(), *bound.penalties.values(), *latents_of(guide).values()]
    assert {value.dtype for value in values if value is not None} == {torch.float32}
    assert log_p is None or log_p.dtype == torch.float32


@pytest.mark.parametrize(("name", "options"), CASES)
def test_densities_have_the_error_of_float32(name: str, options: dict[str, Any]) -> None:
    """Beside the same in float64, from the same values and the same outputs of the networks."""
    model = build(name, **options, **SMOOTH.get(name, {})).eval()
    inputs = example_inputs(model, 4)
    outputs: list[Any] = []

    def keep(function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        outputs.append(function(*given))
        return outputs[-1]

    def log_densities(trace: poutine.Trace) -> dict[str, Tensor]:
        """Of every site but plates, and but codes at a point, which have none."""
        sites = {k: site for k, site in trace.nodes.items() if site["type"] == "sample"}
        sites = {k: site for k, site in sites.items() if not site_is_subsample(site)}
        return {k: s["fn"].log_prob(s["value"]) for k, s in sites.items() if not isinstance(s["fn"], Delta)}

    with torch.no_grad(), pyro.validation_enabled(False):
        with networks(keep), bfloat16_networks(model, "cpu"):
            guide, program = sampled(model, inputs)
            ours = [log_densities(guide), log_densities(program)]
        exact_model, kept = deepcopy(model).double(), iter(outputs)
        exact_inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        for node in guide.nodes.values():
            if isinstance(node.get("value"), Tensor) and node["value"].is_floating_point():
                node["value"] = node["value"].double()

        def widened(*_: Any) -> Any:
            out = next(kept)
            return out.double() if isinstance(out, Tensor) else tuple(part.double() for part in out)

        with networks(widened):
            with poutine.trace() as tracer, poutine.replay(trace=guide):
                exact_model.guide(**exact_inputs)
            exact_guide = tracer.trace
            with poutine.trace() as tracer, poutine.replay(trace=guide):
                exact_model.model(**exact_inputs)
            exact = [log_densities(exact_guide), log_densities(tracer.trace)]
    assert next(kept, None) is None
    for found, true in zip(ours, exact, strict=True):
        assert found.keys() == true.keys()
        for site, value in true.items():
            assert value.dtype == torch.float64 and found[site].dtype == torch.float32
            # Of the sum of the terms' magnitudes, which |log p| and a nat a value stand for.
            size = value.abs() + inputs["x"][0].numel()
            assert ((found[site] - value).abs() / size).max() < 2e-6, site


def test_a_sharp_mixture_keeps_its_precision() -> None:
    """As the components sharpen, bfloat16 would cost several nats of log p(z)."""
    model = GMVAE((1, 4, 4), z_dim=10, components=200)
    with torch.no_grad():
        model.components[:, :10].normal_()
        model.components[:, 10:].fill_(-6.0)  # a scale of 0.05
        z = model.components[:50, :10] + 0.05 * torch.randn(50, 10)
        exact = densities.mixture_of_normals(z.double(), *loc_scale(model.components.double()))
        with bfloat16_networks(model, "cpu"), poutine.condition(data={"z": z}):
            site = poutine.trace(model.model).get_trace(torch.ones(50, 1, 4, 4)).nodes["z"]
        assert (site["fn"].log_prob(z) - exact).abs().max() < 5e-3


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_gradients_of_a_step_are_near_those_of_float32(mode: str) -> None:
    """They differ by the rounding of the networks alone, in both modes."""
    model = GMVAE((1, 8, 8), hidden=16, z_dim=3, components=20)
    batch = example_inputs(model, 50)
    found = []
    for precision in (nullcontext, partial(bfloat16_networks, model, "cpu")):
        gradients = Gradients(Loss(model, "trace"), mode, precision=precision, say=pytest.fail)
        torch.manual_seed(1)
        gradients(batch)
        found.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    for ours, exact in zip(*found, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < (ours - exact).norm() < 0.03 * exact.norm()


def test_hooks_are_removed_and_autocast_ends() -> None:
    """After the context, and after a network that raises, nothing of it is left."""
    model = GMVAE((1, 4, 4), hidden=16)
    x = torch.ones(3, 16)
    with bfloat16_networks(model, "cpu"):
        assert model.encoder(x).dtype == torch.float32
        with pytest.raises(RuntimeError, match="shapes"):
            model.encoder(x[:, :5])
    assert not torch.is_autocast_enabled("cpu")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("name", ["code_pixelcnn", "code_transformer"])
def test_codes_may_be_whole_numbers(name: str) -> None:
    """The kind of number in which codes are given does not round the networks' outputs."""
    model = MODELS[name]((1, 4, 4), codes=7).eval()
    codes = torch.randint(7, (5, 1, 4, 4))
    log_p = model.log_likelihood(codes)
    assert log_p.dtype == torch.float32
    assert torch.equal(log_p, model.log_likelihood(codes.float()))
    site = poutine.trace(model.model).get_trace(codes).nodes["x"]
    torch.testing.assert_close(log_p, site["fn"].log_prob(codes))
