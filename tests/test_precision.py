"""Under autocast the networks run in bfloat16, and densities, KL divergences and samples in float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inference.compare import example_inputs
from inference.estimators import ESTIMATORS, Loss
from inference.options import defaults
from ppl_models import GMVAE, MODELS, PPCA, densities
from ppl_models.base import LatentVariableModel, latents_of
from ppl_models.distributions import BernoulliImage, LogisticMixtureImage, MixtureOfNormals
from ppl_models.nets.heads import loc_log_scale, loc_scale
from ppl_models.nets.pixelcnn import Causal
from ppl_models.nets.precision import full_precision

SHAPE, CLASSES = (1, 8, 8), 10
OTHERS = {"flow": {"kind": "autoregressive"}, "made": {"masks": 3, "layers": 2, "order": "random"}}
CASES = [*((name, {}) for name in MODELS), *OTHERS.items(), ("pixel_vae", {"shape": (3, 8, 8)})]


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


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
    with autocast(), networks(watch.within), pyro.validation_enabled(False):
        for estimator in MODELS[name].estimators:
            particles = min(ESTIMATORS[estimator].particles, 3)
            unweighted = {"beta": 1.0} if particles > 1 and "beta" in MODELS[name].options() else {}
            model = build(name, **options, **unweighted)
            inputs = example_inputs(model, 4)
            with watch:
                assert Loss(model, estimator, particles)(**inputs).dtype == torch.float32
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
    model = build(name, **options).eval()
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
        with autocast(), networks(keep):
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
    """As components sharpen, bfloat16 would cost up to several nats of log p(z)."""
    loc, scale = torch.randn(200, 10), torch.full((200, 10), 0.05)
    z = loc[:50] + 0.05 * torch.randn(50, 10)
    exact = densities.mixture_of_normals(z.double(), loc.double(), scale.double())
    with autocast():
        ours = MixtureOfNormals(loc, scale).log_prob(z)
        by_hand = densities.mixture_of_normals(z, loc, scale)
        half = MixtureOfNormals(loc.bfloat16(), scale).log_prob(z.bfloat16())
    assert (ours - exact).abs().max() < 5e-3
    assert (by_hand - exact).abs().max() < 1e-4
    wide = densities.mixture_of_normals(z.bfloat16().double(), loc.bfloat16().double(), scale.double())
    assert half.dtype == torch.float32 and (half - wide).abs().max() < 5e-3


def test_a_captured_density_is_in_float32_too() -> None:
    model = GMVAE((1, 4, 4), z_dim=3, components=20)
    z = torch.randn(5, 3)

    def log_p(components: Tensor, z: Tensor) -> Tensor:
        return MixtureOfNormals(*loc_scale(components)).log_prob(z)

    def step(components: Tensor, z: Tensor) -> list[Tensor]:
        value = log_p(components, z)
        with full_precision(value):  # autocast would run the products of the gradient in bfloat16, too
            return [value, *torch.autograd.grad(value.sum(), [components, z])]

    given = [model.components, z.requires_grad_()]
    with autocast(), pyro.validation_enabled(False):
        graph = make_fx(step, tracing_mode="fake")(*given)
    assert "bfloat16" not in graph.code and "addmm" in graph.code
    torch.testing.assert_close(graph(*given), step(*given))


def test_ppca_s_sample_is_its_loc_and_its_noise() -> None:
    """z = loc + L e to float32, where e are the normal numbers of the same seed."""
    model = PPCA((1, 4, 4), z_dim=3)
    with torch.no_grad():
        model.raw_tril.normal_()
    x = torch.rand(6, 1, 4, 4)
    with torch.no_grad(), autocast():
        torch.manual_seed(3)
        z = poutine.trace(model.guide).get_trace(x).nodes["z"]["value"]
        loc = model.encoder(x.flatten(1))
        torch.manual_seed(3)
        from_prior = model.prior(6)["z"]
    torch.manual_seed(3)
    noise = torch.randn(6, 3)
    assert loc.dtype == torch.bfloat16 and z.dtype == from_prior.dtype == torch.float32
    torch.testing.assert_close(z, loc.float() + noise @ model.scale_tril.detach().T, rtol=1e-6, atol=1e-6)
    assert torch.equal(from_prior, noise)
    exact = torch.distributions.MultivariateNormal(
        model.decoder.bias.double(),
        model.decoder.weight.double() @ model.decoder.weight.double().T + torch.eye(16, dtype=torch.double),
    )
    with autocast():
        log_p, (mean, _) = model.log_likelihood(x), model.posterior(x)
    torch.testing.assert_close(log_p.double(), exact.log_prob(x.flatten(1).double()))
    torch.testing.assert_close(mean, model.posterior(x)[0])


@pytest.mark.parametrize(("name", "options"), CASES)
def test_latents_and_samples_are_in_float32(name: str, options: dict[str, Any]) -> None:
    model = build(name, **options).eval()
    with autocast():
        latents, images = model.prior(2), model.sample(2)
        for part in model.modules():
            if isinstance(part, Causal) and name != "pixel_vae":  # which takes a condition
                x = torch.zeros(2, *(latents["z"].shape[1:] if latents else model.shape))
                assert next(part.along(x))[1].dtype == torch.float32
    assert {value.dtype for value in [*latents.values(), images]} == {torch.float32}


def test_heads_and_distributions_widen_what_they_are_given() -> None:
    h = torch.randn(5, 8).bfloat16()
    for head in (loc_scale, loc_log_scale):
        for ours, exact in zip(head(h), head(h.double()), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-7)
    logits, x = 4 * torch.randn(5, 16).bfloat16(), torch.rand(5, 1, 4, 4).bernoulli()
    raw, levels = torch.randn(5, 6, 4, 4).bfloat16(), 2 * torch.randint(256, (5, 1, 4, 4)) / 255 - 1
    for make, given, value in (
        (lambda raw: LogisticMixtureImage(raw, 1, 2), raw, levels),
        (lambda logits: BernoulliImage(logits, (1, 4, 4)), logits, x),
    ):
        ours, exact = make(given).log_prob(value), make(given.double()).log_prob(value.double())
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    every = BernoulliImage(logits.unsqueeze(1), (1, 4, 4))  # images under every row of logits: a product
    with torch.no_grad(), autocast():
        ours = every.log_prob(x)
    with torch.no_grad():
        exact = BernoulliImage(logits.double().unsqueeze(1), (1, 4, 4)).log_prob(x.double())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


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
