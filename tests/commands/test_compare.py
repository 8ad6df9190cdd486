"""The comparison of paper with program: it shows agreement, and it notices when there is none."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from inference import compare, svi
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.errors import UserError
from inference.training.gradients import Gradients
from ppl_models import MODELS, densities
from ppl_models.base import KL, ELBOTerms, LatentVariableModel
from tests.support import SSVAE, TINY

PAIRS = [(name, estimator) for name, cls in MODELS.items() for estimator in cls.estimators]


def test_every_model_and_estimator_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(result["model"], result["estimator"]) for result in results] == PAIRS
    for result in results:
        assert (
            result["agrees"] and result["value_difference"] <= 1e-9 and result["gradient_difference"] <= 1e-7
        )
        terms = result["terms"]
        assert all(abs(term["by_hand"] - term["pyro"]) <= 1e-9 * abs(term["pyro"]) for term in terms.values())
        # 784 pixels at even odds cost 784 log 2 = 543.4 nats, and an untrained decoder is near them
        if MODELS[result["model"]].observation == "binary":
            assert 520 < terms["reconstruction"]["by_hand"] < 570


def test_the_page_is_for_reading(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["--model", "ssvae"]) == 0
    page = capsys.readouterr().out
    assert "-ELBO(x)  = KL(q(y | x) || p(y)) + sum_y q(y | x) [" in page and "1 of 1 agree" in page
    for word in ("TraceEnum_ELBO", "reconstruction", "kl_z", "kl_y", "classification", "by hand", ": agrees"):
        assert word in page


WRONG = {
    "a constant": lambda loc, scale: 0.5 * (loc**2 + scale**2 - 2 * scale.log() - 1 + 1e-6).sum(-1),
    "a factor": lambda loc, scale: 0.5 * (loc**2 + scale**2 - 2 * scale.log() - 1).sum(-1) * (1 + 1e-5),
    "the wrong way round": lambda loc, scale: (scale.log() + (1 + loc**2) / (2 * scale**2) - 0.5).sum(-1),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_noticed(
    mistake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(densities, "kl_normal_standard", WRONG[mistake])
    assert compare.main(["--model", "vae"]) == 1
    assert "DOES NOT AGREE" in capsys.readouterr().out


def test_a_wrong_gradient_with_the_right_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = densities.normal
    monkeypatch.setattr(densities, "normal", lambda x, loc, scale: right(x.detach(), loc, scale))
    torch.manual_seed(0)
    model = MODELS["vae"]((1, 8, 8), hidden=16).double()
    result = compare.compare(model, compare.example_inputs(model, 5), "trace")
    assert result["value_difference"] < 1e-9 and result["gradient_difference"] > 1e-3 and not result["agrees"]


@pytest.mark.parametrize("model", ["ssvae", "gmvae"])
def test_a_run_s_own_parameters_and_images(
    model: str, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = {"ssvae": SSVAE, "gmvae": ["--model", "gmvae", *TINY]}[model]
    assert svi.main([*arguments, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    capsys.readouterr()
    assert compare.main(["--run", str(run), "--batch-size", "30", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["estimator"] for result in results] == list(MODELS[model].estimators)
    assert all(result["batch"] == 30 and str(run) in result["model"] for result in results)
    # thirty images are the whole test set: the terms are those that the run itself measured
    measured = json.loads((run / "results.json").read_text())["test"]
    by_hand = results[0]["terms"]["reconstruction"]["by_hand"]
    assert by_hand == pytest.approx(measured["reconstruction"]["value"], abs=1.0)
    assert torch.get_default_dtype() == torch.float32


def test_bad_input() -> None:
    with pytest.raises(UserError, match="leave out --model"):
        compare.main(["--run", "x", "--model", "vae"])
    with pytest.raises(UserError, match="did you mean vae"):
        compare.main(["--model", "vea"])


class Reversed(LatentVariableModel):
    """p(u) p(z | u) p(x | z) with the guide q(z | x) q(u | z): the closed KL terms are not of one order."""

    estimators = ("mean_field", "trace")

    def __init__(self, shape: tuple[int, ...] = (1, 2, 2), classes: int = 0):
        super().__init__(shape, classes)
        self.encoder, self.prior_net, self.inner, self.decoder = (
            torch.nn.Linear(a, b) for a, b in ((4, 2), (2, 2), (2, 2), (2, 4))
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(self.prior_net(u), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.encoder(x.flatten(1)), 0.5).to_event(1))
            pyro.sample("u", dist.Normal(self.inner(z), 0.5).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        u, z, x = latents["u"], latents["z"], x.flatten(1)
        loc_z, loc_u = self.encoder(x), self.inner(z)
        half = torch.full_like(z, 0.5)
        sampled_z = densities.normal(z, loc_z, 0.5) - densities.normal(z, self.prior_net(u), 1.0)
        sampled_u = densities.normal(u, loc_u, 0.5) - densities.normal(u, 0.0, 1.0)
        closed = kl == "closed"
        return ELBOTerms(
            reconstruction=-densities.normal(x, self.decoder(z), 1.0),
            kl_z=densities.kl_normal_standard(loc_z - self.prior_net(u), half) if closed else sampled_z,
            kl_u=densities.kl_normal_standard(loc_u, half) if closed else sampled_u,
        )


@pytest.mark.parametrize("validated", [True, False])
def test_a_mean_field_estimate_that_is_no_bound_is_refused(validated: bool, float64: None) -> None:
    """Both sides agree there on a number that is no bound; the trace estimator is right."""
    model = Reversed()
    with torch.no_grad():
        model.inner.weight.mul_(4)
    inputs = {"x": torch.randn(500, 1, 2, 2)}
    message = r"mean_field estimator needs the same order .* in model and guide\. Reorder .* or use the trace"
    with pyro.validation_enabled(validated):
        with pytest.raises(UserError, match=message):
            compare.compare(model, inputs, "mean_field")
        assert compare.compare(model, inputs, "trace")["agrees"]
    with pytest.raises(UserError, match=message):
        Gradients(Loss(model, "mean_field"))(inputs, check=True)  # the first step of a training
    # The expectation of what mean_field computes is another one than the bound.
    many = {"x": torch.zeros(200_000, 1, 2, 2)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elbos = [ESTIMATORS[name].elbo(1) for name in model.estimators]
        values = [elbo.differentiable_loss(model.model, model.guide, **many) for elbo in elbos]
    assert abs(values[0] - values[1]) / 200_000 > 0.02


def test_mean_field_is_not_the_default_of_a_model() -> None:
    """A user's model that says nothing gets an estimator that is right for any guide."""
    assert LatentVariableModel.estimators == ("trace",)
