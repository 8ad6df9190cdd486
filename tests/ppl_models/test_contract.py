"""The contract that every registered model keeps."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, get_args, get_origin

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch.distributions import Distribution
from torch.testing import assert_close

from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.data.labelled import choose_labelled
from inference.data.load import find_dataset
from inference.data.observations import CODES, IMAGES, OBSERVATIONS, POINTS
from inference.elbo.comparison import compare
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.rundir.config import TrainConfig, defaults
from inference.training import loop, steps
from inference.training.gradients import Gradients
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from ppl_models.programs import latents_of, sample_latents
from tests.support import shortened

pytestmark = pytest.mark.usefixtures("narrow")
SHAPE, CLASSES = (1, 8, 8), 10
PAIRS = [(name, estimator) for name, cls in MODELS.items() for estimator in cls.estimators]
# Each model with its first estimator, and the models without convolutions, which are fast, with all of them.
CONVOLUTIONAL = {"conv_vae", "beta_vae", "hvae", "gated_vae", "af_vae", "pixel_vae"}
FEW_PAIRS = [
    pair for pair in PAIRS if pair[0] not in CONVOLUTIONAL or pair[1] == MODELS[pair[0]].estimators[0]
]
# For steps: the estimators, and the models with more than parameters and noise: a label that is summed over,
# batch norm, a codebook. The others repeat this in .ci/full.
STEPS = [("vae", "mean_field"), ("vae", "iwae"), ("vae", "iwae_dreg"), ("ssvae", "enum"), ("ae", "trace")]
STEPS += [("vqvae", "trace")]


def options_for(name: str, estimator: str) -> dict[str, float]:
    """The importance-weighted bounds require beta = 1."""
    return {"beta": 1.0} if ESTIMATORS[estimator].particles > 1 and "beta" in MODELS[name].options() else {}


# Narrow networks: none of the identities depends on the width.
NARROW: dict[str, dict[str, float]] = {
    "gated_vae": {"z_channels": 4},
    "af_vae": {"z_channels": 4},
    "pixel_vae": {"z_dim": 8, "width": 16},
    "vqvae": {"codes": 32},
    "code_pixelcnn": {"codes": 32, "width": 32},
    "code_transformer": {"codes": 32, "width": 32},
    "seq_vae": {"z_dim": 4, "embedding": 8, "hidden": 16},
}
# And shallow ones, for tests of steps: a captured step has no loops, so that every layer makes it longer.
SHALLOW: dict[str, dict[str, float]] = {
    "af_vae": {"flows": 1},
    "code_transformer": {"layers": 1},
    "flow": {"layers": 2},
}


def build(name: str, **options: float) -> LatentVariableModel:
    """The model as it is made for small images, with narrow networks."""
    cls = MODELS[name]
    settings = defaults(cls, SHAPE) | NARROW.get(name, {}) | options
    return cls(cls.padded(SHAPE), CLASSES, **{option: settings[option] for option in cls.options()})


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> LatentVariableModel:
    return build(request.param).eval()  # batch norm takes an image for itself, not for one of a batch


def slow(model: LatentVariableModel) -> bool:
    """Whether a step takes long: convolutions and attention do."""
    return any(isinstance(part, torch.nn.Conv2d | torch.nn.Embedding) for part in model.modules())


@cache
def trained(name: str) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a model after a short training in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(name)
        loss, inputs = Loss(model, model.estimators[0]), example_inputs(model, 3 if slow(model) else 20)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(3 if slow(model) else 30):
            optimizer.zero_grad()
            loss(**inputs).backward()
            optimizer.step()
        return model.state_dict()


@pytest.mark.parametrize("state", shortened(["initial", "trained"], ["trained"]))
@pytest.mark.parametrize("pair", shortened(PAIRS, FEW_PAIRS), ids="-".join)
def test_by_hand_equals_pyro(pair: tuple[str, str], state: str, float64: None) -> None:
    """For one image and for several, with Pyro's validation and without it."""
    name, estimator = pair
    model = build(name, **options_for(name, estimator))
    if state == "trained":
        model.load_state_dict(trained(name))
    for batch in (1, 3):
        model.train(batch > 1)  # batch norm needs two
        inputs = example_inputs(model, batch)
        for validated in (True, False):
            with pyro.validation_enabled(validated):
                result = compare(model, inputs, estimator)
            where = f"{batch} images, validated: {validated}\n{result}"
            assert result["value_difference"] <= 1e-9, where
            assert result["gradient_difference"] <= 1e-7, where
            assert result["agrees"], where


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("name", [name for name, cls in MODELS.items() if "beta" in cls.options()])
def test_by_hand_equals_pyro_at_every_beta(name: str, beta: float, float64: None) -> None:
    model = build(name, beta=beta)
    assert compare(model, example_inputs(model, 5), model.estimators[0])["agrees"]


