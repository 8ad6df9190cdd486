"""A block of steps is as many eager steps: the same parameters, averages, noise and skipped steps."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.backend.device import fast_float32
from inference.backend.snapshots import Snapshot
from inference.compiled import compiler
from inference.data.batches import Batches
from inference.data.dataset import Dataset
from inference.data.observations import OBSERVATIONS, binarize
from inference.rundir.config import TrainConfig
from inference.training.callbacks import Callback
from inference.training.comparison import ROUNDINGS, difference, perturb
from inference.training.loop import Loop
from inference.training.program import Program
from inference.training.selection import Selection
from inference.training.setup import prepare_batches
from inference.training.steps import BLOCK_SECONDS
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from ppl_models.code_prior import CodePrior
from tests.ppl_models.test_contract import SHALLOW, SHAPE, build
from tests.support import shortened

pytestmark = pytest.mark.usefixtures("narrow")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of compiled programs."""
    monkeypatch.setenv("PPL_MODELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replays the recorded graph instead of compiling it. Returns the list of graphs' sizes."""
    sizes: list[int] = []

    def replay(graph: Any, given: Any, path: Any) -> Any:
        sizes.append(len(graph.graph.nodes))
        return lambda inputs: graph(*inputs)

    monkeypatch.setattr("inference.training.program.compiled", replay)
    monkeypatch.setattr("inference.training.steps.BLOCK_SECONDS", 100.0)
    return sizes


def data_for(model: LatentVariableModel, images: int = 23, bad: int | None = None) -> Dataset:
    """Random data that a model observes; one data point may be infinite."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (images, *model.shape), dtype=torch.uint8, generator=generator)
    if model.observation == "points":
        x = torch.randn(images, *model.shape, generator=generator)
        if bad is not None:
            x[bad] = torch.inf
    kind = OBSERVATIONS[model.observation].data
    if kind.drawn == "text":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = kind.example(model.shape, images, model.levels)
    if isinstance(model, CodePrior):
        x = (x.int() % model.codes).to(torch.uint8)
    y = torch.arange(images) % 10
    return Dataset("random", x, y, x[:0], y[:0], kind=kind)


class Ended(Callback):
    """Notes where blocks end."""

    def __init__(self) -> None:
        self.at: list[int] = []

    def on_block_end(self, loop: Loop) -> None:
        self.at.append(loop.step)


def train(
    model: LatentVariableModel,
    mode: str,
    say: Callable[[str], None] = pytest.fail,
    bad: int | None = None,
    images: int = 23,
    device: torch.device = CPU,
    **settings: Any,
) -> tuple[Loop, Ended, Tensor]:
    """Trains a model. Returns the loop, where its blocks ended, and the next number of the device's RNG."""
    model = model.to(device)
    cls, ended = type(model), Ended()
    config = TrainConfig(
        compile=mode, **{"steps": 8, "batch_size": 5, "eval_every": 100, **settings}
    ).resolved(cls, model.shape)
    batches, _ = prepare_batches(cls, model.constructor_options, config, data_for(model, images, bad), device)
    torch.manual_seed(1)
    with fast_float32(device):
        made = Loop(model, batches, {}, config, [ended], say=say)
        made.run()
    return made, ended, torch.rand(1, device=device)


def state(made: Loop) -> dict[str, list[Tensor]]:
    """Everything that training changes, by what it is."""
    found = {"parameters": list(made.model.state_dict().values())}
    for name in ("step", "exp_avg", "exp_avg_sq"):
        found[name] = [value[name] for value in made.optimizer.state.values()]
    return found | ({"average": list(made.average.state_dict().values())} if made.average else {})


def apart(a: Loop, b: Loop) -> float:
    """The largest relative difference of parameters, moments or averages, in the Euclidean norm of all."""
    ours, theirs = state(a), state(b)
    assert ours.keys() == theirs.keys()
    found = []
    for key in ours:
        differences = [(x.double() - y.double()).norm() for x, y in zip(ours[key], theirs[key], strict=True)]
        size = torch.stack([value.double().norm() for value in theirs[key]]).norm()
        found.append((torch.stack(differences).norm() / size).item())
    return max(found)


@pytest.mark.parametrize("name", shortened(MODELS, ["vae", "ssvae", "vae2d"]))
def test_a_block_is_as_many_eager_steps(name: str, float64: None, replayed: list[int]) -> None:
    """To rounding. The gradient of a bias before batch norm is nothing but rounding, and Adam enlarges it.

    For a model with such a bias, eager steps from parameters that differ in the last bits show by how much.
    """
    settings: dict[str, Any] = {"ema": 0.9, "clip": 1.0, "schedule": "cosine", "lr_warmup": 3}
    settings |= {"kl_warmup": 6} if MODELS[name].has_kl_weight else {}

    def trained(mode: str, change: Callable[[list[Tensor]], None] = lambda parameters: None) -> Any:
        torch.manual_seed(0)
        model = build(name, **SHALLOW.get(name, {}))
        change([p.data for p in model.parameters()])
        return train(model, mode, **settings)

    eager, _, noise = trained("eager")
    whole, ended, same_noise = trained("inductor")
    rounded = trained("eager", perturb)[0] if name == "regularized_ssvae" else eager
    assert apart(whole, eager) < max(1e-12, ROUNDINGS * apart(rounded, eager))
    assert torch.equal(noise, same_noise)
    assert replayed and whole.steps.program is not None
    # the first step, a block, the smaller last batch of the epoch, a block, and the logged step
    assert ended.at == [1, 4, 5, 7, 8]


SETTINGS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.3, "lr": 0.01},
    "adamw with an average": {"optimizer": "adamw", "weight_decay": 0.3, "ema": 0.5, "clip": 0.1},
    "plateau": {"schedule": "plateau", "eval_every": 2, "steps": 12},
    "adamw on a plateau": {"schedule": "plateau", "eval_every": 2, "steps": 12, "optimizer": "adamw"},
}


