"""inference.diagnose: the table, the run's files and report, refusals, and every model of the suite."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import inference.diagnose as command
from inference import diagnose, load, svi
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.load import find_dataset
from inference.data.observations import OBSERVATIONS
from inference.errors import UserError
from inference.html import report
from inference.metrics import local_guide
from inference.metrics.diagnostics import TITLES, diagnose_model
from inference.rundir.run import Run
from ppl_models import MODELS
from tests.support import TINY, shortened

FEW = ["--images", "6", "--particles", "100", "--aggregate-images", "20", "--simulations", "100"]
GAPS = {"negative_elbo", "negative_elbo_optimized", "iwae_100", "iwae_100_optimized", "negative_log_p"}
GAPS |= {"inference_gap", "amortization_gap", "approximation_gap"}
GAPS |= {"k_hat_above_0.7", "k_hat_above_0.7_optimized"}
AGGREGATE = {"kl", "mutual_information", "aggregate_kl", "mutual_information_upper", "aggregate_kl_lower"}
RANKS = {"rank_spread", "rank_p_value", "ranks_rejected"}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best guide is found in three steps: these tests are not about its quality."""
    monkeypatch.setattr(local_guide, "STEPS", 3)


@pytest.fixture(scope="module")
def finished(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnosed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference.fitting.draw_all", lambda *_: None)
        patch.setattr("inference.html.report.write_after_training", lambda *_: 0)
        assert svi.main(["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_run_gets_the_result_and_the_report_shows_it(
    run: Path, small_npz: Path, with_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((run / "results.json").read_text())
    assert command.main([str(run), *FEW, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)  # nothing else is printed
    after = json.loads((run / "results.json").read_text())
    assert after.pop("diagnostics") == printed and after == before
    assert printed["test"].keys() == GAPS | AGGREGATE | RANKS | {"active_units", "aggregate_kl_marginals"}
    assert 0 <= printed["test"]["active_units"]["value"] <= 2
    assert set(printed["dimensions"]["z"]) == {"kl", "variance_of_means", "rank_p_value"}
    assert (printed["images"], printed["aggregate_images"], printed["simulations"]) == (6, 20, 100)
    pictures = {path.name for path in (run / "figures").glob("diagnostics_*")}
    assert pictures == {f"diagnostics_{name}.png" for name in ("gaps", "dimensions", "ranks")}

    page = (run / "report.html").read_text("utf-8")
    section = page.partition('<section id="diagnostics"')[2].partition("</section>")[0]
    assert section.count("<img") == 3 and 'id="figures"' not in page  # they are not shown twice
    for metric in printed["test"].values():
        for number in metric.values():
            assert f'value="{number!r}"' in section
    assert "z[1]" in section and "importance sampling, 100 samples of the best guide" in section
    data, _ = find_dataset(str(small_npz), Path("data"))
    again = diagnose(run, data, 6, particles=100, aggregate_images=20, simulations=100)
    assert again.to_json() == printed  # the call does what the command does
    table = str(again)
    assert all(words.strip() in table for words in TITLES.values()) and "-IWAE-100, best guide" in table


def test_other_data_and_files_change_nothing(
    run: Path, tmp_path: Path, small_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vae.pt"
    load(run).save(file)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for source in (run, file):
        assert command.main([str(source), *FEW, "--data", str(small_npz)]) == 0
        assert "vae, first 6 test images, nats per image" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--simulations", "99"], r"simulations is 99\. Give 100 or more\.$"),
        (["--particles", "99"], r"particles is 99\. Give 100 or more\.$"),
        (["--images", "0"], "0 is not a whole number above zero"),
        (["--annealing", "-1"], "-1 is not a whole number above zero"),
        (["--aggregate-images", "1"], r"aggregate_images is 1\. Give 2 or more\.$"),
        (["--pretrained", "vae-mnist"], "name one trained model"),
    ],
)
def test_bad_input_is_refused_and_the_run_is_unchanged(options: list[str], words: str, run: Path) -> None:
    def content() -> dict[Path, bytes]:
        files = [path for path in run.rglob("*") if path.is_file() and path.name != "lock"]
        return {path: path.read_bytes() for path in files}

    before = content()
    with pytest.raises(UserError, match=words):
        command.main([str(run), *options])
    assert content() == before


def test_a_run_that_is_not_finished_is_refused_before_the_work(run: Path) -> None:
    (run / "results.json").unlink()
    with pytest.raises(UserError, match=r"has no results\.json yet"):
        command.main([str(run)])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("images", 0, "diagnostics.images is 0, not a whole number above zero"),
        ("dimensions", {"z": {"kl": [1.0], "rank_p_value": [1.0, 2.0]}}, "not equally long lists"),
        ("dimensions", {"z": {"kl": ["<script>"]}}, "not equally long lists of numbers"),
        ("test", {"kl": {"value": "<b>"}}, "diagnostics.test"),
        ("undefined", {"gaps": 3}, "diagnostics.undefined"),
        ("how", None, "diagnostics.how"),
    ],
)
def test_a_damaged_result_is_refused(key: str, value: object, words: str, run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    good = {"images": 1, "aggregate_images": 2, "simulations": 100, "how": "", "test": {}}
    results["diagnostics"] = good | {"dimensions": {}, "undefined": {}}
    (run / "results.json").write_text(json.dumps(results))
    assert Run.open(run).results()["diagnostics"]["images"] == 1
    results["diagnostics"][key] = value
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=words):
        Run.open(run).results()


def test_a_stranger_s_words_are_text(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    evil = "<script>alert(1)</script>"
    results["diagnostics"] = {"images": 1, "aggregate_images": 2, "simulations": 100, "how": evil}
    results["diagnostics"] |= {"test": {evil: {"value": 1.0}}, "undefined": {evil: evil}}
    results["diagnostics"]["dimensions"] = {evil: {"kl": [1.0]}}
    (run / "results.json").write_text(json.dumps(results))
    report.write(report.gather(run))
    page = (run / "report.html").read_text("utf-8")
    assert evil not in page and page.count("&lt;script&gt;alert(1)") >= 4


# Models whose KL term has no parts by dimension; the other models have everything.
NO_PRODUCT = ("gmvae", "vamp_vae", "ppca", "af_vae")
REFUSED = {
    "vqvae": "has a guide that is a point",
    **dict.fromkeys(("ae", "flow", "made", "code_pixelcnn", "code_transformer"), "has no bound here"),
}
FAST = ("gmvae", "two_layer_vae", "ssvae", "ppca", "ae", "flow")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", shortened(MODELS, FAST))
def test_every_model_is_diagnosed_or_refused_in_one_line(name: str) -> None:
    cls = MODELS[name]
    torch.manual_seed(0)
    model = cls(cls.padded(cls.example_shape), 10).eval()
    test = example_test(model, 3)
    settings = {"particles": 100, "aggregate_images": 3, "simulations": 100, "annealing": 0}
    if name in REFUSED:
        with pytest.raises(UserError, match=rf"^{name} {REFUSED[name]}, and so no posterior to diagnose\."):
            diagnose_model(model, test, 2, **settings)
        return
    found = diagnose_model(model, test, 2, **settings)
    assert set(found.undefined) == ({"KL per dimension of z"} if name in NO_PRODUCT else set())
    assert found.metrics.keys() >= AGGREGATE | RANKS
    values = [number for metric in found.metrics.values() for number in metric.values()]
    assert np.isfinite(values).all() and json.dumps(found.to_json(), allow_nan=False)
    assert set(found.dimensions) == set(found.calibration.ranks)
    assert found.metrics["amortization_gap"]["value"] > -50 and str(found)


def example_test(model: torch.nn.Module, n: int) -> HeldOut:
    """Random held-out data for a model."""
    kind = OBSERVATIONS[model.observation]
    x = (kind.example or kind.data.example)(model.shape, n, model.levels)
    y = torch.arange(n) if model.classes else None
    return HeldOut(Dataset("x", x, y, x, y), type(model), torch.device("cpu"))
