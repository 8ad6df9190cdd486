"""The comparison of paper with program: it shows agreement, and it notices when there is none."""

import json

import pytest
import torch

from inference import compare
from inference.errors import BadInput
from ppl_models import MODELS, densities

# An importance-weighted bound takes no weight, and beta_vae's beta is not 1 by default.
PAIRS = sum(len(cls.estimators) for cls in MODELS.values()) - 2


def test_every_model_and_estimator_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results) == PAIRS
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


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="did you mean vae"):
        compare.main(["--model", "vea"])
