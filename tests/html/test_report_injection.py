"""Text in a run folder from a stranger stays text in the pages: no script, handler or link of theirs."""

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inference import report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCRIPT = "<script>window.injected = 1</script>"
BREAKOUT = '"\'></text></svg></script></style></title><img src=x onerror="window.injected=1">' + SCRIPT
OWN_SCRIPTS = {
    "report.html": 1,
    "index.html": 2,
}  # without the explorer's; others hold data


@pytest.fixture(scope="module")
def hostile(report_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in which every text that a stranger can choose contains a script."""
    folder = tmp_path_factory.mktemp("hostile")
    run = shutil.copytree(report_runs / "ppca", folder / "javascript:window.injected=1")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line[BREAKOUT] = line["__proto__"] = line["<!--<script>"] = line["kl"]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    results = json.loads((run / "results.json").read_text())
    results |= {
        "device": BREAKOUT,
        "exact": {"images": 1, "how": BREAKOUT, "test": {BREAKOUT: {"value": 1.0}}},
        "ais": {"images": 1, "temperatures": 1, "chains": 1, "test": {}},
    }
    results["ais"]["simulated"] = {BREAKOUT: {"value": 1.0}}
    results["test"][BREAKOUT] = {"value": 1.0, "se": 0.1}
    (run / "results.json").write_text(json.dumps(results))
    config = json.loads((run / "config.json").read_text())
    config |= {
        "command": BREAKOUT,
        "commit": BREAKOUT,
        "platform": BREAKOUT,
        "gpu": BREAKOUT,
        "pixels": BREAKOUT,
    }
    config |= {
        "versions": {"torch": BREAKOUT, BREAKOUT: "1"},
        "checksum": BREAKOUT,
        "data": f"{SCRIPT}\udcff.npz",
    }
    (run / "config.json").write_text(json.dumps(config))
    shutil.copy(run / "figures" / "samples.png", run / "figures" / "<img src=x onerror=alert(1)>.png")
    shutil.copytree(run, run / "javascript:prior?#<b>")
    assert report.main([str(run)]) == 0
    (folder / "spoilt").mkdir()
    (folder / "spoilt" / "config.json").write_text(json.dumps(config | {"model": BREAKOUT}))
    assert report.main([str(folder)]) == 0
    return folder


class Tags(HTMLParser):
    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def pages(hostile: Path) -> list[Path]:
    return [*hostile.rglob("report.html"), hostile / "index.html"]


def test_every_value_is_text(hostile: Path) -> None:
    assert len(pages(hostile)) == 3
    for path in pages(hostile):
        tags = Tags(path).tags
        scripts = [attributes for tag, attributes in tags if tag == "script"]
        running = [attributes for attributes in scripts if attributes.get("type") != "application/json"]
        assert len(running) == OWN_SCRIPTS[path.name] and all(attributes == {} for attributes in running)
        for tag, attributes in tags:
            assert not any(name.startswith("on") for name in attributes)
            assert tag != "img" or (attributes["src"] or "").startswith("data:image/webp;")
            if tag == "a":
                address = attributes["href"] or ""
                assert address.startswith(("#", "./", "../"))
                assert address.startswith("#") or ":" not in address
        assert "window.injected" in path.read_text("utf-8")  # the page contains it as text


def test_a_link_leads_to_a_run_of_any_name(hostile: Path, browser: "Browser") -> None:
    page = browser.new_context(offline=True).new_page()
    page.goto((hostile / "index.html").as_uri())
    assert page.locator("#runs tbody a").count() == 2
    page.locator("#runs tbody a").first.click()
    page.wait_for_load_state()
    assert page.url.startswith("file:") and page.url.endswith("/report.html")
    page.locator("header a", has_text="prior").click()
    page.wait_for_load_state()
    assert page.url.startswith("file:") and page.url.endswith("prior%3F%23%3Cb%3E/report.html")
    page.context.close()


def test_nothing_is_run_and_the_curves_work(hostile: Path, open_page: Callable[..., "Page"]) -> None:
    """In Chromium, from a file, without messages on the console, which the fixture checks."""
    for path in pages(hostile):
        page = open_page(path)
        assert page.evaluate("window.injected") is None
        if path.name == "report.html":
            assert page.locator(".reader output").inner_text() == "40"
            assert page.locator(".panel").count() == page.locator(".panel .legend li output").count() // 2
        else:
            page.locator("#runs input").first.check()
            assert page.locator("#comparison .panel .line").count() > 3
            assert page.evaluate("Object.keys(Object.prototype).length") == 0
        assert page.evaluate("window.injected") is None


def test_a_script_that_got_into_a_page_is_not_run(hostile: Path, tmp_path: Path, browser: "Browser") -> None:
    """The policy has hashes: the page runs the scripts of the project and no other."""
    whole = next(hostile.rglob("report.html")).read_text("utf-8")
    assert "script-src &#39;sha256-" in whole and "script-src &#39;unsafe" not in whole
    link = '<a id="go" href="javascript:window.injected=1">x</a>'
    injected = f'<img src="data:," onerror="window.injected=1">{SCRIPT}{link}'
    (tmp_path / "page.html").write_text(whole.replace("<h1>", f"{injected}<h1>", 1), errors="replace")
    page = browser.new_context(offline=True).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "page.html").as_uri(), wait_until="load")
    page.locator("#go").click()
    assert page.evaluate("window.injected") is None
    assert page.locator(".reader output").inner_text() == "40"
    assert sum("Content Security Policy" in words for words in said) >= 2
    page.context.close()
