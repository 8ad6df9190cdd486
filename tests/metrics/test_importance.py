"""Importance-weighted bounds on a test set, their errors, k-hat, and the command `evaluate`."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import inference.evaluate as evaluate_command
from inference import svi
from inference.data.held_out import HeldOut
from inference.data.load import find_dataset
from inference.elbo.importance_weighted import ImportanceWeighted
from inference.errors import UserError
from inference.metrics import importance
from inference.metrics.bounds import evaluate_bounds
from inference.metrics.importance import importance_sample, pareto_k
from inference.rundir.restore import restore
from ppl_models import MODELS
from tests.support import SSVAE

CPU = torch.device("cpu")


def small(small_npz: Path) -> tuple[torch.nn.Module, HeldOut]:
    data, _ = find_dataset(str(small_npz), Path("nowhere"))
    model = MODELS["vae"]((1, 6, 6), z_dim=2, hidden=16).eval()
    with torch.no_grad():
        model.decoder.layers[0].weight *= 5  # so that z matters
    return model, HeldOut(data, MODELS["vae"], CPU)


def test_one_particle_is_the_elbo_and_more_are_tighter(small_npz: Path) -> None:
    model, test = small(small_npz)
    before = torch.get_rng_state()
    result = importance_sample(model, test, [1, 10, 500])
    assert torch.equal(torch.get_rng_state(), before)
    figures = result.metrics
    elbo = evaluate_bounds(model, test, samples=500)["negative_elbo"]
    error = math.hypot(elbo["mc_se"], figures["iwae_1"]["mc_se"])
    assert abs(elbo["value"] - figures["iwae_1"]["value"]) < 4 * error
    assert figures["iwae_1"]["se"] == pytest.approx(elbo["se"], rel=0.05)
    values = [figures[f"iwae_{m}"]["value"] for m in (1, 10, 500)]
    assert values[0] > values[1] + 0.1 > values[2] + 0.1


@pytest.mark.parametrize("m", [20, 100])
def test_monte_carlo_errors_are_what_they_say(
    m: int, small_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors from groups (five of 20) and by the jackknife (one of 100) equal the spread over repetitions."""
    model, test = small(small_npz)
    values, errors = [], []
    for seed in range(100):
        monkeypatch.setattr(
            torch, "manual_seed", lambda _, seed=seed: torch.default_generator.manual_seed(seed)
        )
        figure = importance_sample(model, test, [m]).metrics[f"iwae_{m}"]
        values.append(figure["value"])
        errors.append(figure["mc_se"])
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


def test_disjoint_groups_of_one_pool(small_npz: Path) -> None:
    log_w = torch.randn(7, 3, dtype=torch.float64)
    bound, variance = importance.bound_of_weights(log_w, 3)  # two groups, and one sample is unused
    groups = torch.stack([-(log_w[i : i + 3].exp().mean(0).log()) for i in (0, 3)])
    torch.testing.assert_close(bound, groups.mean(0))
    torch.testing.assert_close(variance, groups.var(0) / 2)


