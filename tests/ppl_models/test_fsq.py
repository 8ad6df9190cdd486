"""Finite scalar quantization: the grid, its gradient, the bound, and both stages of training on its codes."""

import copy
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.testing import assert_close

import inference.evaluate
from inference import interpolate, load, sample, svi
from inference.data.examples import example_inputs
from inference.elbo.comparison import compare
from inference.elbo.estimators import Loss
from inference.errors import UserError
from inference.rundir.config import check_options
from inference.rundir.restore import restore
from inference.training.gradients import Gradients
from ppl_models import VQVAE
from ppl_models.distributions import UniformCodes
from ppl_models.nets.codebook import Codebook
from ppl_models.nets.fsq import FSQ, LEVELS, Squash, levels_for
from ppl_models.programs import sample_latents
from tests.ppl_models.test_contract import (  # noqa: F401  (the contract, for the fixture `model` below)
    build,
    test_bound_is_independent,
    test_every_parameter_learns,
    test_images_come_out_as_they_went_in,
    test_particles_are_bounds_of_their_own,
    test_permuting_the_batch_permutes_the_terms,
    test_terms_are_one_number_an_image,
)
from tests.ppl_models.test_plain_svi import untrained
from tests.ppl_models.test_saving import (  # noqa: F401
    test_the_posterior_is_that_of_the_guide,
    test_what_a_class_declares_holds,
)
from tests.support import checkpoint, narrowed, same

pytestmark = pytest.mark.usefixtures("narrow")
FSQ_OF_15 = ["--model", "vqvae", "--quantizer", "fsq", "--codes", "16", "--batch-size", "8"]
GRIDS = [*LEVELS, (3, 5, 4), (4, 7)]  # also levels that no number of codes gives


@pytest.fixture
def model() -> VQVAE:
    """The smallest grid, 5 x 3 levels. The last convolution is scaled, so that the codes differ."""
    model = build("vqvae", quantizer="fsq").eval()
    with torch.no_grad():
        model.encoder[-3].weight.mul_(7)
    return model


def unsquashed(model: VQVAE, x: torch.Tensor) -> torch.Tensor:
    """What the encoder squashes, (batch, d, height, width)."""
    return nn.Sequential(*list(model.encoder)[:-1])(x)


