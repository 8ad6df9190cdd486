"""The comparison of bounds by hand with Pyro: it shows agreement and detects mistakes."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from inference import svi
from inference.compare import main
from inference.data.examples import example_inputs
from inference.elbo.comparison import Comparison, compare, formula
from inference.elbo.estimators import ESTIMATORS, Loss
from inference.errors import UserError
from inference.training.gradients import Gradients
from ppl_models import MODELS, densities
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms
from tests.support import SSVAE, TINY, shortened

PAIRS = [(name, estimator) for name, cls in MODELS.items() for estimator in cls.estimators]


@pytest.mark.parametrize("model", shortened(["all", "gmvae"], ["gmvae"]))
def test_every_model_and_estimator_agrees(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the models' own sizes. The contract tests compare small ones, and .ci/run compares all."""
    assert main(["--batch-size", "2", "--json", *([] if model == "all" else ["--model", model])]) == 0
    found = json.loads(capsys.readouterr().out)
    results = found["comparisons"]
    assert found["agrees"] is True
    expected = [pair for pair in PAIRS if model in ("all", pair[0])]
    assert [(result["model"], result["estimator"]) for result in results] == expected
    for result in results:
        assert (
            result["agrees"] and result["value_difference"] <= 1e-9 and result["gradient_difference"] <= 1e-7
        )
        terms = result["terms"]
        assert all(abs(term["by_hand"] - term["pyro"]) <= 1e-9 * abs(term["pyro"]) for term in terms.values())
        # 784 pixels with probability 1/2 have 784 log 2 = 543.4 nats; an untrained decoder is close
        if MODELS[result["model"]].observation == "binary":
            assert 520 < terms["reconstruction"]["by_hand"] < 570


def test_the_page_is_for_reading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "ssvae"]) == 0
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
    assert main(["--model", "vae"]) == 1
    assert "DOES NOT AGREE" in capsys.readouterr().out


def test_a_wrong_gradient_with_the_right_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = densities.normal
    monkeypatch.setattr(densities, "normal", lambda x, loc, scale: right(x.detach(), loc, scale))
    torch.manual_seed(0)
    model = MODELS["vae"]((1, 8, 8), hidden=16).double()
    result = compare(model, example_inputs(model, 5), "trace")
    assert result["value_difference"] < 1e-9 and result["gradient_difference"] > 1e-3 and not result["agrees"]


