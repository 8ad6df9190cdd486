"""Fixtures that open pages in a headless Chromium and collect their errors.

Tests use the fixture `open_page`; they are skipped if Chromium or playwright is not installed.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOCAL = ("file:", "data:", "blob:", "about:")  # URL schemes that do not use the network


@pytest.fixture(scope="module")  # so that its event loop ends before tests of other modules start
def browser() -> Iterator["Browser"]:
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program)
        yield chromium
        chromium.close()


@contextmanager
def opener(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Yields a function that opens a file and returns its page once it has loaded.

    Fails at the end if a page has raised an error, logged an error or a warning, or requested anything
    over the network.
    """
    problems: list[str] = []
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

        def on_console(message: object) -> None:
            if message.type in ("error", "warning"):
                problems.append(f"console: {message.text}")

        def on_request(request: object) -> None:
            if not request.url.startswith(LOCAL):
                problems.append(f"network: {request.url[:200]}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", on_request)
        page.goto(path.resolve().as_uri(), wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems, "\n".join(problems)


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Returns the function of `opener`, for the pages of a test."""
    with opener(browser) as opened:
        yield opened


@pytest.fixture(scope="module")
def kept_page(browser: "Browser") -> Iterator[Callable[[Path], "Page"]]:
    """Returns a function that opens each file once, for tests that leave its page in any state."""
    with opener(browser) as opened:
        yield cache(opened)


def overflow(page: "Page") -> int:
    """Returns by how many pixels the page is wider than its window; above zero it scrolls sideways."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