def test_bound_is_independent(model: LatentVariableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = example_inputs(model, 5)
    latents = sample_latents(model, **inputs)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the bound leant on a distribution")

    classes = [Distribution]
    for cls in classes:
        classes += cls.__subclasses__()
        for method in ("log_prob", "entropy", "sample", "rsample"):
            if method in vars(cls):
                monkeypatch.setattr(cls, method, refuse)
    for module in (torch.distributions, torch.distributions.kl, pyro.distributions):
        monkeypatch.setattr(module, "kl_divergence", refuse, raising=False)
    monkeypatch.setattr(pyro, "sample", refuse)
    with pytest.raises(AssertionError, match="leant"):
        model.model(**inputs)
    for kl in ("closed", "sampled"):
        assert model.bound(**inputs, latents=latents, kl=kl).objective.isfinite()


def test_terms_are_one_number_an_image(model: LatentVariableModel) -> None:
    inputs = example_inputs(model, 5)
    latents = sample_latents(model, **inputs)
    bound = model.bound(**inputs, latents=latents)
    assert {name: term.shape for name, term in bound.terms.items()} == dict.fromkeys(bound.terms, (5,))
    assert all(penalty.shape == () for penalty in bound.penalties.values())
    if bound.kl is None:
        assert list(bound.terms) == ["reconstruction"]
    if not latents:  # the likelihood itself
        assert_close(bound.negative_elbo, -model.log_likelihood(inputs["x"]))
        return
    if bound.negative_elbo is None:
        with pytest.raises(ValueError, match="do not bound log p"):
            _ = bound.importance_weighted
        return
    assert_close(bound.negative_elbo, bound.terms["reconstruction"] + bound.kl)
    if "mean_field" in model.estimators or "enum" in model.estimators:
        assert (bound.kl > 0).all()  # in closed form a KL term cannot be negative


def test_particles_are_bounds_of_their_own(model: LatentVariableModel, float64: None) -> None:
    """Latents in the shapes that Pyro gives them under a plate of particles: one bound a particle."""
    model = model.double()
    inputs = example_inputs(model, 4)
    plate = pyro.plate("particles", 3, dim=-2)
    with torch.no_grad(), poutine.trace() as tracer, poutine.enum(first_available_dim=-3), plate:
        model.guide(**inputs)
    latents = latents_of(tracer.trace)
    if not latents:
        return
    events = {name: tracer.trace.nodes[name]["fn"].event_dim for name in latents}
    for kl in ("closed", "sampled"):
        bound = model.bound(**inputs, latents=latents, kl=kl)
        assert {name: term.shape for name, term in bound.terms.items()} == dict.fromkeys(bound.terms, (3, 4))
        assert {name: aside.shape for name, aside in bound.metrics.items()} == dict.fromkeys(
            bound.metrics, (3, 4)
        )
        for k in range(3):  # an enumerated latent has one value for all particles
            one = {}
            for name, z in latents.items():
                particles = z.dim() - events[name] - 2
                one[name] = z.select(particles, min(k, z.shape[particles] - 1))
            for name, term in model.bound(**inputs, latents=one, kl=kl).terms.items():
                assert_close(bound.terms[name][k], term)


def test_permuting_the_batch_permutes_the_terms(model: LatentVariableModel, float64: None) -> None:
    model = model.double()
    inputs, order = example_inputs(model, 6), torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad(), poutine.trace() as tracer, poutine.enum(first_available_dim=-2):
        model.guide(**inputs)
    latents, shuffled = latents_of(tracer.trace), {}
    bound = model.bound(**inputs, latents=latents)
    for name, z in latents.items():
        batch = z.dim() - tracer.trace.nodes[name]["fn"].event_dim - 1
        # an enumerated latent has one value for all images; one of the labelled images keeps its order
        shuffled[name] = z.index_select(batch, order) if z.shape[batch] == len(order) else z
    inputs |= {name: inputs[name][order] for name in ("x", "y") if name in inputs}
    for name, term in model.bound(**inputs, latents=shuffled).terms.items():
        assert_close(term, bound.terms[name][order])


def test_every_parameter_learns(model: LatentVariableModel) -> None:
    Loss(model, model.estimators[0])(**example_inputs(model, 5)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def cancelled(model: torch.nn.Module) -> set[str]:
    """The biases that a batch norm takes off again: their gradient is rounding, which Adam makes steps of."""
    names, before = set(), ""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            names.add(f"{before}.bias")
        elif list(module.parameters(recurse=False)):
            before = name
    return names


def numbers(gradients: Gradients, objective: torch.Tensor) -> list[torch.Tensor]:
    """The objective of a step, the gradient of every parameter, and the buffers after the step."""
    every = [torch.zeros_like(p) if p.grad is None else p.grad for p in gradients.loss.parameters()]
    return [objective, *every, *gradients.loss.buffers()]


class BesideThePlainStep(Gradients):
    """Compares each step with the plain one, from the same parameters, buffers and noise."""

    made: list["BesideThePlainStep"] = []

    def __init__(self, loss: Loss, mode: str, images: int, precision: Callable, say: Callable):
        super().__init__(loss, mode, images, precision, say=pytest.fail)
        self.objectives: list[float] = []
        self.made.append(self)

    def __call__(
        self, batch: dict[str, torch.Tensor], check: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plain, noise = Gradients(copy.deepcopy(self.loss)), torch.get_rng_state()
        expected = numbers(plain, plain(batch)[0])
        torch.set_rng_state(noise)
        objective, good = super().__call__(batch, check)
        for a, b in zip(numbers(self, objective), expected, strict=True):
            assert_close(a, b, rtol=1e-9, atol=1e-9)
        self.objectives.append(objective.item())
        return objective, good


@pytest.mark.parametrize("pair", shortened(PAIRS, STEPS), ids="-".join)
def test_steps_of_fit_are_steps_of_svi(
    pair: tuple[str, str], tmp_path: Path, float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step, the one that is captured, and two that are replayed with other images and noise."""
    name, estimator = pair
    cls, device = MODELS[name], torch.device("cpu")
    kind = OBSERVATIONS[cls.observation].data
    data, _ = find_dataset("smiley" if kind is POINTS else "digits", tmp_path)
    if kind not in (POINTS, IMAGES, CODES):  # such as sequences
        model = build(name)
        x, y = kind.example(model.shape, 100, model.levels), torch.arange(100) % 10
        data = Dataset("random", x, y, x[:2], y[:2], kind=kind)
    data = replace(data, x_test=data.x_test[:2], y_test=data.y_test[:2]).padded(cls)
    if cls.observation == "codes":  # as many as the narrow model has
        data = replace(data, x_train=data.x_train % 32, x_test=data.x_test % 32)
    labels = choose_labelled(data, 20 if data.classes == 10 else 3, seed=0)
    batches = Batches(data, cls, 3 if slow(build(name)) else 31, 0, labels, device)
    same = TrainConfig(schedule="constant", lr_warmup=0, kl_warmup=0, clip=0, ema=0)  # as `pyro.infer.SVI`
    config = replace(same, elbo=estimator, steps=4, eval_every=1, compile="graph")
    config = replace(config, particles=2 if "iwae" in estimator else 1).resolved(cls, data.shape)

    options = options_for(name, estimator) | SHALLOW.get(name, {})
    ours, theirs = build(name, **options), build(name, **options)
    theirs.load_state_dict(ours.state_dict())
    monkeypatch.setattr(steps, "Gradients", BesideThePlainStep)
    monkeypatch.setattr(BesideThePlainStep, "made", [])
    pyro.set_rng_seed(1)
    loop.Loop(ours, batches, {"test": HeldOut(data, cls, device)}, config).run()
    (gradients,) = BesideThePlainStep.made
    assert gradients.mode == "graph" and gradients.replay is not None
    assert len(set(gradients.objectives)) == 4
    assert not list(pyro.get_param_store())  # nothing is kept in global state

    def registered(program):  # the parameters in Pyro's store, and the sum over the plate as a mean
        def run(**inputs: torch.Tensor) -> None:
            pyro.module("model", theirs)
            with poutine.scale(scale=1 / len(inputs["x"])):
                program(**inputs)

        return run

    optimizer = pyro.optim.Adam({"lr": config.lr})
    elbo = ESTIMATORS[estimator].elbo(config.particles)
    svi = SVI(registered(theirs.model), registered(theirs.guide), optimizer, elbo)
    pyro.set_rng_seed(1)
    for step in range(4):
        svi.step(**batches(step))
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if key in cancelled(ours):
            continue
        # Adam divides a gradient by its size plus 1e-8. A gradient near zero has a rounding error of 1e-16.
        # So its parameter moves by up to 1e-8 of the learning rate, 1e-3, in each of the four steps.
        assert_close(a, b, rtol=1e-9, atol=1e-10, msg=f"{key} differs")


def test_images_come_out_as_they_went_in(model: LatentVariableModel) -> None:
    inputs = example_inputs(model, 5)
    x, given = inputs["x"], inputs.get("y")
    if not model.prior(1):
        assert model.sample(4).shape == (4, *model.shape) and model.encode(x) == {}
        assert model.sample(4, noise=False).shape == (4, *model.shape)
        return
    assert model.reconstruct(x, given).shape == x.shape
    assert {name: len(z) for name, z in model.encode(x, given).items()} == dict.fromkeys(model.prior(3), 5)
    draws, means = model.sample(4), model.sample(4, noise=False)
    assert draws.shape == means.shape == (4, *model.shape)
    if model.observation == "binary" and model.has_mean:
        assert set(draws.unique().tolist()) <= {0.0, 1.0}
        assert means.min() > 0 and means.max() < 1
    latents, y = model.prior(4), None if given is None else given[:4]
    seen = []
    for way in (model.decode, partial(model.sample, 4, noise=False)):
        torch.manual_seed(1)  # what has no mean image is drawn
        seen.append(way(latents=latents, y=y))
    assert_close(*seen)
    if not model.has_label:
        with pytest.raises(ValueError, match="no label"):
            model.sample(4, y=torch.arange(4))


def test_draws_follow_their_means(model: LatentVariableModel) -> None:
    if not model.prior(1) or not model.has_mean:
        return  # an autoregressive p(x) has no mean image
    n = 400 if slow(model) else 4000
    latents = {name: z.expand(n, *z.shape[1:]) for name, z in model.prior(1).items()}
    y = torch.ones(n, dtype=torch.long) if "y" in model.inputs else None
    draws = model.sample(n, y, latents)
    error = 5.5 * draws.std(0).max().item() / n**0.5
    assert_close(draws.mean(0), model.decode(latents, y)[0], rtol=0, atol=error)


def test_saving_and_loading_round_trips(model: LatentVariableModel, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = build(next(name for name, cls in MODELS.items() if cls is type(model))).eval()
    inputs = {name: value for name, value in example_inputs(model, 3).items() if name in ("x", "y")}

    def said(model: LatentVariableModel) -> torch.Tensor:
        torch.manual_seed(1)
        return model.reconstruct(**inputs) if model.prior(1) else model.log_likelihood(**inputs)

    assert not torch.equal(said(other), said(model))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(said(other), said(model))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_knows_its_data(name: str) -> None:
    cls = MODELS[name]
    shape, classes = cls.padded(SHAPE), inspect.signature(cls).parameters["classes"].default
    assert (cls(shape, 7).shape, cls(shape, 7).classes) == (shape, 7)
    assert classes in (0, inspect.Parameter.empty)  # images without labels have none
    if classes == 0:
        assert cls(shape).classes == 0


def test_options_are_explained(model: LatentVariableModel) -> None:
    for name, option in model.options().items():
        assert option.default is not inspect.Parameter.empty, name
        kind, meaning = option.annotation.__origin__, option.annotation.__metadata__[0]
        if get_origin(kind) is Literal:
            assert option.default in get_args(kind) and isinstance(meaning, str)
        else:
            assert isinstance(option.default, kind) and isinstance(meaning, str)
    known = {spec.name for spec in fields(TrainConfig)} | set(model.options()) | {"validation"}
    assert {*model.defaults, *model.small_image_defaults} <= known