@pytest.mark.parametrize("model", ["ssvae", "gmvae"])
def test_a_run_s_own_parameters_and_images(
    model: str, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = {"ssvae": SSVAE, "gmvae": ["--model", "gmvae", *TINY]}[model]
    assert svi.main([*arguments, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    capsys.readouterr()
    assert main(["--run", str(run), "--batch-size", "30", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    results = found["comparisons"]
    assert found["agrees"] is True
    assert [result["estimator"] for result in results] == list(MODELS[model].estimators)
    assert all(result["batch"] == 30 and str(run) in result["model"] for result in results)
    # thirty images are the whole test set: the terms are those that the run itself measured
    measured = json.loads((run / "results.json").read_text())["test"]
    by_hand = results[0]["terms"]["reconstruction"]["by_hand"]
    assert by_hand == pytest.approx(measured["reconstruction"]["value"], abs=1.0)
    assert torch.get_default_dtype() == torch.float32


def test_a_tensor_is_compared_under_the_first_estimator() -> None:
    torch.manual_seed(0)
    model = MODELS["vae"]((1, 8, 8), hidden=16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = compare(model, torch.rand(3, 1, 8, 8).round())  # in float32: copied, compared in float64
    assert (result["agrees"], result["model"], result["estimator"]) == (True, "VAE", "mean_field")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.get_default_dtype() == torch.float32


def test_every_estimator_of_a_model_agrees_under_its_name() -> None:
    torch.manual_seed(0)
    model = MODELS["vae"]((1, 4, 4), z_dim=2, hidden=8).double()
    x = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    found = {name: compare(model, x, name) for name in model.estimators}
    assert all(result["agrees"] for result in found.values())
    weighted = "importance-weighted bound, 5 particles"
    assert {name: result["elbo"] for name, result in found.items()} == {
        **{"mean_field": "TraceMeanField_ELBO", "trace": "Trace_ELBO"},
        **{"iwae": weighted, "iwae_dreg": f"{weighted}, DReG"},
    }


def test_the_difference_is_relative_to_the_sum_of_the_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    right = densities.kl_normal_standard
    monkeypatch.setattr(densities, "kl_normal_standard", lambda loc, scale: 1.5 * right(loc, scale))
    torch.manual_seed(0)
    result = compare(MODELS["vae"]((1, 4, 4), z_dim=2, hidden=8), torch.ones(2, 1, 4, 4))
    terms = result["terms"]
    assert terms["kl_z"]["by_hand"] == pytest.approx(1.5 * terms["kl_z"]["pyro"], rel=1e-12)
    total = terms["reconstruction"]["by_hand"] + terms["kl_z"]["by_hand"]
    assert result["value_difference"] == pytest.approx(terms["kl_z"]["pyro"] / 2 / total, rel=1e-9)


class Misnamed(MODELS["vae"]):  # type: ignore[misc]
    """A VAE whose bound calls its KL term by another name."""

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        terms = super().bound(x, latents, kl=kl).terms
        return ELBOTerms(reconstruction=terms["reconstruction"], kl_w=terms["kl_z"])


def test_terms_of_other_names_are_an_error() -> None:
    message = r"bound has the terms \['kl_w', .*\], but Pyro has \['kl_z', .*\]\. Name each KL term kl_"
    with pytest.raises(RuntimeError, match=message):
        compare(Misnamed((1, 4, 4), z_dim=2, hidden=8), torch.ones(2, 1, 4, 4))


def test_inputs_and_estimators_are_checked() -> None:
    model = MODELS["ssvae"]((1, 8, 8), 3, hidden=16)
    with pytest.raises(UserError, match=r"SSVAE needs .*, but x_labelled, y_labelled is not given"):
        compare(model, torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match="unknown estimator 'tracy': did you mean trace"):
        compare(MODELS["vae"]((1, 8, 8)), torch.zeros(2, 1, 8, 8), "tracy")


@pytest.mark.parametrize("name", MODELS)
def test_the_formula_of_a_comparison_has_equations_and_no_prose(name: str) -> None:
    lines = formula(MODELS[name], importance=False)
    assert len(lines) <= 7 and all(" = " in line or line.startswith("   ") for line in lines)
    assert all(line.lstrip().startswith("+ ") for line in lines if " = " not in line)


def test_a_comparison_is_a_table_in_text_and_in_a_notebook() -> None:
    terms = {"<b>": {"by_hand": 1.5, "pyro": 1.25}, "kl": {"by_hand": 2.0, "pyro": 2.0}}
    result = Comparison(
        {"model": "<script>", "estimator": "trace", "elbo": "Trace_ELBO", "batch": 2, "formula": ["a < b"]}
    )
    result |= {"terms": terms, "value_difference": 0.1, "gradient_difference": 0.0, "agrees": False}
    first, formula, head, row, _, verdict = str(result).splitlines()
    assert first == "<script>, Trace_ELBO, 2 images, float64, nats per image" and formula == "  a < b"
    assert head.split() == ["term", "by", "hand", "Pyro", "difference"] and "DOES NOT AGREE" in verdict
    assert row == f"  {'<b>':16} {1.5:22} {1.25:22} {'2.5e-01':>12}"
    page = result._repr_html_()
    assert "<thead><tr><th>term</th><th>by hand</th><th>Pyro</th><th>difference</th></tr></thead>" in page
    assert "<script>" not in page and "<b>" not in page and "a < b" not in page
    assert "<td>&lt;b&gt;</td><td>1.5</td><td>1.25</td><td>2.5e-01</td></tr><tr><td>kl</td><td>2</td>" in page
    assert "a &lt; b" in page


def test_bad_input() -> None:
    with pytest.raises(UserError, match="x is not a run"):
        main(["--run", "x", "--model", "vae"])
    with pytest.raises(UserError, match="did you mean vae"):
        main(["--model", "vea"])


class Reversed(LatentVariableModel):
    """p(u) p(z | u) p(x | z) with the guide q(z | x) q(u | z), whose latents have another order."""

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
    """With mean_field both sides agree on a number that does not bound log p(x)."""
    model = Reversed()
    with torch.no_grad():
        model.inner.weight.mul_(4)
    inputs = {"x": torch.randn(500, 1, 2, 2)}
    message = r"mean_field estimator needs the same order .* in model and guide\. Reorder .* or use the trace"
    with pyro.validation_enabled(validated):
        with pytest.raises(UserError, match=message):
            compare(model, inputs, "mean_field")
        assert compare(model, inputs, "trace")["agrees"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest's filter alone would convert Pyro's warning to an error
        with pytest.raises(UserError, match=message):
            Gradients(Loss(model, "mean_field"))(inputs, check=True)  # the first training step
    # The expectation of the mean_field estimate differs from the bound.
    many = {"x": torch.zeros(200_000, 1, 2, 2)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elbos = [ESTIMATORS[name].elbo(1) for name in model.estimators]
        values = [elbo.differentiable_loss(model.model, model.guide, **many) for elbo in elbos]
    assert abs(values[0] - values[1]) / 200_000 > 0.02


def test_mean_field_is_not_the_default_of_a_model() -> None:
    """A model that declares no estimators gets one that is valid for any guide."""
    assert LatentVariableModel.estimators == ("trace",)
