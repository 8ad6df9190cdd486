"""Reports of runs of every kind, and an index of them, as files; other tests open them in a browser."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from PIL import Image

from inference import exact, report, svi
from inference.backend.device import double_precision
from inference.data.batches import Batches
from inference.errors import UserError
from inference.html import curves as report_curves
from inference.html import explorer, formatting, pictures, references
from inference.html import index as report_index
from inference.html import page as report_page
from inference.html import report as html_report
from inference.html.references import REFERENCES, Reference
from inference.html.results import system_of
from inference.metrics.run_comparison import compare_run, compare_trained
from ppl_models import MODELS
from tests import forks
from tests.support import LONGER, reported

EVERY = ["training", "diagram", "curves", "reproduction", "comparison"]


@pytest.fixture(scope="module")
def index(report_runs: Path) -> Path:
    return report_index.write(report_runs)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text("utf-8")
        self.open: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def named(self, *tags: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.tags if tag in tags)

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.named("section") if "id" in attributes]

    @property
    def values(self) -> set[float]:
        return {float(attributes["value"] or "nan") for attributes in self.named("data")}


def numbers(results: dict) -> Iterator[float]:
    """All numbers of a run's results that its report must contain."""
    for part in ("test", "validation", "independent"):
        own = results.get(part, {})
        for name, metric in own.items():
            if sum(other.startswith("kl_") for other in own) > 1 or not name.startswith("kl_"):
                yield from metric.values()


@pytest.mark.parametrize("kind", ["ssvae", "vae2d", "made", "ppca", "ae", "vqvae", "vqvae/prior-pixelcnn"])
def test_training_writes_a_complete_report(kind: str, report_runs: Path) -> None:
    run = report_runs / kind
    page, results = Page(run / "report.html"), json.loads((run / "results.json").read_text())
    model = MODELS[results["model"]]
    assert {*EVERY, "results", "figures"} <= set(page.sections)
    drawn = [path for path in (run / "figures").glob("*.png") if path.stem != "curves"]
    assert drawn and len(list(page.named("img"))) >= len(drawn)
    assert ("explorer" in page.sections) == (kind in ("ssvae", "vae2d", "ae", "ppca"))  # a vector z, decoded
    assert set(numbers(results)) <= page.values
    config = json.loads((run / "config.json").read_text())
    for text in (config["checksum"], config["commit"] or "", config["command"], f"seed {config['seed']}"):
        assert text in page.text
    assert all(line in page.text for line in (model.__doc__ or "").splitlines()[:1])
    assert "DOES NOT AGREE" not in page.text and "agrees" in page.text
    assert (run / "report.html").stat().st_size < 5_000_000


def test_a_report_has_counts_units_and_changed_options(report_runs: Path) -> None:
    page = Page(report_runs / "ssvae" / "report.html")
    assert "1\u202f167 training, 500 test, 130 validation images of 1x8x8, 10 classes" in page.text
    assert "<b>hidden 16</b>" in page.source and "nats per image" in page.text
    plane = Page(report_runs / "vae2d" / "report.html")
    assert "nats per point" in plane.text and "nats per image" not in plane.text


