"""Annealed importance sampling: unbiased weights in both directions, and log p(x) where it is known."""

import json
import math
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from inference import exact
from inference.data.dataset import Dataset
from inference.data.examples import example_inputs
from inference.data.held_out import HeldOut
from inference.data.observations import OBSERVATIONS
from inference.errors import UserError
from inference.metrics import annealing as annealing_module
from inference.metrics import bidirectional
from inference.metrics.annealing import Annealing, schedule
from inference.metrics.bidirectional import agrees, annealed_bounds
from inference.metrics.importance import bound_of_weights
from inference.metrics.local_guide import sample_particles
from inference.metrics.quadrature import quadrature
from inference.rundir.run import Run
from ppl_models import GMVAE, MODELS, PPCA, VAE, TwoLayerVAE
from ppl_models.base import LatentVariableModel
from tests.support import shortened

SHAPE = (1, 4, 4)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_validation() -> object:
    with pyro.validation_enabled(False):
        yield


def linear(offset: float = 0.0, log_factor: float = 0.0) -> PPCA:
    """A linear model with the best mean-field guide, moved and scaled in units of its standard deviations."""
    model = PPCA(SHAPE, z_dim=3, guide="mean_field")
    with torch.no_grad():
        w = torch.randn(16, 3)
        w[:, 1] += w[:, 0]
        model.decoder.weight.copy_(0.5 * w)
        model.log_scale.fill_(-0.3)
        model.solve_guide()
        model.encoder.bias.add_(offset * model.raw_tril.exp())
        model.raw_tril.add_(log_factor)
    return model.eval().requires_grad_(False)


