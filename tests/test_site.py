"""The pages of the documentation site, its formulas, and the notebooks."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import pyro
import pytest
import torch
import yaml

import inference
import inference.data
from inference import fit
from inference.data import load_dataset
from inference.data.dataset import Dataset
from inference.training.callbacks import History
from ppl_models import AE, MODELS, BetaVAE, GatedVAE
from ppl_models.base import LatentVariableModel
from tests.support import DOCUMENTED, shortened
from tests.test_docs import PAGES, formulas, links
from tools.site.models import model_pages
from tools.site.pages import DOCS, collect, site_links
from tools.site.reference import reference_pages

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
FAST = [DOCS / "tutorials" / name for name in ("01-elbo.ipynb", "03-mixture-priors.ipynb")]
COURSES = {  # notebook of a course: how the names of its deliverables begin
    "csds600": "csds600-hw1",
    "cs236-2021": "cs236-hw2",
    "cs294-158-2019": "cs294-2019-hw3",
    "cs294-158-2024": "cs294-2024-hw2",
    "cs566": "cs566",
}
TOCTREE = re.compile(r"^```\{toctree\}\n(?::\w+:\n)*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def entries(page: Path) -> list[str]:
    """Returns the pages in the table of contents of a page, relative to the folder of the site."""
    listed = [line for block in TOCTREE.findall(page.read_text()) for line in block.split("\n") if line]
    names = [re.sub(r"^.*<(.*)>$", r"\1", line) for line in listed]
    return [os.path.normpath(page.parent / name) for name in names if name != "self"]


def test_every_page_is_in_the_contents_once(tmp_path: Path) -> None:
    found = collect(tmp_path)
    assert {"howto/arrays", "overview", "reference/inference", "tutorials/01-elbo"} < set(found)
    assert {f"models/{name}" for name in DOCUMENTED} < set(found)
    listed = [os.path.relpath(entry, tmp_path) for page in tmp_path.rglob("*.md") for entry in entries(page)]
    assert sorted([*listed, "index"]) == found
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (tmp_path / "old.md").write_text("a page that is gone")
    assert collect(tmp_path) == found  # unchanged files are left alone
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == {
        path: time for path, time in times.items() if path.is_file()
    }


def test_the_reference_has_every_public_name() -> None:
    pages = "\n".join(reference_pages().values())
    missing = []
    for line in (DOCS / "public_api.txt").read_text().splitlines():
        name = line.split("(")[0].split(" ")[0].split(":")[0]
        parts = name.split(".")
        # A method is on the page of its class.
        owners = {".".join(parts[:number]) for number in range(2, len(parts) + 1)}
        if not any(re.search(rf":: {re.escape(owner)}$", pages, re.MULTILINE) for owner in owners):
            missing.append(name)
    assert missing == []


def test_the_page_of_a_model_shows_its_samples() -> None:
    about = yaml.safe_load((DOCS / "models.yaml").read_text("utf-8"))
    found = model_pages(DOCS.parent, {})
    for name, entry in about.items():
        page = found[f"models/{name}.md"]
        assert f"```\n{entry['command']}\n```" in page
        assert f"\n| `{name}" in page, f"no published run of {name}"
        path = DOCS / entry["sample"]
        shown = path.read_text("utf-8") if path.suffix == ".txt" else f"](../{entry['sample']})"
        assert shown in page and path.is_file() and entry["caption"] in page
    assert "```text\n" + (DOCS / "models" / "seq_vae.txt").read_text("utf-8") in found["models/seq_vae.md"]


@pytest.mark.parametrize("index", sorted(DOCS.glob("*/README.md")), ids=lambda index: index.parent.name)
def test_the_index_of_a_folder_links_to_each_of_its_pages(index: Path) -> None:
    linked = {target for _, _, target in links(index)}
    own = [path for suffix in ("md", "ipynb") for path in index.parent.glob(f"*.{suffix}")]
    assert {path.name for path in own} - {"README.md"} <= linked


def test_links_lead_to_where_the_site_has_the_file() -> None:
    page = DOCS / "howto" / "arrays.md"

    def moved(link: str) -> str:
        return site_links(link, page)

    assert moved("[a](../../README.md#add-a-model)") == "[a](../overview.md#add-a-model)"
    assert moved("[a](../derivations/README.md)") == "[a](../derivations/index.md)"
    assert moved("![a](../growth.png)") == "![a](../growth.png)"
    assert (
        moved("[`VAE.bound`](../../ppl_models/vae.py)") == "[`VAE.bound`](source:ppl_models/vae.py#VAE.bound)"
    )
    assert moved("[`t.py::f`](../../tests/t.py)") == "[`t.py::f`](source:tests/t.py#f)"
    assert moved("[`A` and `B`](../../ppl_models/vae.py)") == "[`A` and `B`](source:ppl_models/vae.py)"
    assert moved("```\n[a](b.md)\n```\n[a](https://b.org)") == "```\n[a](b.md)\n```\n[a](https://b.org)"
    with pytest.raises(ValueError, match=r"the site does not have .*setup\.cfg"):
        moved("[a](../../setup.cfg)")


def test_katex_renders_every_formula(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    katex = (DOCS / "_static" / "katex" / "katex.min.js").as_uri()
    (tmp_path / "page.html").write_text(
        f"<!doctype html><meta charset='utf-8'><script src='{katex}'></script>"
    )
    page = open_page(tmp_path / "page.html")
    cells = [cell for path in NOTEBOOKS for cell in json.loads(path.read_text())["cells"]]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    (tmp_path / "notebooks.md").write_text(text)
    found = [tex for path in [*PAGES, tmp_path / "notebooks.md"] for _, tex, _ in formulas(path)]
    assert len(found) > 500
    render = "found => found.filter(tex => { try { katex.renderToString(tex) } catch { return true } })"
    assert page.evaluate(render, [*found, r"\frac{"]) == [r"\frac{"]


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_output_and_its_links_lead_to_files(path: Path, tmp_path: Path) -> None:
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code_cells(path))
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
    page = tmp_path / "page.md"
    page.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    missing = [target for _, _, target in links(page) if not (path.parent / target).exists()]
    assert not missing
    wrong = [(formula, problem) for _, formula, problem in formulas(page) if problem]
    assert not wrong


@pytest.mark.parametrize("course", COURSES)
def test_the_notebook_of_a_course_has_every_deliverable_in_order(course: str) -> None:
    names = [line.partition("\t")[0] for line in (DOCS / "deliverables").read_text().splitlines()]
    cells = json.loads((DOCS / "courses" / f"{course}-notebook.ipynb").read_text())["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    headings = re.findall(r"^#+ .*`([^`]+)`$", text, re.MULTILINE)
    expected = [name for name in names if name.startswith(f"{COURSES[course]}-")]
    assert headings == expected and expected


@pytest.fixture
def run_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Returns a function that executes the code cells of a notebook, and restores what they change."""
    backend, rng, known = matplotlib.get_backend(), torch.get_rng_state(), MODELS.copy()
    monkeypatch.chdir(tmp_path)  # a notebook may write files
    monkeypatch.setattr(sys, "path", sys.path.copy())
    matplotlib.use("Agg")
    from matplotlib import pyplot

    def run(path: Path, full_size: bool = False) -> None:
        namespace: dict[str, object] = {"__name__": "__main__"}
        with pyro.get_param_store().scope():
            for cell in code_cells(path):
                source, name = "".join(cell["source"]), f"{path.name}, {cell['id']}"
                if full_size:
                    source = source.replace("FULL_SIZE = False", "FULL_SIZE = True")
                # The assert statements, which optimize=1 leaves out, are about trained models.
                exec(compile(source, name, "exec", optimize=int(full_size)), namespace)
                if full_size and "STEPS" in namespace:
                    namespace["STEPS"] = 20  # of the loops that do not use fit
                pyplot.close("all")
        assert namespace.get("FULL_SIZE", False) == full_size

    try:
        yield run
    finally:
        MODELS.clear()
        MODELS.update(known)
        pyplot.close("all")
        matplotlib.use(backend)
        torch.set_rng_state(rng)