def test_nothing_is_fetched(report_runs: Path, index: Path) -> None:
    for path in (*report_runs.rglob("report.html"), index):
        page = Page(path)
        (policy,) = (tag["content"] for tag in page.named("meta") if tag.get("http-equiv"))
        assert policy.startswith(report_page.POLICY + "'sha256-") and "unsafe-inline'; script" not in policy
        for attributes in page.named("img", "script", "iframe", "source", "image", "use"):
            address = attributes.get("src") or attributes.get("xlink:href") or "#"
            assert address.startswith(("data:", "#"))
        assert not list(page.named("link", "base", "object", "embed"))
        assert not re.search(r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest|WebSocket|import\(", page.source)
        for attributes in page.named("a"):
            address = attributes["href"] or ""
            assert address.startswith("#") or (path.parent / address).exists()


def test_a_page_is_accessible(report_runs: Path, index: Path) -> None:
    for path in (*report_runs.rglob("report.html"), index):
        page = Page(path)
        assert all(attributes.get("alt") for attributes in page.named("img"))
        panels = [tag for tag in page.named("svg") if tag.get("role") == "img"]
        assert all(attributes.get("aria-label") for attributes in panels)
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(below <= above + 1 for above, below in pairwise(levels))
        names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(names) == len(set(names))
        assert next(page.named("a")) == {"class": "skip", "href": "#content"} and "content" in names


def test_curves_have_the_values_of_the_metrics(report_runs: Path) -> None:
    run = report_runs / "ssvae"
    page = (run / "report.html").read_text("utf-8")
    found = re.search(r'<script type="application/json">(\{"series".*?)</script>', page)
    assert found
    series = json.loads(found[1])["series"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"negative_elbo", "accuracy", "kl_z", "kl_y"} < series.keys()
    for name, of in series.items():
        for split, curve in of.items():
            assert curve == [[a["step"], a[name]] for a in lines if a["split"] == split and name in a]
    assert all(f"<td>{line['negative_elbo']:.6g}</td>" in page for line in lines)


def test_a_long_run_s_curves_are_thinned_to_their_last_point() -> None:
    lines = [{"step": step, "split": "train", "seconds": 0.0, "loss": 1.0 / step} for step in range(1, 5_001)]
    kept = report_curves.thinned(lines)
    assert len(kept) == 1_000 and kept[-1] is lines[-1]
    assert len(report_curves.curves(lines, "image")) < 500_000
    assert report_curves.thinned(lines[:7]) == lines[:7]


def test_references_are_those_of_the_tables(
    report_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(report_runs / "vae2d", run)
    results = json.loads((run / "results.json").read_text())
    system = system_of(results)
    text = "true density & <more>: 4.4184"
    added = Reference("Points", system.model, dict(system.settings), system.data, text)
    monkeypatch.setattr(references, "REFERENCES", [*REFERENCES, added])
    page = html_report.html(html_report.gather(run))
    assert "true density &amp; &lt;more&gt;: 4.4184" in page


def test_numbers_show_two_digits_of_their_error() -> None:
    metric = {"value": 99.61981, "se": 0.29451, "mc_se": 0.0129957}
    assert formatting.numbers("negative_elbo", metric) == ("99.62", "0.29", "0.013")
    assert formatting.numbers("accuracy", {"value": 0.8571, "se": 0.0035}) == ("85.71", "0.35", "")
    assert formatting.numbers("perplexity", {"value": 101.23456}) == ("101.235", "", "")
    assert formatting.numbers("kl", {"value": 1234.5, "se": 123.4, "mc_se": 0.0}) == ("1234", "123", "0")
    assert formatting.brief("accuracy", {"value": 0.8571, "se": 0.0035}) == "85.71 ± 0.35 %"


def test_embedded_figures_have_at_most_so_many_bytes(tmp_path: Path) -> None:
    noise = torch.randint(256, (300, 200, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(tmp_path / "noise.png")
    for most in (250_000, 60_000, 5_000):
        address, width, height = pictures.embedded(tmp_path / "noise.png", most)
        assert len(address) < 4 / 3 * most + 100 and (width, height) == (200, 300)
        assert len(pictures.thumbnail(tmp_path / "noise.png", most)) < 4 / 3 * most + 100


def test_a_figure_that_fits_is_embedded_without_loss(tmp_path: Path) -> None:
    noise = torch.randint(256, (30, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(tmp_path / "noise.png")
    address, _, _ = pictures.embedded(tmp_path / "noise.png", 10_000)
    kind, _, content = address.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        assert kind == "data:image/webp" and (np.asarray(shown) == noise.numpy()).all()


def test_a_report_has_at_most_its_size(report_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = html_report.gather(report_runs / "ae")
    whole = len(html_report.html(it).encode())
    monkeypatch.setattr(html_report, "SIZE", whole - 100_000)
    assert (
        len(html_report.html(it).encode()) < whole - 50_000
    )  # 20 000 bytes of style and script are not counted


def test_a_report_preserves_the_rng_state(report_runs: Path) -> None:
    before = torch.get_rng_state()
    html_report.html(html_report.gather(report_runs / "ssvae"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_report_of_an_unfinished_run(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, draw = tmp_path / "run", Batches.__call__

    def crash(self: Batches, step: int) -> dict[str, torch.Tensor]:
        if step == 17:
            raise MemoryError
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__call__", crash)
        with pytest.raises(MemoryError):
            svi.main(["--model", "vae", *LONGER, "--data", str(small_npz), "--run-dir", str(run)])
    assert not (run / "report.html").exists()
    assert report.main([str(run)]) == 0
    page = Page(run / "report.html")
    assert "Training is not finished: step 16 of 40" in page.text and f"--resume {run}" in page.text
    assert set(EVERY) <= set(page.sections) and "results" not in page.sections

    (run / "checkpoint.pt").write_bytes(b"damaged")
    assert report.main([str(run)]) == 0  # the readable part is reported, and why the rest is missing
    assert "checkpoint.pt is damaged" in Page(run / "report.html").text

    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no metrics to report yet"):
        report.main([str(run)])


def test_a_run_without_its_data_has_a_report(report_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise UserError("digits have <gone>")

    monkeypatch.setattr(html_report, "load_data", gone)
    page = html_report.html(html_report.gather(report_runs / "ssvae"))
    assert "Not computed here: digits have &lt;gone&gt;. Run it separately" in page
    assert (
        all(f'id="{name}"' in page for name in ("diagram", "results", "curves"))
        and 'id="explorer"' not in page
    )


def test_later_measurements_update_the_report(report_runs: Path, tmp_path: Path, with_report: None) -> None:
    run = tmp_path / "run"
    shutil.copytree(report_runs / "ppca", run)
    (run / "report.html").unlink()
    assert exact.main([str(run), "--images", "5"]) == 0
    page, known = Page(run / "report.html"), json.loads((run / "results.json").read_text())["exact"]
    assert f"log p(x) and its bounds, by {known['how']}" in page.text
    assert {figure["value"] for figure in known["test"].values()} <= page.values
    assert exact.main([str(run), "--images", "5", "--ais", "2"]) == 0
    page, found = Page(run / "report.html"), json.loads((run / "results.json").read_text())["ais"]
    assert "annealed importance sampling of log p(x), 2 temperatures, 5 simulated" in page.text
    shown = {metric["value"] for part in ("test", "simulated") for metric in found[part].values()}
    assert shown <= page.values


def test_two_stages_lead_to_each_other(report_runs: Path) -> None:
    for run, other in (("vqvae", "./prior-pixelcnn/report.html"), ("vqvae/prior-pixelcnn", "../report.html")):
        page = Page(report_runs / run / "report.html")
        assert other in [attributes["href"] for attributes in page.named("a")]


def test_training_succeeds_if_its_report_cannot_be_made(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the training has no steps left."""
    for name in ("a", "b"):
        shutil.copytree(finished_run, tmp_path / name)

    def unforeseen(*_: object) -> str:
        raise ZeroDivisionError("of some kind")

    monkeypatch.setattr(explorer, "section", unforeseen)
    with reported():
        assert svi.main(["--resume", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "results.json").exists() and not (tmp_path / "a" / "report.html").exists()
    assert "has no report (of some kind)" in capsys.readouterr().err

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(explorer, "section", full)
    with reported():
        assert svi.main(["--resume", str(tmp_path / "b")]) == 1
    assert (
        f"cannot write the report into {tmp_path / 'b'} (No space left on device)" in capsys.readouterr().err
    )


def test_a_model_of_a_script_without_docstrings_has_a_report(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys\nfrom inference import fit\nfrom inference.data import load_dataset\n"
        "from ppl_models import VAE, register\n\n"
        "@register('mine')\nclass Mine(VAE):\n    pass\n\n\n"
        "@register('described')\nclass Described(VAE):\n    'Own words.'\n\n\n"
        "for cls in (Mine, Described):\n"
        "    model = cls((1, 8, 8), z_dim=2, hidden=8)\n"
        "    fit(model, load_dataset('digits'), steps=2, run_dir=cls.registered_name, progress=False)\n"
    )
    done = forks.run(str(script), cwd=tmp_path)
    assert done.returncode == 0 and "no report" not in done.stderr, done.stderr
    assert "Own words." in (tmp_path / "described" / "report.html").read_text("utf-8")
    assert "mine on digits" in (tmp_path / "mine" / "report.html").read_text("utf-8")


def test_the_index_has_every_run(report_runs: Path, index: Path) -> None:
    page = Page(index)
    rows = {attributes["data-run"]: attributes for attributes in page.named("tr") if "data-run" in attributes}
    folders = {str(found.parent.relative_to(report_runs)) for found in report_runs.rglob("config.json")}
    assert rows.keys() == folders and len(folders) == 7
    assert rows["vae2d"]["data-data"] == "gauss-full-1"
    found = re.search(r'id="data">(.*?)</script>', page.source)
    assert found
    data = json.loads(found[1])
    for name in folders:
        results = json.loads((report_runs / name / "results.json").read_text())
        shown = {
            formatting.brief(key, metric) for key, metric in formatting.distinct(results["test"]).items()
        }
        assert set(data[name]["results"].values()) == shown
        values = {float(cell["data-value"] or "nan") for cell in page.named("td") if "data-value" in cell}
        headlines = [results["test"][key]["value"] for key in formatting.HEADLINES if key in results["test"]]
        assert set(headlines) <= values
    assert data["ssvae"]["figures"].keys() == {"samples", "reconstructions"}
    assert index.stat().st_size < 5_000_000


def test_an_index_names_damaged_runs(report_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(report_runs / "made", tmp_path / "made")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert report.main([str(tmp_path)]) == 0
    page = Page(tmp_path / "index.html")
    assert "1 run." in page.text and "broken/config.json is damaged" in page.text


@pytest.mark.parametrize("what", ["nowhere", "empty", "damaged", "file"])
def test_bad_input_is_one_line_and_status_2(what: str, tmp_path: Path) -> None:
    folder = tmp_path / what
    if what == "file":
        folder.write_text("")
    elif what != "nowhere":
        folder.mkdir()
    if what == "damaged":
        (folder / "config.json").write_text('{"model": "vae"}')
    with pytest.raises(UserError, match=str(folder)):
        report.main([str(folder)])
    if what == "empty":  # one goes through the command itself
        done = forks.run("-m", "inference.report", str(folder))
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_comparison_of_a_model_and_of_its_run_are_equal(report_runs: Path) -> None:
    pyro.set_rng_seed(1)
    it = html_report.gather(report_runs / "made")
    with double_precision():
        (by_run,) = compare_run(report_runs / "made", None, 3, 0)
        assert it.data is not None
        (by_model,) = compare_trained(it.model.double(), it.run.config, it.data, 3, 0)
    assert by_run == {**by_model, "model": f"made of {report_runs / 'made'}"} and by_model["agrees"]