def simulated(model: LatentVariableModel, n: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Images that a model generates, and the latents that generated them."""
    nodes = model.generate(n).nodes
    return {"x": nodes["x"]["value"]}, {"z": nodes["z"]["value"]}


def held_out(model: LatentVariableModel, n: int) -> HeldOut:
    x = torch.randint(256, (n, *model.shape), dtype=torch.uint8)
    return HeldOut(Dataset("x", x, None, x, None), type(model), CPU)


@pytest.mark.parametrize("cls", [VAE, GMVAE, TwoLayerVAE])
def test_one_temperature_is_importance_sampling(cls: type[LatentVariableModel], float64: None) -> None:
    """Forwards with the guide's samples, and in reverse with the given ones, against the derived bound."""
    model = cls(SHAPE).eval().requires_grad_(False)
    inputs = example_inputs(model, 3)
    annealing = Annealing(model, inputs, 1, chains=7)
    torch.manual_seed(1)
    forward = annealing.forward()
    torch.manual_seed(1)
    assert_close(forward, sample_particles(model, inputs, 7).log_weights)
    latents = model.prior(3)
    terms = model.bound(**inputs, latents=latents, kl="sampled")
    assert_close(annealing.reverse(latents), -terms.negative_elbo.expand(7, 3))


def test_the_temperatures_are_symmetric_and_close_together_at_the_ends() -> None:
    b = torch.tensor(schedule(10), dtype=torch.float64)
    steps = b.diff()
    assert b[0] == 0 and b[-1] == 1 and (steps > 0).all()
    assert_close(steps, steps.flip(0))
    assert steps[0] < 0.25 * steps[4]
    assert schedule(1) == [0, 1]


def test_a_trajectory_keeps_the_density_between_guide_and_posterior(float64: None) -> None:
    """Samples of q^(1 - b) p^b, a normal here, keep its mean and covariance.

    The steps are so long that Metropolis's test rejects some. Without it the covariance would be wrong.
    """
    model, b, n = linear(offset=1.5, log_factor=-0.4), 0.3, 40_000
    x = torch.rand(1, *SHAPE)
    loc, covariance = model.exact_posterior(x)
    q_precision = (-2 * model.raw_tril).exp().diag()
    precision = (1 - b) * q_precision + b * torch.linalg.inv(covariance)
    means = model.encoder(x.flatten(1))[0], loc[0]
    parts = (1 - b) * q_precision @ means[0] + b * torch.linalg.solve(covariance, means[1])
    loc = torch.linalg.solve(precision, parts)
    target = torch.distributions.MultivariateNormal(loc, precision_matrix=precision)
    annealing = Annealing(model, {"x": x}, 1, chains=n)
    before = annealing._at(target.sample((n, 1)))
    after, accepted = annealing._move(before, b, torch.tensor([1.4]))
    assert 0.4 < accepted.double().mean() < 0.9
    z = (after.z[:, 0] - target.loc) @ torch.linalg.inv(target.scale_tril).T  # standard normal
    assert (z.mean(0).abs() < 4 / n**0.5).all()
    assert ((z.T @ z / n - torch.eye(3)).abs() < 4 * (2 / n) ** 0.5).all()
    moved = (after.z != before.z).any(-1)
    assert torch.equal(moved, accepted)
    again = annealing._at(after.z)
    for name in ("log_p", "log_q", "grad_p", "grad_q"):
        assert_close(getattr(after, name), getattr(again, name))


@pytest.mark.parametrize("temperatures", [2, 5])
def test_the_weights_have_no_bias(temperatures: int, float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of w is p(x) forwards, and that of 1 / w is 1 / p(x) in reverse, on data from the model."""
    monkeypatch.setattr(annealing_module, "STEP", 0.9)
    model = linear(offset=0.5, log_factor=0.1)
    inputs, latents = simulated(model, 4_000)
    log_p = model.log_likelihood(**inputs)
    annealing = Annealing(model, inputs, temperatures, chains=4)
    ratios = {
        "forward": (annealing.forward() - log_p).exp().mean(0),
        "reverse": (log_p - annealing.reverse(latents)).exp().mean(0),
    }
    for name, ratio in ratios.items():
        error = ratio.std().item() / len(ratio) ** 0.5
        assert error < 0.03 and abs(ratio.mean().item() - 1) < 4 * error, name


def test_the_step_sizes_are_those_of_the_first_pass(float64: None) -> None:
    """They adapt to each image and temperature, but not in a pass whose weights are used."""
    model = linear()
    inputs, latents = simulated(model, 3)
    annealing = Annealing(model, inputs, 30)
    steps, scales = torch.stack(annealing.steps), annealing.scales
    assert steps.shape == (29, 3) and steps.unique().numel() > 5
    annealing.forward(), annealing.reverse(latents)
    assert torch.equal(torch.stack(annealing.steps), steps) and annealing.scales is scales


def test_log_p_lies_between_the_two_directions(float64: None) -> None:
    """With two temperatures both are visibly off, each to its side; with forty both are near."""
    model = linear(offset=1.0, log_factor=-0.5)
    inputs, latents = simulated(model, 150)
    log_p, gaps = model.log_likelihood(**inputs), []
    for temperatures, near in ((2, False), (40, True)):
        annealing = Annealing(model, inputs, temperatures, chains=8)
        lower = -bound_of_weights(annealing.forward(), 8)[0] - log_p
        upper = bound_of_weights(-annealing.reverse(latents), 8)[0] - log_p
        errors = [part.std().item() / 150**0.5 for part in (lower, upper)]
        assert lower.mean() < 4 * errors[0] and upper.mean() > -4 * errors[1]
        if near:
            assert abs(lower.mean()) < 0.03 and abs(upper.mean()) < 0.03
        else:
            assert lower.mean() < -4 * errors[0] and upper.mean() > 4 * errors[1]
        gaps.append((upper - lower).mean())
    assert gaps[1] < 0.1 * gaps[0]


def test_annealing_finds_log_p_where_the_guide_is_far_off(float64: None) -> None:
    """From a guide that is too narrow; importance sampling with as many samples is nats away."""
    model = linear(log_factor=-0.5)
    inputs = {"x": torch.rand(10, *SHAPE)}
    truth = model.log_likelihood(**inputs)
    log_w = Annealing(model, inputs, 30).forward()
    plain = sample_particles(model, inputs, len(log_w)).log_weights

    def estimate(log_w: Tensor) -> tuple[float, float]:
        relative = log_w.softmax(0).mul(len(log_w)).std(0) / len(log_w) ** 0.5
        found = log_w.logsumexp(0) - math.log(len(log_w)) - truth
        return found.mean().item(), relative.square().sum().sqrt().item() / len(truth)

    off, error = estimate(log_w)
    assert abs(off) < 4 * error < 0.4
    assert estimate(plain)[0] < -0.2


def test_the_bounds_of_a_linear_model(float64: None) -> None:
    """-IWAE-5000, AIS and -log p(x) in closed form are equal; with a poor guide IWAE is off."""
    for log_factor, good in ((0.0, True), (-1.0, False)):
        model = linear(log_factor=log_factor).train().requires_grad_()
        test = held_out(model, 20)
        truth = -model.log_likelihood(next(test.chunks(20))[0]["x"]).mean().item()
        before = torch.get_rng_state()
        found = annealed_bounds(model, test, 20)
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training and all(p.requires_grad for p in model.parameters())
        test_set, simulation = found.test, found.simulated
        assert abs(test_set["ais"]["value"] - truth) < 4 * test_set["ais"]["mc_se"] < 0.8
        assert agrees(test_set) == good
        assert test_set["ais_difference"]["value"] == pytest.approx(
            test_set["iwae_5000"]["value"] - test_set["ais"]["value"]
        )
        gap = simulation["ais_gap"]
        assert gap["value"] == pytest.approx(simulation["ais"]["value"] - simulation["ais_reverse"]["value"])
        assert -4 * gap["se"] < gap["value"] < 0.2 + 4 * gap["se"]
        assert "mc_se" not in gap and "mc_se" not in simulation["ais_reverse"]
        assert ("agree within 2" if good else "differ by more than 2") in str(found).splitlines()[5]


@pytest.mark.full
@pytest.mark.parametrize("cls", [VAE, GMVAE])
def test_annealing_agrees_with_quadrature(cls: type[LatentVariableModel], float64: None) -> None:
    """From the guide of a model that is not trained and whose decoder depends on z strongly."""
    torch.manual_seed(0)
    model = cls(SHAPE, z_dim=2, hidden=16)
    with torch.no_grad():
        model.decoder.layers[0].weight *= 4
    test = held_out(model, 20)
    truth = quadrature(model.eval(), next(test.chunks(20))[0]["x"]).log_p
    found = annealed_bounds(model, test, 60)
    assert abs(found.test["ais"]["value"] + truth.mean().item()) < 4 * found.test["ais"]["mc_se"] + 0.01
    assert abs(found.simulated["ais_gap"]["value"]) < 4 * found.simulated["ais_gap"]["se"] + 0.05


REFUSED = {
    **dict.fromkeys(("ssvae", "regularized_ssvae", "adgm"), "has the discrete y"),
    **dict.fromkeys(("ae", "vqvae"), "has a guide that is a point for z"),
    **dict.fromkeys(("flow", "made", "code_pixelcnn", "code_transformer"), "has none"),
}
FAST = ("two_layer_vae", "vamp_vae", "fsvae", "ssvae", "ae", "flow")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", shortened(MODELS, FAST))
def test_every_model_is_annealed_or_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bidirectional, "PARTICLES", 20)
    cls = MODELS[name]
    torch.manual_seed(0)
    model = cls(cls.padded(cls.example_shape), 10)
    kind = OBSERVATIONS[model.observation]
    x = (kind.example or kind.data.example)(model.shape, 2, model.levels)
    y = torch.arange(2) if model.classes else None
    test = HeldOut(Dataset("x", x, y, x, y), cls, CPU)
    if name in REFUSED:
        with pytest.raises(UserError, match=rf"and {name} {REFUSED[name]}\. Use inference\.evaluate\.$"):
            annealed_bounds(model, test, 2)
        return
    found = annealed_bounds(model, test, 2)
    assert json.dumps(found.to_json(), allow_nan=False)
    assert found.test.keys() == {"iwae_20", "ais", "ais_difference"}
    assert found.simulated.keys() == found.test.keys() | {"ais_reverse", "ais_gap"}


def test_an_estimate_that_is_not_finite_is_refused() -> None:
    model = VAE(SHAPE, z_dim=2, hidden=8)
    with torch.no_grad():
        model.encoder.output_bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite\. Train the model again\.$"):
        annealed_bounds(model, held_out(model, 2), 2)


AIS = ["--ais", "2", "--images", "3"]


def test_the_command_adds_the_result_to_the_run(
    own_run: Path, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((own_run / "results.json").read_text())
    assert exact.main([str(own_run), *AIS, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    after = Run.open(own_run).results()
    assert after.pop("ais") == printed and after == before
    assert {name: printed[name] for name in ("images", "temperatures", "chains")} == {
        "images": 3,
        "temperatures": 2,
        "chains": 16,
    }
    content = {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()}
    assert exact.main([str(own_run), *AIS, "--data", str(small_npz)]) == 0
    assert "vae, first 3 test images, nats per image; 2 temperatures" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()} == content


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ais", "0"], "0 is not a whole number above zero"),
        (["--ais", "2", "--pretrained", "vae-mnist"], "name one trained model"),
        (["--data", "digits"], r"need --ais T\. Add it, or name a run folder only\.$"),
        (["--device", "cpu"], r"need --ais T\. Add it, or name a run folder only\.$"),
    ],
)
def test_bad_options_are_refused(options: list[str], words: str, finished_run: Path) -> None:
    with pytest.raises(UserError, match=words):
        exact.main([str(finished_run), *options])