@pytest.mark.parametrize("case", shortened(SETTINGS, ["adamw with an average", "adamw on a plateau"]))
def test_a_block_follows_the_optimizer_and_the_plateau(
    case: str, float64: None, replayed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, update = SETTINGS[case], Selection.update

    def constant(self: Selection, step: int, metrics: Any, model: Any) -> None:
        update(self, step, {"validation": {"negative_elbo": 1.0}}, model)

    monkeypatch.setattr(Selection, "update", constant)
    made = {}
    for mode, given in (
        ("eager", settings),
        ("inductor", settings),
        ("usual", {"steps": settings.get("steps", 8)}),
    ):
        torch.manual_seed(0)
        made[mode] = train(build("vae"), mode if mode != "usual" else "eager", **given)[0]
    assert made["inductor"].steps.program is not None
    assert apart(made["inductor"], made["eager"]) < 1e-12
    eager, usual = (
        torch.cat([p.flatten() for p in made[mode].model.parameters()]) for mode in ("eager", "usual")
    )
    assert (eager - usual).norm() > 1e-4 * usual.norm()
    # evaluations at 0, 2, 4, ...: halved at 4, 8 and 12
    assert made["inductor"].steps.lr_factor == (1 / 8 if "schedule" in settings else 1)


@pytest.mark.parametrize("mode", shortened(["eager", "graph"], ["eager"]))
def test_accumulated_batches_are_as_one_batch(mode: str, float64: None) -> None:
    """For a model without noise. Each third step starts an epoch, in which a batch of 15 is three of 5."""
    made = []
    for settings in ({"batch_size": 15, "compile": "eager"}, {"batch_size": 5, "accumulate": 3}):
        torch.manual_seed(0)
        settings = {"compile": mode, "ema": 0.9, "clip": 0.01, "optimizer": "adamw", **settings}
        made.append(train(build("flow"), settings.pop("compile"), images=45, **settings)[0])
    assert apart(*made) < 1e-12
    torch.manual_seed(0)
    assert apart(train(build("flow"), "eager", images=45, ema=0.9)[0], made[0]) > 1e-3


def test_accumulated_batches_are_compiled_one_by_one(float64: None, replayed: list[int]) -> None:
    """The gradients of a batch are one program, and the update is another."""
    made = []
    settings = {"accumulate": 3, "ema": 0.9, "clip": 1.0, "kl_warmup": 6}
    for mode in ("eager", "inductor"):
        torch.manual_seed(0)
        made.append(train(build("vae"), mode, images=47, steps=9, **settings))
    assert len(replayed) == 2 and made[1][0].steps.program is not None
    assert apart(made[1][0], made[0][0]) < 1e-12
    assert torch.equal(made[0][2], made[1][2])
    # the first step, a block, a step with the smaller last batch of the epoch, a block, and the logged step
    assert made[1][1].at == [1, 3, 4, 6, 7, 8, 9]


def test_a_step_with_one_batch_that_is_not_finite_is_skipped(float64: None) -> None:
    said: list[str] = []
    made = train(build("vae2d"), "eager", said.append, 28, images=45, accumulate=3, steps=9)[0]
    assert made.skipped == 3 and len(said) == 1  # one batch of nine is bad, in each of three epochs
    assert all(p.isfinite().all() for p in made.model.parameters())
    counts = {value["step"].item() for value in made.optimizer.state.values()}
    assert counts == {6.0}


def test_what_the_settings_do_is_in_the_program(float64: None, replayed: list[int]) -> None:
    """The comparison above would not see settings that neither of the two follows."""
    found = {}
    for key, value in {"none": None, "clip": 1e-3, "ema": 0.5, "kl_warmup": 2, "lr_warmup": 2}.items():
        torch.manual_seed(0)
        found[key] = train(build("vae"), "inductor", **({} if value is None else {key: value}))[0]
    parameters = {
        key: torch.cat([p.flatten() for p in made.model.parameters()]) for key, made in found.items()
    }
    for key in ("clip", "kl_warmup", "lr_warmup"):
        assert (parameters[key] - parameters["none"]).norm() > 1e-4 * parameters["none"].norm()
    assert torch.equal(parameters["ema"], parameters["none"])
    average = torch.cat([p.flatten() for p in found["ema"].evaluated_model.parameters()])
    assert 1e-6 < (average - parameters["ema"]).norm() < (parameters["ema"]).norm()


@pytest.mark.parametrize("bad", shortened([2, 7], [7]))
def test_a_step_that_is_not_finite_is_skipped_in_a_block_as_outside(
    bad: int, float64: None, replayed: list[int]
) -> None:
    said: dict[str, list[str]] = {"eager": [], "inductor": []}
    made = {}
    for mode, lines in said.items():
        torch.manual_seed(0)
        made[mode] = train(build("vae2d"), mode, lines.append, bad, steps=18)
    assert made["eager"][0].skipped == made["inductor"][0].skipped > 2
    assert apart(made["inductor"][0], made["eager"][0]) < 1e-12
    assert torch.equal(made["inductor"][2], made["eager"][2])
    assert said["eager"] == said["inductor"] and len(said["eager"]) == 1


def test_a_skipped_step_leaves_batch_norm_as_it_was(
    float64: None, replayed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    select = Batches.select

    def poisoned(self: Batches, index: Tensor, x: Tensor, *others: Tensor) -> dict[str, Tensor]:
        batch = select(self, index, x, *others)
        return {**batch, "x": batch["x"] * torch.where((index == 2).any(), torch.nan, 1.0)}

    monkeypatch.setattr(Batches, "select", poisoned)
    found = {}
    for mode in ("eager", "inductor"):
        torch.manual_seed(0)
        found[mode] = train(build("ae"), mode, lambda line: None)[0]
    assert found["eager"].skipped == found["inductor"].skipped > 0
    assert all(buffer.isfinite().all() for buffer in found["eager"].model.buffers())
    assert apart(found["inductor"], found["eager"]) < 1e-12


def test_ten_steps_that_are_not_finite_end_training(
    float64: None, replayed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.errors import TrainingDiverged

    select = Batches.select

    def poisoned(self: Batches, index: Tensor, x: Tensor, *others: Tensor) -> dict[str, Tensor]:
        batch = select(self, index, x, *others)
        return {**batch, "x": batch["x"] * torch.where(x.sum() > 1e5, torch.nan, 1.0)}

    monkeypatch.setattr(Batches, "select", poisoned)

    class Poison(Callback):
        def on_block_end(self, loop: Loop) -> None:
            if loop.step >= 7:
                loop.batches.x.fill_(255)

    model = build("vae")
    config = TrainConfig(compile="inductor", steps=60, batch_size=5, eval_every=100).resolved(
        type(model), model.shape
    )
    batches, _ = prepare_batches(type(model), model.constructor_options, config, data_for(model), CPU)
    batches.x.zero_()
    batches.x = batches.x.repeat(12, 1, 1, 1)[:23].contiguous()
    training = Loop(model, batches, {}, config, [Poison()], say=lambda line: None)
    with pytest.raises(TrainingDiverged, match="10 consecutive steps"):
        training.run()
    assert training.skipped == 10


def test_a_program_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch, float64: None) -> None:
    said: list[str] = []

    def wrong(graph: Any, given: list[Tensor], path: Any) -> Any:
        def run(inputs: list[Tensor]) -> Any:
            inputs[-2] = inputs[-2] * torch.tensor([1, 1, 1, 1.5, 1])  # the step size
            return graph(*inputs)

        return run

    monkeypatch.setattr("inference.training.program.compiled", wrong)
    torch.manual_seed(0)
    tried, _, noise = train(build("vae"), "inductor", said.append)
    torch.manual_seed(0)
    eager, _, same_noise = train(build("vae"), "eager")
    assert len(said) == 1 and said[0].startswith(
        "--compile inductor cannot be used, steps are eager: its updates differ from the eager step's by"
    )
    assert tried.steps.program is None and apart(tried, eager) == 0 and torch.equal(noise, same_noise)


def test_a_difference_is_compared_with_that_of_perturbed_parameters() -> None:
    """A gradient's tolerance is 1e-3. 2e-3 is rounding if a perturbation changes the eager step as much."""

    def gradients(value: float) -> Snapshot:
        return Snapshot([torch.tensor([1.0, value])])

    def parts(values: list[Tensor]) -> dict[str, list[Tensor]]:
        others = {key: list[Tensor]() for key in ("buffers", "exp_avg_sqs", "parameters", "averages")}
        return {**others, "exp_avgs": values, "total": [torch.zeros(())]}

    program = SimpleNamespace(state=gradients(2e-3).copies, parts=parts)
    compare = partial(difference, program, torch.zeros(()), gradients(0), gradients(0), dtype=torch.float32)
    refused = "its gradients differ from the eager step's by 2.0e-03 of 1.0e+00"
    assert compare(rounded=None) == refused
    assert compare(rounded=gradients(1e-4)) == refused
    assert compare(rounded=gradients(1e-3)) == ""


def test_a_perturbation_changes_the_last_bits() -> None:
    before, random = torch.randn(1000), torch.get_rng_state()
    value = before.clone()
    perturb([value])
    relative = ((value - before) / before).abs()
    assert 4e-7 < relative.mean() < 2e-6 and torch.equal(torch.get_rng_state(), random)


def test_a_compiler_that_fails_leaves_eager_steps(monkeypatch: pytest.MonkeyPatch, float64: None) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr("inference.training.program.compiled", broken)
    said: list[str] = []
    torch.manual_seed(0)
    tried = train(build("vae"), "inductor", said.append)[0]
    torch.manual_seed(0)
    assert apart(tried, train(build("vae"), "eager")[0]) == 0
    assert said == ["--compile inductor cannot be used, steps are eager: RuntimeError: no compiler"]


@pytest.mark.full
@needs_compiler
def test_a_compiled_block_is_as_many_eager_steps(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, over 100 steps; the program is then loaded from the cache, unless the file is damaged."""
    found = {}
    for mode in ("eager", "inductor"):
        torch.manual_seed(0)
        found[mode], _, noise = train(MODELS["vae"](SHAPE, z_dim=3, hidden=16), mode, steps=100)
        found[f"noise {mode}"] = noise
    assert apart(found["inductor"], found["eager"]) < 1e-6
    assert torch.equal(found["noise inductor"], found["noise eager"])
    (file,) = own_cache.iterdir()

    def not_needed(*_: Any) -> None:
        raise RuntimeError("not from the cache")

    def again() -> tuple[float, list[str]]:
        torch.manual_seed(0)
        said: list[str] = []
        made = train(MODELS["vae"](SHAPE, z_dim=3, hidden=16), "inductor", said.append, steps=100)[0]
        return apart(made, found["inductor"]), said

    monkeypatch.setattr("inference.training.program.compiled", not_needed)
    assert again() == (0.0, [])
    content = file.read_bytes()
    file.write_bytes(content[:1000] + b"damage" + content[1006:])
    assert again()[1] == [
        "--compile inductor cannot be used, steps are eager: RuntimeError: not from the cache"
    ]


def test_a_program_of_the_cache_that_is_another_one_is_compiled_again(
    replayed: list[int], monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    monkeypatch.setattr("inference.training.program.cached_program", lambda path: lambda inputs: [])
    made = train(build("vae"), "inductor")[0]
    assert len(replayed) == 1 and made.steps.program is not None


def test_the_key_of_the_cache_follows_settings_and_model() -> None:
    def key(model: LatentVariableModel, **settings: Any) -> str:
        config = TrainConfig(compile="inductor", batch_size=5, steps=9, **settings)
        config = config.resolved(type(model), model.shape)
        batches, _ = prepare_batches(type(model), model.constructor_options, config, data_for(model), CPU)
        program = Loop(model, batches, {}, config).steps.program
        assert isinstance(program, Program)
        program.prepare(list(model.parameters()), 0)
        return str(compiler.cache_path(program._key(program.compiled_parts(0)[0])))

    def vae(**options: Any) -> LatentVariableModel:
        torch.manual_seed(0)
        return MODELS["vae"](SHAPE, **{"z_dim": 3, "hidden": 16, **options})

    changed = vae()
    changed.extra = 2.0  # type: ignore[assignment]
    keys = [
        key(vae()),
        key(vae(beta=2.0)),
        key(vae(hidden=17)),
        key(vae(), clip=1.0),
        key(vae(), ema=0.9),
        key(vae(), kl_warmup=3),
        key(vae(), elbo="trace"),
        key(vae(), precision="bfloat16"),
        key(vae(), optimizer="adamw"),
        key(vae(), accumulate=2),
        key(changed),
    ]
    assert len(set(keys)) == len(keys)
    assert key(vae()) == keys[0] == key(vae(), lr=1e-4) == key(vae(), seed=3)


def test_the_loop_returns_to_python_for_what_it_has_to_do(float64: None) -> None:
    training, _, _ = train(build("vae"), "eager", steps=3)
    training.config = TrainConfig(steps=1000, eval_every=70)
    for step, count in {1: 69, 69: 1, 70: 29, 99: 1, 100: 40, 998: 1, 999: 1}.items():
        training.step = step
        assert training._until_attention() == count
    training.step, training.every_step = 1, True
    assert training._until_attention() == 1


def test_a_block_is_as_long_as_a_signal_may_wait(float64: None, replayed: list[int]) -> None:
    training, _, _ = train(build("vae"), "inductor", steps=8, images=300)
    assert BLOCK_SECONDS < 1 and training.steps.program is not None
    for seconds, steps in {100 / 3.5: 3, 1000.0: 1}.items():
        training.steps.program.seconds_per_step = seconds
        assert training.steps.make(1, 50, False).steps == steps


def test_random_bits_follow_the_levels() -> None:
    """Level x is 1 with probability x / 255; 0 and 255 are certain; pixels are independent."""
    levels = torch.tensor([0, 1, 51, 128, 254, 255], dtype=torch.uint8)
    n = 400_000
    sample = binarize(levels.expand(n, 6))
    assert not sample[:, 0].any() and sample[:, 5].all()
    p = levels.double() / 255
    error = (p * (1 - p) / n).sqrt() + 1e-12
    assert ((sample.double().mean(0) - p).abs() < 4 * error + 1 / 65536).all()
    correlations = np.corrcoef(sample[:, 1:5].T.numpy())
    assert np.abs(correlations - np.eye(4)).max() < 4 / n**0.5
    along = sample[:, 3].numpy()
    assert abs(np.corrcoef(along[1:], along[:-1])[0, 1]) < 4 / n**0.5
    assert binarize(torch.full((3, 1, 5), 255, dtype=torch.uint8)).shape == (3, 1, 5)
