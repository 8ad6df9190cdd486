"""The built site, opened from files in a browser without network: search, links, narrow and wide screens."""

import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from tests.browser import overflow
from tools.site.pages import DOCS, collect

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.full
# Text to search for, and the beginning of a page that has it.
SEARCHES = {
    "codebook": "derivations/12-vq-vae.html",
    "word dropout": "howto/text.html",
    "early stopping": "howto/early-stopping.html",
    "Pareto": "derivations/16-",
}


class Targets(HTMLParser):
    """Collects the links, pictures and ids of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (tag, name) in {("a", "href"), ("link", "href"), ("img", "src"), ("script", "src")}:
                self.links.add(value)
            if value and name == "id":
                self.ids.add(value)


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


def test_the_search_finds_pages(site: Path, open_page: Callable[..., "Page"]) -> None:
    page = open_page(site / "search.html")
    for text, place in SEARCHES.items():
        page.locator("form input[name=q]").last.fill(text)
        page.keyboard.press("Enter")
        page.wait_for_url("**q=" + text.replace(" ", "+") + "*")
        page.wait_for_selector("ul.search li a")
        page.wait_for_function("document.querySelector('.search-summary').innerText.includes('found')")
        found = page.locator("ul.search li > a").evaluate_all("all => all.map(e => e.getAttribute('href'))")
        assert any(link.startswith(place) for link in found), (text, found)


@pytest.mark.parametrize(("width", "dark"), [(380, False), (1600, True)])
def test_every_page_fits_its_window(
    width: int, dark: bool, site: Path, open_page: Callable[..., "Page"]
) -> None:
    page = open_page(site / "index.html", width=width, dark=dark)
    wide = {}
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri(), wait_until="load")
        if (beyond := overflow(page)) > 0:
            wide[str(path.relative_to(site))] = beyond
    assert wide == {}


def test_every_link_leads_to_a_place(site: Path) -> None:
    pages: dict[Path, Targets] = {}
    for path in site.rglob("*.html"):
        pages[path] = Targets()
        pages[path].feed(path.read_text("utf-8"))
    broken = []
    for path, targets in pages.items():
        for link in targets.links:
            address, fragment = urldefrag(link)
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            file = (path.parent / unquote(address.split("?")[0])).resolve() if address else path
            known = pages.get(file)
            if not file.is_file() or (fragment and known and unquote(fragment) not in known.ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert len(pages) > 100 and broken == []
