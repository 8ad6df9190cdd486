"""Reports and an index in a browser: reading, sorting, filtering and comparing with the keyboard."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inference.html import index as report_index
from tests.browser import overflow
from tests.support import shortened

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
KINDS = ["ssvae", "vae2d", "made", "vqvae/prior-pixelcnn"]
SECONDS = "performance.timing.loadEventEnd - performance.timing.navigationStart"  # in milliseconds


@pytest.fixture(scope="module")
def index(report_runs: Path) -> Path:
    return report_index.write(report_runs)


def contrast(page: "Page", selector: str) -> float:
    """The contrast between the text of an element and the background of the page (WCAG formula)."""

    def light(colour: str) -> float:
        channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    ink = page.eval_on_selector(
        selector,
        "e => getComputedStyle(e).fill.startsWith('rgb') && e.closest('svg') "
        "? getComputedStyle(e).fill : getComputedStyle(e).color",
    )
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    low, high = sorted((light(ink), light(paper)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("kind", shortened(KINDS, ["ssvae"]))
def test_a_report_opens_quickly_and_fits(kind: str, report_runs: Path, open_page: Open) -> None:
    """Without console messages or requests, which the fixture checks."""
    for width, dark in ((380, False), (1600, True)):
        page = open_page(report_runs / kind / "report.html", width=width, dark=dark)
        assert 0 < page.evaluate(SECONDS) < 2_000
        assert overflow(page) <= 0
        for selector in ("h1", "dt", "nav a", ".panel text", "caption", ".diagram svg g"):
            assert contrast(page, selector) >= 4.5, selector


@pytest.mark.full
def test_text_is_large_on_a_projector(report_runs: Path, open_page: Open) -> None:
    size = "parseFloat(getComputedStyle(document.body).fontSize)"
    assert open_page(report_runs / "made" / "report.html", width=380).evaluate(size) >= 16
    assert open_page(report_runs / "made" / "report.html", width=1920).evaluate(size) >= 20


def test_curves_work_with_the_keyboard(report_runs: Path, open_page: Open) -> None:
    page = open_page(report_runs / "ssvae" / "report.html")
    lines = [json.loads(line) for line in (report_runs / "ssvae" / "metrics.jsonl").read_text().splitlines()]

    def read(term: str, split: str) -> str:
        return page.inner_text(f'.panel[data-term="{term}"] [data-series="{split}"] output')

    def said(step: int, split: str, term: str) -> str:
        (value,) = (line[term] for line in lines if (line["step"], line["split"]) == (step, split))
        return f"{value:.5g}"

    slider = page.locator(".reader input")
    for _ in range(60):  # with Tab only
        page.keyboard.press("Tab")
        if slider.evaluate("e => e === document.activeElement"):
            break
    assert read("accuracy", "test") == said(40, "test", "accuracy")
    assert read("negative_elbo", "train") == said(40, "train", "negative_elbo")
    page.keyboard.press("Home")
    assert page.inner_text(".reader output") == "0" and read("negative_elbo", "train") == "-"
    assert read("negative_elbo", "validation") == said(0, "validation", "negative_elbo")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    for term in ("negative_elbo", "kl_z", "kl_y", "accuracy"):
        assert read(term, "test") == said(4, "test", term)
    assert f"test set: {said(4, 'test', 'kl_y')}" in (slider.get_attribute("aria-valuetext") or "")


@pytest.mark.parametrize("touch", shortened([False, True], [False]))
def test_curves_work_with_a_pointer(touch: bool, report_runs: Path, open_page: Open) -> None:
    page = open_page(report_runs / "ssvae" / "report.html", width=380 if touch else 1600, touch=touch)
    panel = page.locator(".panel svg").first
    panel.scroll_into_view_if_needed()
    box = panel.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 218 / 400, box["y"] + box["height"] / 2  # midway between 62 and 374
    if touch:
        page.touchscreen.tap(x, y)
    else:
        page.mouse.move(x, y)
    assert page.inner_text(".reader output") == "20"


@pytest.mark.full
def test_without_javascript_everything_is_shown(report_runs: Path, index: Path, open_page: Open) -> None:
    page = open_page(report_runs / "ssvae" / "report.html", javascript=False)
    assert page.locator(".panel .line.test").first.is_visible()
    assert page.locator(".panel text", has_text="nats per image").first.is_visible()
    page.locator("summary", has_text="measurements").click()
    assert page.locator("details table").last.is_visible()
    assert open_page(index, javascript=False).locator("#runs tbody a").count() == 7


@pytest.mark.full
def test_print_is_black_on_white_and_not_cut_off(report_runs: Path, open_page: Open) -> None:
    page = open_page(report_runs / "ssvae" / "report.html", dark=True)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.locator(".reader input").is_visible() and not page.locator("nav").is_visible()
    page.set_viewport_size({"width": 700, "height": 1000})  # about the width of A4
    cut = "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    assert page.eval_on_selector_all("img, svg", cut) == 0


def test_an_index_sorts_filters_and_compares_with_the_keyboard(
    index: Path, report_runs: Path, open_page: Open
) -> None:
    page = open_page(index)
    results = {
        str(path.parent.relative_to(report_runs)): json.loads(path.read_text())
        for path in report_runs.rglob("results.json")
    }

    def shown() -> list[str]:
        return page.eval_on_selector_all(
            "#runs tbody tr", "rows => rows.filter(r => !r.hidden).map(r => r.dataset.run)"
        )

    heading = page.locator("#runs thead th", has_text="KL").first
    for order, sign in (("ascending", 1), ("descending", -1)):
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == order
        known = {name: run["test"]["kl"]["value"] for name, run in results.items() if "kl" in run["test"]}
        assert shown()[: len(known)] == sorted(known, key=lambda name: sign * known[name])
        assert len(shown()) == 7  # runs without a value come last

    page.locator("#query").focus()
    page.keyboard.type("digits vae")
    assert shown() == ["ssvae"] and "1 of 7 shown" in page.inner_text("#filters")
    page.locator("#query").fill("")
    page.select_option("#model", "made")
    assert shown() == ["made"]
    page.select_option("#model", "")
    page.select_option("#set", "gauss-full-1")
    assert shown() == ["vae2d"]
    page.select_option("#set", "")

    assert not page.locator("#comparison").is_visible()
    for name in ("ppca", "ssvae"):
        page.locator(f'tr[data-run="{name}"] input').focus()
        page.keyboard.press("Space")
    comparison = page.locator("#comparison table")
    assert comparison.locator("thead th").all_inner_texts() == ["run", "ppca", "ssvae"]
    value = results["ssvae"]["test"]["accuracy"]["value"]
    assert f"{100 * value:.1f} ± " in comparison.locator("tr", has_text="accuracy").inner_text()
    assert page.locator('#comparison .panel[data-term="negative_elbo"] .line').count() == 2
    assert page.locator("#comparison img").count() == 4
    page.locator("#comparison .reader input").focus()
    page.keyboard.press("Home")
    lines = [json.loads(line) for line in (report_runs / "ppca" / "metrics.jsonl").read_text().splitlines()]
    read = page.inner_text('#comparison .panel[data-term="negative_elbo"] [data-series="ppca"] output')
    assert read == f"{lines[0]['negative_elbo']:.5g}" and lines[0]["split"] == "test"
    page.locator('tr[data-run="ppca"] input').focus()
    page.keyboard.press("Space")
    assert comparison.locator("thead th").all_inner_texts() == ["run", "ssvae"]


@pytest.mark.full
@pytest.mark.parametrize("width", [380, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_an_index_opens_quickly_and_fits(width: int, dark: bool, index: Path, open_page: Open) -> None:
    page = open_page(index, width=width, dark=dark)
    assert 0 < page.evaluate(SECONDS) < 2_000
    for box in page.locator("#runs input").all():
        box.check()
    assert overflow(page) <= 0
    assert all(
        contrast(page, selector) >= 4.5 for selector in ("h1", "caption", "#runs thead button", "#runs a")
    )


@pytest.mark.full
def test_links_lead_to_the_other_stage_and_the_skip_link_to_the_content(
    report_runs: Path, open_page: Open
) -> None:
    page = open_page(report_runs / "vqvae" / "report.html")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#content")
    page.locator("header a", has_text="prior").click()
    page.wait_for_load_state()
    assert "code_pixelcnn" in page.inner_text("h1")