def by_numpy(h: NDArray, levels: tuple[int, ...]) -> tuple[NDArray, NDArray, NDArray]:
    """The formulas of the paper, with artanh: squashed values and entries (n, d), and their indices (n,)."""
    squashed, rounded, index, stride = [], [], np.zeros(len(h), dtype=int), 1
    for column, count in zip(h.T, levels, strict=True):
        reach, offset = (count - 1) * 0.999 / 2, 0.0 if count % 2 else 0.5
        value = np.tanh(column + np.arctanh(offset / reach)) * reach - offset
        index, stride = index + stride * (np.rint(value).astype(int) + count // 2), stride * count
        squashed.append(value / (count // 2))
        rounded.append(np.rint(value) / (count // 2))
    return np.stack(squashed, 1), np.stack(rounded, 1), index


def maps(vectors: NDArray) -> torch.Tensor:
    """Vectors (n, d) as maps (n, d, 1, 1)."""
    return torch.from_numpy(vectors)[:, :, None, None]


@pytest.mark.parametrize("levels", GRIDS, ids=str)
def test_the_quantizer_is_that_of_the_paper(levels: tuple[int, ...], float64: None) -> None:
    h = 2 * np.random.RandomState(0).randn(500, len(levels))
    squashed, rounded, index = by_numpy(h, levels)
    grid, e = FSQ(levels), Squash(levels)(maps(h))
    assert_close(e, maps(squashed), rtol=0, atol=1e-14)
    assert_close(grid(e), maps(rounded), rtol=0, atol=1e-14)
    assert np.array_equal(grid.nearest(e).flatten().numpy(), index)
    tan = np.tan(0.5 / (7 * 0.999 / 2)) - np.arctanh(0.5 / (7 * 0.999 / 2))  # of 8 levels
    assert abs(tan) < 3e-5


@pytest.mark.parametrize("levels", GRIDS, ids=str)
def test_codes_and_vectors_are_in_bijection(levels: tuple[int, ...]) -> None:
    """Every index has its entry, and every point of the product of the levels has its index."""
    grid, codes = FSQ(levels), math.prod(levels)
    index = torch.arange(codes).view(-1, 1, 1)
    assert torch.equal(grid.nearest(grid.lookup(index)), index)
    scales = [[(k - count // 2) / (count // 2) for k in range(count)] for count in levels]
    points = {tuple(np.float32(point)) for point in itertools.product(*scales)}
    assert {tuple(entry.numpy()) for entry in grid.entries} == points and len(grid.entries) == codes
    assert grid.entries.abs().max() == 1 and (grid.entries == 0).all(1).sum() == 1


@pytest.mark.parametrize("levels", GRIDS, ids=str)
def test_rounding_finds_the_nearest_entry(levels: tuple[int, ...], float64: None) -> None:
    """Of any vector, also outside of the grid: the choice of a codebook with the same entries."""
    grid = FSQ(levels)
    book = Codebook(len(grid.entries), len(levels)).double()
    with torch.no_grad():
        book.entries.copy_(grid.entries)
    e = 1.5 * torch.randn(4, len(levels), 6, 7)
    assert torch.equal(grid.nearest(e), book.nearest(e)) and len(grid.nearest(e).unique()) > len(levels)


@pytest.mark.parametrize("levels", GRIDS, ids=str)
def test_every_level_is_within_reach(levels: tuple[int, ...]) -> None:
    """Zero stays zero, and from far below to far above each dimension takes all of its levels in order."""
    squash, grid = Squash(levels), FSQ(levels)
    assert_close(squash(torch.zeros(1, len(levels), 1, 1)), torch.zeros(1, len(levels), 1, 1))
    e = squash(torch.linspace(-9, 9, 4_001).view(-1, 1, 1, 1).expand(-1, len(levels), 1, 1))
    assert (e.diff(dim=0) >= 0).all()
    for dimension, count in enumerate(levels):
        seen = grid(e)[:, dimension].flatten().unique()
        assert_close(seen, (torch.arange(count) - count // 2) / (count // 2))


@pytest.mark.parametrize(
    ("codes", "levels"),
    [(15, (5, 3)), (63, (5, 3)), (64, (8, 8)), (128, (5, 5, 5)), (239, (5, 5, 5)), (256, (8, 6, 5))],
)
def test_the_grid_has_at_most_as_many_entries_as_codes(codes: int, levels: tuple[int, ...]) -> None:
    assert levels_for(codes) == levels
    model = VQVAE((3, 32, 32), codes=codes, quantizer="fsq")
    assert len(model.codebook.entries) == math.prod(levels) <= codes
    assert model.encoder(torch.randn(2, 3, 32, 32)).shape == (2, len(levels), 8, 8)
    assert model.note() == (
        f"quantizer fsq: {' x '.join(map(str, levels))} levels, {math.prod(levels)} codes"
    )


def test_all_levels_are_frequent_at_the_start() -> None:
    """For normal h, which batch norm gives: with 5 levels none is rarer than 1 in 7."""
    e = Squash((5, 5))(torch.randn(25_000, 2, 1, 1))
    share = FSQ((5, 5)).nearest(e).flatten().bincount(minlength=25) / 25_000
    assert share.min() > 1 / 7**2
    model = VQVAE((3, 32, 32), quantizer="fsq").train()
    h = unsquashed(model, example_inputs(model, 8)["x"])
    assert_close(h.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    assert_close(h.std((0, 2, 3)), torch.ones(3), rtol=0, atol=0.02)


def test_nothing_of_the_grid_is_learned_or_stored(model: VQVAE) -> None:
    assert not [name for name in model.state_dict() if "codebook" in name or "shift" in name]
    before = {name: value.clone() for name, value in model.named_buffers() if "codebook" in name}
    model.train().guide(torch.randn(5, *model.shape))
    assert before and all(torch.equal(dict(model.named_buffers())[name], v) for name, v in before.items())


def test_the_latents_are_entries(model: VQVAE) -> None:
    x = example_inputs(model, 3)["x"]
    z = sample_latents(model, x=x)["z"]
    assert_close(z, model.codebook.lookup(model.codes(x)), rtol=0, atol=1e-6)  # e + (c - e) is rounded
    assert len(model.codes(x).unique()) > 3
    assert_close(model.decode_codes(model.codes(x)), model.reconstruct(x))


def test_gradients_go_straight_through(float64: None, model: VQVAE) -> None:
    """The encoder's is the decoder's at the rounded z, times the derivative of the squashing."""
    model = model.double()
    x = example_inputs(model, 2)["x"]
    head, squash = model.encoder[-3], model.encoder[-1]
    h = unsquashed(model, x)
    z = model.codebook(squash(h)).detach().requires_grad_()
    by_decoder = torch.autograd.grad(((x - model.decoder(z)) ** 2).mean(), z)[0]
    reach = torch.tensor([4 * 0.999 / 2, 2 * 0.999 / 2]).view(-1, 1, 1)
    slope = (1 - h.tanh() ** 2) * reach / torch.tensor([2, 1]).view(-1, 1, 1)  # 5 and 3 levels: no offset
    expected = torch.autograd.grad(h, head.weight, by_decoder * slope)[0]
    assert expected.abs().max() > 1e-6
    loss = Loss(model, "trace")(x=x)
    assert_close(torch.autograd.grad(loss, head.weight)[0], expected)


@pytest.mark.parametrize("codes", [15, 64, 128])
def test_the_objective_is_the_bound_and_nothing_else(codes: int, float64: None) -> None:
    model = VQVAE((3, 32, 32), codes=codes, quantizer="fsq").double()
    used = math.prod(levels_for(codes))
    for training in (True, False):
        result = compare(model.train(training), example_inputs(model, 3), "trace")
        assert result["agrees"] and result["terms"].keys() == {"reconstruction", "kl_z", "objective"}
    x = example_inputs(model, 3)["x"]
    bound = model.bound(x, sample_latents(model, x=x))
    assert_close(bound.terms["kl_z"], torch.full((3,), 64 * math.log(used)))
    assert_close(bound.objective * math.pi * 3072, bound.negative_elbo.mean())
    found = bound.report()
    assert torch.equal(found["loss"], found["mean_squared_error"])
    assert_close(found["reconstruction"], math.pi * 3072 * found["loss"])


def test_it_is_plain_pytorch(float64: None, model: VQVAE) -> None:
    """Value and gradient of Pyro's loss are those of a mean squared error, with a quantizer of its own."""
    model = model.double().train()
    x, parameters = example_inputs(model, 4)["x"], list(model.parameters())
    loss = Loss(model, "trace")(x=x)
    h = unsquashed(model, x)
    steps = torch.stack([1.998 * h[:, 0].tanh(), 0.999 * h[:, 1].tanh()], 1)
    z = (steps + (steps.round() - steps).detach()) / torch.tensor([2, 1]).view(-1, 1, 1)
    squares = torch.nn.functional.mse_loss(model.decoder(z), x)
    assert_close(loss, squares + 64 * math.log(15) / (math.pi * math.prod(model.shape)))
    ours, theirs = torch.autograd.grad(loss, parameters), torch.autograd.grad(squares, parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_penalty_too_many_is_noticed(float64: None, model: VQVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.double(), "_penalties", lambda e, c: {"commitment": (1.0, e.new_ones(3))})
    with pytest.raises(RuntimeError, match="bound has the terms"):
        compare(model, example_inputs(model, 3), "trace")


def test_a_wrong_number_of_codes_is_noticed(
    float64: None, model: VQVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grid has 15 entries, not as many as the option allows."""
    given = len(model.codebook.entries) + 1
    monkeypatch.setattr(
        UniformCodes, "log_prob", lambda self, z: z.new_full(z.shape[:-3], -64 * math.log(given))
    )
    assert not compare(model.double(), example_inputs(model, 3), "trace")["agrees"]


def test_plain_svi_trains_every_parameter(model: VQVAE) -> None:
    assert untrained(model.train(), lr=1e-3) == []


@pytest.mark.parametrize("mode", ["graph", pytest.param("inductor", marks=pytest.mark.full)])
def test_a_captured_step_is_the_eager_one(mode: str, float64: None, model: VQVAE) -> None:
    eager = model.double().train()
    captured = copy.deepcopy(eager)
    steps = [
        Gradients(Loss(eager, "trace")),
        Gradients(Loss(captured, "trace"), mode, say=pytest.fail),
    ]
    for seed in range(3):  # captured once, then replayed with other images
        torch.manual_seed(seed)
        batch = example_inputs(eager, 4)
        found = []
        for step in steps:
            step.loss.zero_grad()
            objective, good = step(batch)
            assert good
            found.append([objective, *(p.grad for p in step.loss.parameters()), *step.loss.buffers()])
        for a, b in zip(*found, strict=True):
            assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert steps[1].mode == mode and steps[1].replay is not None


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"codes": 14}, "14 codes are too few for quantizer fsq. Use at least 15"),
        ({"codes": 300}, "300 codes do not fit in one byte each. Use at most 256"),
        ({"codebook": "average"}, "quantizer fsq has no penalties. Leave out codebook and commitment"),
        ({"commitment": 5.0}, "quantizer fsq has no penalties. Leave out codebook and commitment"),
    ],
)
def test_refused_options_say_what_to_do(own: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VQVAE((3, 32, 32), quantizer="fsq", **own)


def test_a_command_refuses_them_too(tmp_path: Path) -> None:
    fsq = ["--model", "vqvae", "--data", "digits", "--quantizer", "fsq", "--commitment", "5"]
    with pytest.raises(UserError, match="quantizer fsq has no penalties"):
        svi.main([*fsq, "--run-dir", str(tmp_path / "refused")])
    assert not (tmp_path / "refused").exists()


def test_a_run_of_before_the_option_has_a_codebook() -> None:
    older = {"codes": 128, "codebook": "gradient", "commitment": 5.0}
    assert check_options(VQVAE, "vqvae", older) == older | {"quantizer": "codebook"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 15 codes and narrow networks."""
    folder = tmp_path_factory.mktemp("fsq")
    x = np.random.RandomState(0).randint(256, size=(24, 32, 32, 3), dtype=np.uint8)
    y = np.arange(24) % 2
    np.savez(folder / "colours.npz", x_train=x[:16], y_train=y[:16], x_test=x[16:], y_test=y[16:])
    arguments = [*FSQ_OF_15, "--steps", "4"]
    with narrowed():
        arguments += ["--data", str(folder / "colours.npz"), "--run-dir", str(folder / "run")]
        assert svi.main(arguments) == 0
    return folder / "run"


def test_both_priors_train_on_the_codes(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.fitting.CODE_SAMPLES", 1)
    monkeypatch.setattr("inference.fitting.save_images", lambda *_: None)  # there is no folder of pictures
    small = ["--steps", "2", "--batch-size", "8"]
    for prior, own in {"pixelcnn": ["8"], "transformer": ["8", "--heads", "2", "--layers", "1"]}.items():
        stage2 = ["--stage1-run", str(trained), "--code-prior", prior, "--width", *own]
        assert svi.main([*stage2, *small]) == 0
        results = json.loads((trained / f"prior-{prior}" / "results.json").read_text())
        assert results["config"]["options"]["codes"] == 15
        assert 0 < results["test"]["nats_per_code"]["value"] < 3 * math.log(15)
    codes = np.load(trained / "codes-of-colours.npz")
    assert codes["x_train"].shape == (16, 8, 8) and codes["codes"] == 15 > codes["x_test"].max()
    _, _, data, model = restore(trained)
    assert np.array_equal(codes["x_test"], model.codes(2 * data.x_test.float() / 255 - 1).numpy())
    found = sample(trained / "prior-pixelcnn", 2)
    assert found.x.shape == (2, 3, 32, 32) and found.latents["codes"].max() < 15
    mean = (model.decode_codes(found.latents["codes"].long()) + 1) / 2 * 255
    assert torch.equal(found.x, mean.round().clamp(0, 255).to(torch.uint8))


def test_results_say_how_many_codes_are_used(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    metrics = {name: metric["value"] for name, metric in results["test"].items()}
    assert results["config"]["options"]["quantizer"] == "fsq"
    _, _, data, model = restore(trained)
    codes = model.codes(2 * data.x_test.float() / 255 - 1)
    chosen = np.bincount(codes.flatten().numpy(), minlength=15)
    share = chosen[chosen > 0] / chosen.sum()
    assert metrics["usage"] == pytest.approx(len(share) / 15)
    assert metrics["perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert metrics["kl"] == pytest.approx(64 * math.log(15))
    assert metrics["loss"] == metrics["mean_squared_error"]
    assert not metrics.keys() & {"codebook", "commitment"}


@pytest.mark.full
def test_it_is_evaluated(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inference.evaluate.main([str(trained)]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_it_samples_interpolates_and_is_loaded(trained: Path, tmp_path: Path) -> None:
    model = load(trained)
    assert isinstance(model.codebook, FSQ)
    model.save(tmp_path / "fsq.pt")
    again, x = load(tmp_path / "fsq.pt"), torch.rand(2, 3, 32, 32)
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))
    assert sample(trained, 3).x.shape == (3, 3, 32, 32)
    out = tmp_path / "between.png"
    assert interpolate.main([str(trained), "--labels", "0-1", "--out", str(out)]) == 0 and out.exists()


def test_a_resumed_run_is_the_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    """Bit for bit."""
    data = ["--data", str(trained.parent / "colours.npz")]
    assert svi.main([*FSQ_OF_15, *data, "--steps", "2", "--run-dir", str(tmp_path / "part")]) == 0
    assert svi.main(["--resume", str(tmp_path / "part"), "--steps", "4"]) == 0
    assert same(checkpoint(trained), checkpoint(tmp_path / "part"))
