"""The comparison of paper with program: it shows agreement, and it notices when there is none."""

import json
from pathlib import Path

import pytest
import torch
from support import SSVAE, TINY

from inference import compare, svi
from inference.errors import BadInput
from ppl_models import MODELS, densities

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
        if MODELS[result["model"]].pixels == "binary":
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
    with pytest.raises(BadInput, match="leave out --model"):
        compare.main(["--run", "x", "--model", "vae"])
    with pytest.raises(BadInput, match="did you mean vae"):
        compare.main(["--model", "vea"])
