"""The tables of results, which are made from the published runs and equal to those in the pages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inference.errors import UserError
from inference.html.references import REFERENCES
from inference.html.results import group_results, system_of
from inference.rundir.schema import upgraded_results
from ppl_models import MODELS
from tests.support import DOCUMENTED
from tools import table


def result(model: str, seed: int, test: dict[str, float], **options: float) -> dict:
    usual = {"vae": {"z_dim": 10, "hidden": 300}}[model]
    steps = {"steps": 20_000, "batch_size": 97, "lr": 1e-3, "elbo": "mean_field"}
    config = {"model": model, "shape": [1, 28, 28], "options": usual | options, **steps}
    metrics = {name: {"value": value, "se": 0.1} for name, value in test.items()}
    run = {"model": model, "data": "mnist", "observation": "0 or 1: drawn", "seed": seed}
    return {**run, "test": metrics, "config": config}


def test_a_row_is_a_system_and_a_cell_a_mean_over_seeds() -> None:
    runs = [result("vae", 1, {"negative_elbo": 101.0}), result("vae", 0, {"negative_elbo": 99.0})]
    runs.append(result("vae", 0, {"negative_elbo": 98.0, "accuracy": 0.5}, z_dim=20))
    runs[0]["test"]["iwae_10"] = {"value": 97.0, "se": 0.1}
    bounds, labels = table.table(runs).split("\n\n**Labels**\n\n")
    title, _, head, _, first, second = bounds.splitlines()
    assert title == "**Bounds**"
    assert head == "| system | data | pixels | seeds | -ELBO | -IWAE-10 | reference |"
    assert first.startswith("| `vae` | mnist | 0 or 1 | 0, 1 | 100.00 ± 1.41 | 97.00 |")
    assert second.startswith("| `vae z_dim=20` | mnist | 0 or 1 | 0 | 98.00 | - |")
    assert labels.splitlines()[2].startswith("| `vae z_dim=20` | mnist | 0 or 1 | 0 | 50.00 % |")


def test_runs_on_named_labelled_images_are_a_system_of_their_own() -> None:
    runs = [result("vae", seed, {"accuracy": accuracy}) for seed, accuracy in ((0, 0.5), (1, 0.7))]
    runs[0]["config"]["labelled_file"], runs[1]["config"]["labelled_file"] = None, "own.txt"
    lines = [line for line in table.table(runs).splitlines() if line.startswith("| `vae")]
    assert [line.split("|")[1].strip() for line in lines] == ["`vae`", "`vae labelled=own.txt`"]


def test_conditional_sample_accuracy_is_in_the_table_of_labels_under_either_name() -> None:
    for name in ("conditional_sample_accuracy", "legible"):  # the latter in older files
        run = upgraded_results(result("vae", 0, {name: 0.875, "classifier_accuracy": 0.99}))
        _, _, head, _, line = table.table([run]).splitlines()
        names = "conditional sample accuracy | classifier accuracy, real images"
        assert head == f"| system | data | pixels | seeds | {names} | reference |"
        assert line.startswith("| `vae` | mnist | 0 or 1 | 0 | 87.50 % | 99.00 % |")


def test_squared_errors_have_a_table_of_their_own() -> None:
    run = result("vae", 0, {"mean_squared_error": 0.00514})
    run["config"] |= {"options": {"z_dim": 64, "beta": 10.0}, "model": "beta_vae", "steps": 2_345}
    run["config"] |= {"batch_size": 64}
    run["model"] = "beta_vae"
    title, _, head, _, line = table.table([run]).splitlines()
    assert (title, head) == (
        "**Squared errors**",
        "| system | data | pixels | seeds | mean squared error | reference |",
    )
    assert line.startswith(
        "| `beta_vae steps=2345 beta=10` | mnist | 0 or 1 | 0 | 0.0051 | predicting the mean digit"
    )


def test_points_have_a_table_of_their_own() -> None:
    run = result("vae", 0, {"negative_elbo": 4.43})
    run["config"] |= {"model": "vae2d", "shape": [2], "options": {}, "kl_warmup": 500, "schedule": "cosine"}
    run["config"] |= {"steps": 8_000, "batch_size": 128}
    run |= {"model": "vae2d", "independent": {"negative_elbo": {"value": 4.46}}, "active_units": 1}
    title, _, head, _, line = table.table([run, run | {"active_units": 2, "seed": 1}]).splitlines()
    names = (
        "| system | data | pixels | seeds | -ELBO | -ELBO, independent points | active units | reference |"
    )
    assert (title, head) == ("**Points**", names)
    cells = "4.4300 ± 0.0000 | 4.4600 ± 0.0000 | 1.5 ± 0.7"
    assert line.startswith(f"| `vae2d kl_warmup=500` | mnist | 0 or 1 | 0, 1 | {cells} |")


def test_densities_of_images_have_a_table_of_their_own() -> None:
    run = result("vae", 0, {"negative_elbo": 5000.0, "bits_per_dim": 4.3})
    run["config"] |= {
        "model": "gated_vae",
        "shape": [3, 32, 32],
        "options": {},
        "batch_size": 64,
        "lr": 2e-3,
        "validation": 0.1,
    }
    run["config"] |= {"lr_warmup": 200, "schedule": "cosine", "clip": 1000.0, "ema": 0.999}
    run |= {"model": "gated_vae", "validation": {"bits_per_dim": {"value": 4.2}}}
    title, _, head, _, line = table.table([run]).splitlines()
    columns = "-ELBO | bits per dimension | bits per dimension, validation"
    assert (title, head) == (
        "**Densities**",
        f"| system | data | pixels | seeds | {columns} | reference |",
    )
    assert "| 5000.00 | 4.300 | 4.200 |" in line


def test_codes_have_a_table_of_their_own() -> None:
    first = result("vae", 0, {"negative_elbo": 350.0, "mean_squared_error": 0.004, "usage": 0.97})
    first["config"] |= {"model": "vqvae", "shape": [3, 32, 32], "options": {}}
    second = result("vae", 0, {"negative_elbo": 90.0, "nats_per_code": 1.5})
    second["config"] |= {"model": "code_pixelcnn", "shape": [1, 8, 8], "options": {}}
    first["model"], second["model"] = first["config"]["model"], second["config"]["model"]
    title, _, head, _, *lines = table.table([first, second]).splitlines()
    assert (title, head) == (
        "**Codes**",
        "| system | data | pixels | seeds | mean squared error | codes used | nats per code | reference |",
    )
    assert "| 0.0040 | 97.00 % | - |" in lines[0] and "| - | - | 1.500 |" in lines[1]


def test_texts_have_a_table_of_their_own() -> None:
    metrics = {"negative_elbo": 39.9, "kl": 2.5, "nats_per_token": 3.6499, "token_perplexity": 38.47}
    run = result("vae", 0, metrics)
    run["config"] |= {"model": "seq_vae", "shape": [20], "options": {"word_dropout": 0.0}, "steps": 5_000}
    run["config"] |= {"batch_size": 64, "lr": 2e-3, "kl_warmup": 2_500, "clip": 5.0}
    run |= {"model": "seq_vae", "data": "lines.txt", "observation": "numbers of tokens"}
    title, _, head, _, line = table.table([run]).splitlines()
    columns = "-ELBO | KL | nats per token | perplexity per token"
    assert (title, head) == ("**Texts**", f"| system | data | pixels | seeds | {columns} | reference |")
    assert (
        line
        == "| `seq_vae word_dropout=0` | lines.txt | numbers of tokens | 0 | 39.90 | 2.50 | 3.650 | 38.5 |  |"
    )
    assert "| nats per token 3.650, perplexity per token 38.5 |" in table.systems([run])
    other = run | {"config": run["config"] | {"options": {"word_dropout": 0.5}}}
    other |= {"test": run["test"] | {"nats_per_token": {"value": 3.9, "se": 0.1}}}
    assert "nats per token 3.900" in table.systems([other])
    assert "nats per token 3.650" in table.systems([run, other])  # the first line of the table


def test_particles_are_a_setting_of_importance_weighted_bounds() -> None:
    run = result("vae", 0, {"negative_elbo": 98.0})
    run["config"] |= {"elbo": "iwae", "particles": 50}
    assert system_of(run).name == "vae elbo=iwae particles=50"


def test_a_validation_part_is_a_setting() -> None:
    run = result("vae", 0, {"negative_elbo": 98.0})
    run["config"] |= {"validation": 0.1}
    assert system_of(run).name == "vae validation=0.1"


def test_likelihoods_have_a_table_of_their_own() -> None:
    run = result("vae", 0, {"negative_elbo": 25.0})
    test = {f"iwae_{m}": {"value": 24.5 - m / 1e4, "mc_se": 0.01} for m in (1, 10, 100, 1000)}
    run["exact"] = {"images": 100, "how": "a sum", "test": {**test, "negative_log_p": {"value": 24.2}}}
    head, _, line = table.likelihoods([run, result("vae", 1, {})]).splitlines()
    assert head == "| system | data | -ELBO | -IWAE-10 | -IWAE-100 | -IWAE-1000 | -log p(x) | method |"
    assert line.startswith("| `vae` | mnist | 24.4999 ± 0.01 | 24.4990") and "| 24.2000 | a sum |" in line
    linear = {"gap": 0.31, "spread_with_exact_guide": 2e-13, "train_negative_log_p": -5.0}
    linear |= {"train_negative_log_p_at_maximum_likelihood": -5.0004}
    run["exact"]["test"] |= {name: {"value": value} for name, value in linear.items()}
    assert (
        table.likelihoods([run]).splitlines()[-1] == "| `vae` | mnist | 0.29990 | 0.31000 | 4.0e-04 | 2e-13 |"
    )
    run["config"]["options"]["guide"] = "full"
    other = {name: {**metric, "value": metric["value"] + 1} for name, metric in test.items()}
    run["exact"]["mean_field"] = {**other, "gap": {"value": 1.25}}
    added = [line for line in table.likelihoods([run]).splitlines() if "best mean-field" in line]
    assert "| 25.4999 ± 0.01 |" in added[0] and "| 24.2000 |" in added[0]
    assert "| 1.29990 | 1.25000 |" in added[1]
    assert table.likelihoods([result("vae", 1, {})]) == ""


def test_the_line_of_a_model_in_the_readme_has_a_reference_if_there_is_one() -> None:
    runs = [result("vae", 0, {"negative_elbo": 98.0}), result("vae", 1, {"negative_elbo": 100.0})]
    other = result("vae", 0, {"negative_elbo": 70.0})
    other["config"]["options"] = {**other["config"]["options"], "z_dim": 3}
    lines = table.systems([*runs, other]).splitlines()
    assert len(lines) == 3 and "| mnist | -ELBO 99.00 ± 1.41 | plain PyTorch" in lines[2]
    assert "| mnist, `z_dim=3` | -ELBO 70.00 |  |" in table.systems([other])
    other["exact"] = {"how": "closed form", "images": 9}
    other["exact"]["test"] = {"iwae_1": {"value": 7.5}, "negative_log_p": {"value": 7.25}}
    line = "| -ELBO 7.5000 on 9 images | -log p(x) of the same images in closed form: 7.2500 |"
    assert line in table.systems([other])


def test_every_system_has_its_line_and_every_reference_a_run() -> None:
    runs = table.published()
    lines = [line.split("`")[1] for line in table.systems(runs).splitlines()[2:]]
    assert lines == [name for name in MODELS if name in {run["model"] for run in runs}] == DOCUMENTED
    shown = [system.reference(title) for title, _, groups in group_results(runs) for system in groups]
    assert sorted(filter(None, shown)) == sorted(entry.text for entry in REFERENCES)


def test_the_pages_are_in_step_with_the_published_runs() -> None:
    runs = table.published()
    assert f"{table.SYSTEMS_MARKS[0]}\n{table.systems(runs)}\n" in table.README.read_text()
    page = table.PAGE.read_text()
    assert f"{table.MARKS[0]}\n{table.table(runs)}\n" in page
    assert f"{table.LIKELIHOOD_MARKS[0]}\n{table.likelihoods(runs)}\n" in page
    assert f"{table.DIAGNOSTIC_MARKS[0]}\n{table.diagnostics()}\n" in page
    assert f"{table.AIS_MARKS[0]}\n{table.annealed()}\n" in page


def test_the_diagnostics_have_their_errors(tmp_path: Path) -> None:
    counts = {"images": 7, "aggregate_images": 30, "simulations": 200, "how": "closed form"}
    test = {"amortization_gap": {"value": 1.234, "se": 0.056}, "active_units": {"value": 9.0}}
    (tmp_path / "vae-mnist.json").write_text(json.dumps(counts | {"test": test}))
    text = table.diagnostics(tmp_path)
    assert "| `vae-mnist` | 7 | - | - | - | 1.23 ± 0.06 | - | - | - |" in text
    assert "| `vae-mnist` | 30 | 200 | 9 | - | - | - | - | - |" in text
    assert text.endswith("log p(x) of `vae-mnist`: closed form.")


def test_annealing_agrees_within_two_monte_carlo_errors(tmp_path: Path) -> None:
    """A difference of the same images has its Monte Carlo error, and all else the error over images."""
    run = {"images": 7, "temperatures": 50, "chains": 16}
    for name, value in {"near": 0.19, "far": -0.21}.items():
        test = {"ais": {"value": 91.5, "se": 2.0, "mc_se": 0.3}}
        test |= {"ais_difference": {"value": value, "se": 0.5, "mc_se": 0.1}}
        simulated = test | {"ais_gap": {"value": 0.25, "se": 0.04}}
        (tmp_path / f"{name}.json").write_text(json.dumps(run | {"test": test, "simulated": simulated}))
    text = table.annealed(tmp_path)
    assert "| `near` | 7 | 50 | 16 | - | 91.500 ± 2.000 | 0.190 ± 0.100 | yes |" in text
    assert "| -0.210 ± 0.100 | no |" in text
    assert "| `far` | - | 91.500 ± 2.000 | -0.210 ± 0.100 | - | 0.250 ± 0.040 |" in text


def test_a_page_changes_only_between_its_marks(tmp_path: Path) -> None:
    page, marks = tmp_path / "page.md", ("<!-- here -->", "<!-- to here -->")
    page.write_text("before\n<!-- here -->\nold\n<!-- to here -->\nafter\n")
    table.write_between(page, marks, "new\nlines")
    assert page.read_text() == "before\n<!-- here -->\nnew\nlines\n<!-- to here -->\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(UserError, match=r"page.md has lost its marks\. Restore <!-- here -->"):
        table.write_between(page, marks, "new")
    assert page.read_text() == "no marks\n"


def test_published_files_are_results_and_nothing_else() -> None:
    files = [path for path in (table.ROOT / "runs" / "published").iterdir() if path.is_file()]
    parts = {"exact", "independent", "validation", "active_units", "skipped"}
    folders = {path.name for path in (table.ROOT / "runs" / "published").iterdir() if path.is_dir()}
    assert folders == {"weights", "diagnostics", "ais"}
    for path in files:
        content = upgraded_results(json.loads(path.read_text()))
        needed = {"model", "data", "observation", "steps", "seed", "seconds", "device", "test", "config"}
        assert path.suffix == ".json" and content.keys() - parts == needed
        assert not {"command", "data_dir"} & content["config"].keys()  # these belong to one machine
        assert content["data"] == content["config"]["data"] and "/" not in content["data"]
        assert all("value" in metric for metric in content["test"].values())


def test_missing_results_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results in .*\. Run this in the project's folder, or copy"):
        table.published(tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*page\.md\. Run this in the project's folder"):
        table.write_between(tmp_path / "page.md", table.MARKS, "new")


@pytest.mark.full
def test_an_installed_package_finds_the_results_of_the_current_directory(tmp_path: Path) -> None:
    """As after `pip install .`: the packages without the published results."""
    for package in ("inference", "ppl_models", "tools"):
        shutil.copytree(table.ROOT / package, tmp_path / "site" / package)
    command = [sys.executable, "-m", "tools.table"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}

    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)

    (tmp_path / "elsewhere").mkdir()
    done = run(tmp_path / "elsewhere")
    assert done.returncode == 2 and "Run this in the project's folder" in done.stderr
    published = tmp_path / "project" / "runs" / "published"
    published.mkdir(parents=True)
    (published / "vae.json").write_text(json.dumps(result("vae", 0, {"negative_elbo": 98.0})))
    done = run(tmp_path / "project")
    assert done.returncode == 0 and "| `vae` | mnist | 0 or 1 | 0 | 98.00 |" in done.stdout