@pytest.mark.parametrize("path", shortened(NOTEBOOKS, FAST), ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, run_cells: Callable[..., None]) -> None:
    run_cells(path)


FULL_SIZE = [path for path in NOTEBOOKS if "FULL_SIZE = False" in path.read_text("utf-8")]
IMAGES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32), "svhn-extra": (3, 32, 32), "cifar10": (3, 32, 32)}


def few_images(name: str, train: int = 200, test: int = 100, **options: Any) -> Dataset:
    """Returns noise with the shape of images that `load_dataset` would download or read, or another set."""
    shape = IMAGES.get(re.sub(r"_\d+k\.npz$", "", str(name)))
    if shape is None:
        return load_dataset(name, **options)
    generator = torch.Generator().manual_seed(0)
    x = [torch.randint(256, (n, *shape), dtype=torch.uint8, generator=generator) for n in (train, test)]
    y = [torch.arange(len(part)) % 10 for part in x]
    return Dataset(name, x[0], y[0], x[1], y[1])


def few_steps(model: LatentVariableModel, train: Any, **settings: Any) -> History:
    """Trains for two steps."""
    warmups = {name: 1 for name in ("lr_warmup", "kl_warmup") if settings.get(name)}
    return fit(model, train, **settings | {"steps": 2} | warmups)


@pytest.mark.parametrize("path", shortened(FULL_SIZE, FAST), ids=lambda path: path.stem)
def test_a_notebook_at_full_size_executes(
    path: Path, run_cells: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell, with the networks of the full size."""
    monkeypatch.setattr(inference, "fit", few_steps)
    monkeypatch.setattr(inference.data, "load_dataset", few_images)
    run_cells(path, full_size=True)


BLOCK = re.compile(r'^```sh\npython -c "\n(.*?)"\n```$', re.MULTILINE | re.DOTALL)
BLOCKS = {
    f"{page.stem}-{i}": code
    for page in sorted(DOCS.glob("courses/*.md"))
    for i, code in enumerate(BLOCK.findall(page.read_text("utf-8")))
}
RUNS = {
    "AE_RUN": (AE, (1, 28, 28)),
    "BETA_VAE_RUN": (BetaVAE, (1, 28, 28)),
    "RUN_DIR": (GatedVAE, (3, 32, 32)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_code_of_a_course_page_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With untrained models in the place of runs, and noise in the place of images."""

    def untrained(run: str) -> LatentVariableModel:
        cls, shape = RUNS[run]
        return cls(shape, 0).eval()

    monkeypatch.setattr(inference, "load", untrained)

    monkeypatch.setattr(inference.data, "load_dataset", partial(few_images, train=8, test=2))
    with torch.random.fork_rng():
        exec(compile(BLOCKS[name], name, "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"\d", printed) and "nan" not in printed
