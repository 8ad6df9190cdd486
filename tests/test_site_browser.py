"""The built site, opened from files in a browser without network: search, links, narrow and wide screens."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag

import pytest

from tests.browser import overflow
from tools.site.pages import DOCS, collect

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.full
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without running its notebooks. Warnings are errors."""
    for name in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(name, reason="Sphinx, MyST-NB or Furo is not installed")
    folder = tmp_path_factory.mktemp("site")
    collect(folder / "pages")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", DOCS]
    command += ["-D", "nb_execution_mode=off", folder / "pages", folder / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("codebook", "derivations/12-vq-vae.html"),
        ("negative binomial", "howto/own-kinds.html"),
        ("particles", "reference/training.html"),
        ("Pareto", "derivations/16-"),
    ],
)
def test_the_search_finds_a_page(text: str, place: str, site: Path, open_page: Open) -> None:
    page = open_page(site / "search.html")
    page.locator("main input[name=q], #search-documentation input[name=q], form input[name=q]").last.fill(
        text
    )
    page.keyboard.press("Enter")
    page.wait_for_selector("ul.search li a")
    found = [link.get_attribute("href") for link in page.locator("ul.search li a").all()]
    assert any(place in (href or "") for href in found), found


@pytest.mark.parametrize(("width", "dark"), [(380, False), (1600, True)])
def test_every_page_fits_its_window(width: int, dark: bool, site: Path, browser: object) -> None:
    wide = {}
    context = browser.new_context(  # type: ignore[attr-defined]
        viewport={"width": width, "height": 1000}, color_scheme="dark" if dark else "light", offline=True
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if "://" in request.url[:8] else None)
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri(), wait_until="load")
        if (beyond := overflow(page)) > 0:
            wide[str(path.relative_to(site))] = beyond
    context.close()
    assert wide == {}
    assert [problem for problem in problems if not problem.startswith("file:")] == []


def test_every_link_leads_to_a_place(site: Path, browser: object) -> None:
    page = browser.new_page()  # type: ignore[attr-defined]
    links: dict[Path, set[str]] = {}
    names: dict[Path, set[str]] = {}
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        links[path] = set(
            page.eval_on_selector_all("a[href], img[src]", "all => all.map(e => e.href || e.src)")
        )
        names[path] = set(page.eval_on_selector_all("[id]", "all => all.map(e => e.id)"))
    page.close()
    broken = []
    for path, targets in links.items():
        for target in targets:
            address, fragment = urldefrag(target)
            if not address.startswith("file:"):
                continue
            file = Path(unquote(address.removeprefix("file://").split("?")[0]))
            if not file.is_file() or (fragment and file in names and unquote(fragment) not in names[file]):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert len(links) > 100 and broken == []