def test_memory_does_not_grow_with_m(small_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, test = small(small_npz)
    asked: dict[int, list[int]] = {}
    draw = ImportanceWeighted.sample

    def watched(self: ImportanceWeighted, model, guide, **inputs: torch.Tensor):
        asked[m].append(self.num_particles * len(inputs["x"]))
        return draw(self, model, guide, **inputs)

    monkeypatch.setattr(ImportanceWeighted, "sample", watched)
    for m in (100, 5_000):
        asked[m] = []
        importance_sample(model, test, [m], memory=1)
        assert sum(asked[m]) == 30 * m + 1  # and one to estimate the memory
    rows = 2**20 // importance.bytes_per_sample(model, test)
    assert rows / 2 < max(asked[100]) <= rows and rows / 2 < max(asked[5_000]) <= rows < 5_000


def test_k_hat_finds_the_tail_of_known_weights() -> None:
    """Weights u^-k have a Pareto tail of shape k: light, heavy, and with infinite variance."""
    shapes = torch.tensor([0.2, 0.5, 0.9])
    log_w = -shapes * torch.rand(40_000, 3, dtype=torch.float64).log()
    np.testing.assert_allclose(pareto_k(log_w), shapes, atol=0.1)


def test_of_a_few_images_the_run_keeps_nothing(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert evaluate_command.main([str(own_run), "--particles", "1", "100", "--images", "7", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()} == before
    _, _, data, model = restore(own_run)
    few = HeldOut(replace(data, x_test=data.x_test[:7], y_test=None), MODELS["vae"], CPU)
    for name, figure in importance_sample(model, few, [1, 100]).metrics.items():
        assert printed[name]["value"] == pytest.approx(figure["value"])
    assert printed["iwae_100"]["value"] < printed["iwae_1"]["value"]


def test_the_command_adds_to_the_run(
    small_npz: Path, own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((own_run / "results.json").read_text())
    capsys.readouterr()
    assert evaluate_command.main([str(own_run), "--particles", "1", "20", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    after = json.loads((own_run / "results.json").read_text())
    assert printed == after["test"]
    assert {key: after["test"][key] for key in before["test"]} == before["test"]
    added = [key for key in after["test"] if key not in before["test"]]
    assert added == [
        "iwae_1",
        "iwae_20",
        "k_hat_above_0.7",
    ]  # neither 10 nor 100 labels divide into three classes
    assert (own_run / "figures" / "k_hat.png").exists()

    data = importance.import_arviz().from_netcdf(own_run / "posterior.nc")
    assert data.posterior["z"].dims == ("chain", "draw", "image", "z_dim_0")
    assert data.posterior["z"].shape == (1, 100, 30, 2)
    assert data.log_likelihood["x"].shape == data.sample_stats["log_weight"].shape == (1, 100, 30)
    assert data.observed_data["label"].values.tolist() == [i % 3 for i in range(90, 120)]
    above = (data.constant_data["k_hat"] > 0.7).mean().item()
    assert above == pytest.approx(after["test"]["k_hat_above_0.7"]["value"])
    # the weights belong to the samples
    log_w = torch.from_numpy(data.sample_stats["log_weight"].values[0])
    first = (math.log(20) - log_w[:20].logsumexp(0)).mean().item()
    assert first == pytest.approx(after["test"]["iwae_20"]["value"], abs=0.3)
    z = torch.from_numpy(data.posterior["z"].values[0])
    x = next(HeldOut(find_dataset(str(small_npz), Path("."))[0], MODELS["vae"], CPU).chunks(30))[0]["x"]
    model = restore(own_run)[3]
    bound = model.bound(x, {"z": z}, kl="sampled")
    np.testing.assert_allclose(-bound.negative_elbo.detach(), log_w, rtol=1e-4)
    np.testing.assert_allclose(
        -bound.terms["reconstruction"].detach(), data.log_likelihood["x"].values[0], rtol=1e-4
    )


@pytest.mark.filterwarnings("ignore")  # deprecations of matplotlib that ArviZ uses
def test_arviz_plots_what_is_left(small_npz: Path, tmp_path: Path) -> None:
    model, test = small(small_npz)
    importance.write_netcdf(importance_sample(model, test, [10]), test.y, tmp_path / "posterior.nc")
    arviz = importance.import_arviz()
    data = arviz.from_netcdf(tmp_path / "posterior.nc")
    axes = arviz.plot_posterior(data, var_names=["z"], coords={"image": [3]})
    assert np.size(axes) == 2  # a panel per dimension of z
    assert arviz.plot_forest(data, var_names=["z"], coords={"image": [0, 1]}) is not None


def test_a_label_is_weighed_like_any_latent(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert svi.main([*SSVAE, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    assert evaluate_command.main([str(run), "--particles", "1", "50"]) == 0
    test = json.loads((run / "results.json").read_text())["test"]
    error = math.hypot(test["iwae_1"]["mc_se"], test["negative_elbo"]["mc_se"])
    assert abs(test["iwae_1"]["value"] - test["negative_elbo"]["value"]) < 4 * error


def test_what_has_no_bound_is_said(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["--model", "ae", "--z-dim", "2", "--steps", "2", "--batch-size", "9", "--run-dir", str(run)]
    assert svi.main([*arguments, "--data", str(small_npz)]) == 0
    assert evaluate_command.main([str(run)]) == 0
    assert "no importance weights" in capsys.readouterr().err
    assert "iwae_1" not in json.loads((run / "results.json").read_text())["test"]


def test_unfinished_and_damaged_runs_are_refused(own_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 is not a whole number above zero"):
        evaluate_command.main([str(own_run), "--particles", "0"])
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        evaluate_command.main([str(own_run), "--device", "gpu"])
    (own_run / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results.json is damaged"):
        evaluate_command.main([str(own_run)])
    (own_run / "results.json").unlink()
    with pytest.raises(UserError, match=r"no results.json yet"):
        evaluate_command.main([str(own_run)])
    with pytest.raises(UserError, match="is not a run"):
        evaluate_command.main([str(tmp_path)])
