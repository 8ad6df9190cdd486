"""The latent explorer in a browser: it shows the images of torch, and every control works."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from markupsafe import Markup

from inference.html import explorer
from inference.html.page import page as html
from ppl_models.base import LatentVariableModel
from tests.browser import overflow
from tests.html.test_explorer import by_torch, lively
from tests.support import shortened

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("vae", "gmvae", "ssvae", "beta_vae", "fsvae", "vae2d")  # in their sizes for real data
IMAGES = NAMES[:-1]
LABELLED = ("ssvae", "fsvae")
Open = Callable[..., "Page"]
Pages = Callable[[str], tuple[Path, LatentVariableModel]]

# The pixels of a canvas, row by row, without the alpha channel.
PIXELS = """(canvas) => {
    const context = canvas.getContext('2d'), {width, height} = canvas;
    return Array.from(context.getImageData(0, 0, width, height).data).filter((_, i) => i % 4 < 3);
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """A function that returns a page with a model's explorer, and the model; each is made once."""
    made: dict[str, tuple[Path, LatentVariableModel]] = {}
    folder = tmp_path_factory.mktemp("explorers")

    def of(name: str) -> tuple[Path, LatentVariableModel]:
        if name not in made:
            data, model = lively(name)
            path = folder / f"{name}.html"
            body = Markup("<main>{}</main>").format(explorer.section(data, model))
            path.write_text(html(name, body, explorer.SCRIPTS))
            made[name] = path, model
        return made[name]

    return of


def ask(page: "Page", what: str, *given: object) -> object:
    """The value of a JavaScript expression of the explorer `w`, after the next frame."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate(
        f"([...given]) => {{ const w = document.getElementById('explorer'); return {what} }}", given
    )


def wait(page: "Page", what: str, seconds: float = 10.0) -> None:
    """Waits until an expression of the explorer `w` is true.

    `page.wait_for_function` of the oldest supported Playwright evaluates text; the policy refuses that.
    """
    deadline = time.monotonic() + seconds
    while not ask(page, what):
        assert time.monotonic() < deadline, what


def shown(page: "Page", name: str = "decoded") -> str:
    """The content of a canvas as a data URL."""
    return ask(page, f"w.querySelector('.{name}').toDataURL()")


def plane(page: "Page") -> np.ndarray:
    """The position of the point in the plane of the first two principal directions."""
    code = "JSON.parse(document.getElementById('explorer-data').textContent)"
    mean, directions = (np.array(ask(page, f"{code}.{name}")) for name in ("mean", "directions"))
    return directions[:2] @ (np.array(ask(page, "w.z")) - mean)


@pytest.mark.parametrize("name", shortened(NAMES, ["fsvae", "vae2d"]))
def test_decoded_images_equal_torch_within_a_hundredth(pages: Pages, kept_page: Open, name: str) -> None:
    path, model = pages(name)
    page = kept_page(path)
    z = 1.5 * torch.randn(12, model.z_dim)
    y = torch.arange(12) % model.classes if model.has_label else None
    found = ask(
        page,
        "given[0].map((z, i) => Array.from(w.decode(z, given[1][i])))",
        z.tolist(),
        [0] * 12 if y is None else y.tolist(),
    )
    expected = by_torch(model, z, y)
    assert expected.std(0).max() > 0.02
    assert np.abs(np.array(found) - expected).max() < 1e-2


@pytest.mark.full
@pytest.mark.parametrize("name", IMAGES)
def test_the_canvas_shows_the_decoded_image(pages: Pages, kept_page: Open, name: str) -> None:
    path, model = pages(name)
    page = kept_page(path)
    z = torch.randn(1, model.z_dim)
    y = torch.tensor([3]) if model.has_label else None
    ask(page, "w.show(given[0], 3)", z[0].tolist())
    channels, height, width = model.shape
    assert ask(page, "[w.querySelector('.decoded').width, w.querySelector('.decoded').height]") == [
        width,
        height,
    ]
    found = np.array(page.locator("#explorer .decoded").evaluate(PIXELS)).reshape(-1, 3)
    levels = by_torch(model, z, y).reshape(-1, channels)
    expected = 255 * np.broadcast_to(levels, (len(levels), 3)).clip(0, 1)
    assert np.abs(found - expected).max() < 255 * 1e-2 + 1


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_thirty_frames_a_second(pages: Pages, kept_page: Open, name: str) -> None:
    page = kept_page(pages(name)[0])
    # Callbacks of a frame run in the order of their requests: that of the explorer runs between these two.
    spent = ask(
        page,
        """(async () => {
            const spent = [], z = w.z;
            for (let i = 0; i < 40; i++) {
                z[0] += 0.02;
                await new Promise((done) => {
                    let begun;
                    requestAnimationFrame(() => (begun = performance.now()));
                    w.show(z);
                    requestAnimationFrame(() => { spent.push(performance.now() - begun); done(); });
                });
            }
            return spent;
        })()""",
    )
    assert np.median(spent) < 1000 / 30


@pytest.mark.parametrize("name", shortened(NAMES, ["ssvae"]))
def test_dragging_the_point_changes_the_image(pages: Pages, kept_page: Open, name: str) -> None:
    page = kept_page(pages(name)[0])
    rest = plane(page)
    box = page.locator("#explorer .pad").bounding_box()
    at = lambda across, up: (box["x"] + across * box["width"], box["y"] + up * box["height"])  # noqa: E731
    before = shown(page)
    page.mouse.move(*at(0.3, 0.4))
    assert (plane(page) == rest).all()  # the button is not pressed
    page.mouse.down()
    first, picture = plane(page), shown(page)
    assert picture != before
    page.mouse.move(*at(0.7, 0.4), steps=3)
    second = plane(page)
    assert second[0] > first[0] + 1 and abs(second[1] - first[1]) < 1e-2 * second[0]
    assert first[0] == pytest.approx(-second[0], abs=0.02 * second[0])  # the centre of the plane is the mean
    assert shown(page) != picture
    page.mouse.up()
    page.mouse.move(*at(0.5, 0.5))
    assert (plane(page) == second).all()


@pytest.mark.parametrize("name", shortened(["vae", "fsvae", "vae2d"], ["vae2d"]))
def test_arrow_keys_move_the_point_and_shift_moves_it_further(
    pages: Pages, kept_page: Open, name: str
) -> None:
    page = kept_page(pages(name)[0])
    page.locator("#explorer .pad").focus()
    start, picture = plane(page), shown(page)
    page.keyboard.press("ArrowRight")
    step = plane(page) - start
    assert step[0] > 0 and abs(step[1]) < 1e-2 * step[0]
    assert shown(page) != picture
    page.keyboard.press("ArrowUp")
    assert plane(page) - start == pytest.approx([step[0], step[0]], rel=2e-2)
    page.keyboard.press("Shift+ArrowLeft")
    assert plane(page)[0] - start[0] == pytest.approx(-4 * step[0], rel=2e-2)
    assert page.evaluate("scrollY") == 0


@pytest.mark.parametrize("name", shortened(["gmvae", "ssvae", "beta_vae"], ["ssvae"]))
def test_sliders_move_only_the_other_directions(pages: Pages, kept_page: Open, name: str) -> None:
    page = kept_page(pages(name)[0])
    sliders = page.locator("#explorer .sliders input")
    assert sliders.count() >= 5
    slider = sliders.nth(1)
    before, picture = plane(page), shown(page)
    slider.focus()
    page.keyboard.press("End")
    assert shown(page) != picture
    assert plane(page) == pytest.approx(before, abs=1e-6 + 1e-2 * np.abs(before).max())
    assert slider.input_value() == "4"
    assert page.locator("#explorer .sliders output").nth(1).inner_text() == "4.0"


@pytest.mark.parametrize("name", shortened(LABELLED, ["ssvae"]))
def test_the_selected_class_is_decoded(pages: Pages, kept_page: Open, name: str) -> None:
    path, model = pages(name)
    page = kept_page(path)
    for label in (7, 2):
        page.locator("#explorer .classes label").nth(label).click()
        assert ask(page, "w.y") == label
        z = torch.tensor([ask(page, "w.z")])
        found = np.array(page.locator("#explorer .decoded").evaluate(PIXELS)).reshape(-1, 3)[
            :, : model.shape[0]
        ]
        expected = 255 * by_torch(model, z, torch.tensor([label])).reshape(found.shape).clip(0, 1)
        assert np.abs(found - expected).max() < 255 * 1e-2 + 1
        if name == "fsvae":  # the nearest image has that class
            wait(page, f"w.querySelector('.position').innerText.endsWith('label {label}')")
    page.keyboard.press("ArrowRight")
    assert ask(page, "w.y") == 3


@pytest.mark.full
def test_only_models_with_a_label_have_class_buttons(pages: Pages, kept_page: Open) -> None:
    page = kept_page(pages("vae")[0])
    assert not page.locator("#explorer .classes").is_visible()


@pytest.mark.parametrize("name", shortened(["vae", "ssvae", "beta_vae", "vae2d"], ["vae2d"]))
def test_the_interpolation_goes_from_anchor_to_anchor(pages: Pages, kept_page: Open, name: str) -> None:
    page = kept_page(pages(name)[0])
    pad, progress = page.locator("#explorer .pad"), page.locator("#explorer .progress")
    box = pad.bounding_box()
    ends = []
    for button, across in (("set-a", 0.25), ("set-b", 0.6)):
        pad.click(position={"x": across * box["width"], "y": 0.3 * box["height"]})
        page.locator(f"#explorer .{button}").click()
        ends.append((ask(page, "w.z"), shown(page)))
    assert ask(page, "w.anchors") == [z for z, _ in ends]
    progress.focus()
    for key, (z, picture) in zip(("Home", "End"), ends, strict=True):
        page.keyboard.press(key)
        assert ask(page, "w.z") == z
        assert name == "vae2d" or shown(page) == picture  # this canvas also shows the path, which has changed
    page.keyboard.press("ArrowLeft")  # back by one per cent
    expected = 0.01 * np.array(ends[0][0]) + 0.99 * np.array(ends[1][0])
    np.testing.assert_allclose(ask(page, "w.z"), expected)
    page.locator("#explorer .reset").click()
    assert ask(page, "w.z") == ask(page, "w.anchors")[0] != ends[0][0]


@pytest.mark.full
@pytest.mark.parametrize("name", ["vae", "fsvae"])
def test_the_strip_begins_and_ends_with_the_anchors(pages: Pages, open_page: Open, name: str) -> None:
    path, model = pages(name)
    page = open_page(path)
    channels, height, width = model.shape
    strip = np.array(page.locator("#explorer .strip").evaluate(PIXELS)).reshape(height, -1, 3)
    y = torch.tensor([ask(page, "w.y")]) if model.has_label else None
    for anchor, part in zip(ask(page, "w.anchors"), (strip[:, :width], strip[:, -width:]), strict=True):
        levels = by_torch(model, torch.tensor([anchor]), y).reshape(height, width, channels).clip(0, 1)
        assert np.abs(part[..., :channels] - 255 * levels).max() < 255 * 1e-2 + 1
    assert (strip[:, :width] != strip[:, -width:]).any()


def test_playing_moves_along_the_path_until_it_is_stopped(pages: Pages, kept_page: Open) -> None:
    page = kept_page(pages("ssvae")[0])
    start, play = ask(page, "w.z"), page.locator("#explorer .play")
    play.click()
    wait(page, f"w.z[0] !== {start[0]}")
    assert play.inner_text() == "stop"
    play.click()
    assert play.inner_text() == "play"
    here = ask(page, "w.z")
    assert ask(page, "w.z") == here
    page.emulate_media(reduced_motion="reduce")
    assert not play.is_visible()
    page.emulate_media(reduced_motion="no-preference")


def test_the_nearest_test_image_is_shown(pages: Pages, kept_page: Open) -> None:
    path, model = pages("fsvae")
    data, _ = lively("fsvae")
    page = kept_page(path)
    encoded = model.encode(data.x_test.float() / 255, data.y_test)["z"].numpy()
    for _ in range(3):
        page.locator("#explorer .random").click()
        z = np.array(ask(page, "w.z"))
        distances = np.abs(encoded - z).max(1)
        assert distances.min() < 1e-2
        nearest = int(distances.argmin())
        assert ask(page, "w.y") == data.y_test[nearest]
        shown_image = np.array(page.locator("#explorer .nearest").evaluate(PIXELS)).reshape(32, 32, 3)
        image = data.x_test[nearest].permute(1, 2, 0).numpy()
        others = [np.abs(shown_image - other.permute(1, 2, 0).numpy()).mean() for other in data.x_test]
        assert np.argmin(others) == nearest, image.mean()  # JPEG changes colours slightly


@pytest.mark.parametrize("name", shortened(["ssvae", "vae2d"], ["ssvae"]))
@pytest.mark.parametrize("dark", shortened([False, True], [True]))
def test_on_a_phone_the_image_is_below_the_plane(
    pages: Pages, open_page: Open, name: str, dark: bool
) -> None:
    page = open_page(pages(name)[0], width=380, height=800, dark=dark, touch=True)
    assert overflow(page) <= 0
    pad, picture = (page.locator(f"#explorer .{part}").bounding_box() for part in ("pad", "decoded"))
    assert pad["width"] > 300 and picture["width"] > 180
    assert picture["y"] > pad["y"] + pad["height"]
    assert picture["y"] + picture["height"] - pad["y"] < 800  # both are visible at the same time
    before, finger = shown(page), page.context.new_cdp_session(page)
    seen = []
    for kind, up in (("touchStart", 0.2), ("touchMove", 0.3), ("touchMove", 0.7), ("touchEnd", None)):
        at = [] if up is None else [{"x": pad["x"] + 100, "y": pad["y"] + up * pad["height"]}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
        seen.append(plane(page)[1])
    assert seen[0] > seen[1] > 0 > seen[2] == seen[3]
    assert shown(page) != before
    assert page.evaluate("scrollY") == 0  # the page does not scroll


@pytest.mark.parametrize("name", shortened(NAMES, ["ssvae"]))
def test_on_a_projector_the_image_is_next_to_the_plane(pages: Pages, kept_page: Open, name: str) -> None:
    page = kept_page(pages(name)[0])
    assert overflow(page) <= 0
    pad, picture = (page.locator(f"#explorer .{part}").bounding_box() for part in ("pad", "decoded"))
    assert pad["width"] > 600 and picture["width"] > 350
    assert picture["x"] > pad["x"] + pad["width"]


def test_the_legend_shows_a_single_label(pages: Pages, kept_page: Open) -> None:
    page = kept_page(pages("ssvae")[0])
    all_shown, button = shown(page, "pad"), page.locator("#explorer .legend button").nth(4)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    alone = shown(page, "pad")
    assert alone != all_shown
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert shown(page, "pad") == all_shown


@pytest.mark.full
def test_in_print_there_are_images_and_no_controls(pages: Pages, open_page: Open) -> None:
    page = open_page(pages("ssvae")[0])
    page.emulate_media(media="print")
    for name in ("pad", "strip", "decoded", "legend"):
        assert page.locator(f"#explorer .{name}").is_visible()
    for name in ("random", "play", "progress", "sliders", "classes"):
        assert not page.locator(f"#explorer .{name}").is_visible()


@pytest.mark.full
def test_without_javascript_it_shows_a_message(pages: Pages, open_page: Open) -> None:
    page = open_page(pages("vae2d")[0], javascript=False)
    assert page.locator("#explorer noscript").is_visible()
    assert not page.locator("#explorer .stage").is_visible()
