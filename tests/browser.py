"""Pages as a headless Chromium shows them, and whatever they complain of on the way.

Tests take the fixture `open_page`; without Chromium or playwright they are skipped, with a word.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OWN = ("file:", "data:", "blob:", "about:")  # what a page may ask for: nothing of these is a network's


@pytest.fixture(scope="module")  # its event loop is gone before other modules' tests begin
def browser() -> Iterator["Browser"]:
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """A function from a file, and how it is looked at, to its page once loaded.

    At the end of the test it fails where any page wrote an error or a warning on the console, raised one, or
    asked for anything over a network.
    """
    complaints: list[str] = []
    contexts = []

    def opened(
        path: Path,
        width: int = 1600,
        height: int = 1000,
        dark: bool = False,
        javascript: bool = True,
        touch: bool = False,
    ) -> "Page":
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
            has_touch=touch,
            offline=True,
        )
        contexts.append(context)
        page = context.new_page()

        def said(message: object) -> None:
            if message.type in ("error", "warning"):
                complaints.append(f"console: {message.text}")

        def asked(request: object) -> None:
            if not request.url.startswith(OWN):
                complaints.append(f"network: {request.url[:200]}")

        page.on("console", said)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", asked)
        page.goto(path.resolve().as_uri(), wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(complaints)


def overflow(page: "Page") -> int:
    """By how many pixels the page is wider than its window: above zero it scrolls sideways."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
