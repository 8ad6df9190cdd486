"""The interactive figures of the derivations in a browser: their numbers are those of numpy and torch."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from inference.plots.masks import visible_inputs
from ppl_models.nets.masked import MaskedMLP
from tests.browser import overflow
from tests.derivations import test_posterior_collapse as collapse
from tests.support import shortened

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

DOCS = Path(__file__).parent.parent / "docs"
PLACE = re.compile(r'^<div class="interactive" data-figure="(\w+)"></div>$', re.MULTILINE)
PLACED = {page.stem: PLACE.findall(page.read_text("utf-8")) for page in DOCS.glob("derivations/*.md")}
FIGURES = sorted(set(itertools.chain.from_iterable(PLACED.values())))
Open = Callable[..., "Page"]
SCRIPTS = ("katex/katex.min.js", "formulas.js", "pictures.js")  # of every page of the site
# The value of x, the scale s and the mean m(z) of p(x | z).
MODELS = {
    "linear": (1.5, 0.6, lambda z: z),
    "square": (1.5, 0.6, np.square),
    "exponential": (1.0, 0.4, lambda z: np.exp(z / 2)),
}


@pytest.fixture
def figure(open_page: Open, tmp_path: Path) -> Callable[..., "Page"]:
    """A function that opens a page with one figure."""

    def opened(name: str, **options: object) -> "Page":
        static, path = DOCS / "_static", tmp_path / f"{name}.html"
        path.write_text(
            "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
            "<style>:root { color-scheme: light dark }</style>"
            f"<link rel='stylesheet' href='{(static / 'site.css').as_uri()}'>"
            f"<script src='{(static / 'figures.js').as_uri()}'></script>"
            f'<div class="interactive" data-figure="{name}"></div>'
        )
        return open_page(path, **options)

    return opened


def move(page: "Page", name: str, position: int) -> float:
    """Moves a slider to a position, counted from 0, and returns the value that it shows."""
    slider = page.locator(f'input[name="{name}"]')
    slider.evaluate("(e, at) => { e.value = at; e.dispatchEvent(new Event('input')); }", position)
    shown = slider.locator("xpath=../output").inner_text()
    assert slider.get_attribute("aria-valuetext") == shown
    return float(shown)


def select(page: "Page", value: str, legend: str) -> None:
    page.locator("fieldset", has_text=legend).locator(f'input[value="{value}"]').check()


def read(page: "Page", name: str) -> float:
    return float(page.locator(f'[data-value="{name}"]').text_content())


def log_normal(x: np.ndarray, loc: np.ndarray | float, scale: float) -> np.ndarray:
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


def log_joint(model: str, z: np.ndarray) -> np.ndarray:
    x, s, mean = MODELS[model]
    return log_normal(z, 0, 1) + log_normal(x, mean(z), s)


def log_mean_weight(model: str, mu: float, sd: float, noise: np.ndarray) -> np.ndarray:
    """The logarithm of the mean weight, `(...,)`, of samples with standard normal noise `(..., K)`."""
    log_w = log_joint(model, mu + sd * noise) - log_normal(noise, 0, 1) + np.log(sd)
    return np.logaddexp.reduce(log_w, axis=-1) - np.log(noise.shape[-1])


def near(value: float) -> object:
    """Equality to the digits shown: three decimals below 10, and two above."""
    return pytest.approx(value, abs=6e-4 if abs(value) < 10 else 6e-3)


@pytest.mark.parametrize("model", shortened(MODELS, ["linear"]))
@pytest.mark.parametrize("guide", shortened([(50, 20), (12, 0), (75, 50), (62, 17)], [(12, 0)]))
def test_bounds_are_those_of_quadrature_and_simulation(
    model: str, guide: tuple[int, int], figure: Callable[..., "Page"]
) -> None:
    page = figure("elbo")
    select(page, model, "has the mean")
    mu, sd = move(page, "mu", guide[0]), move(page, "sd", guide[1])
    z = np.linspace(-10, 10, 100_001)
    log_p = np.log(np.exp(log_joint(model, z)).sum() * (z[1] - z[0]))
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    elbo = weights @ log_mean_weight(model, mu, sd, points[:, None]) / np.sqrt(2 * np.pi)
    assert move(page, "K", 0) == 1
    assert read(page, "logp") == near(log_p)
    assert read(page, "elbo") == read(page, "iwae") == near(elbo)
    assert read(page, "elbo-gap") == near(log_p - elbo)
    assert move(page, "K", 1) == 2  # a sum over a grid of pairs
    grid = np.arange(-9, 9, 0.02)
    mass = 0.02 * np.exp(log_normal(grid, 0, 1))
    pairs = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    two = mass @ log_mean_weight(model, mu, sd, pairs) @ mass
    assert read(page, "iwae") == near(two)
    assert read(page, "iwae-gap") == near(log_p - two)
    assert move(page, "K", 3) == 10
    samples = log_mean_weight(model, mu, sd, np.random.default_rng(0).standard_normal((40_000, 10)))
    assert read(page, "iwae") == pytest.approx(samples.mean(), abs=4 * samples.std() / 200 + 6e-3)
    bounds = [read(page, "elbo"), two, read(page, "iwae")]
    move(page, "K", 6)
    assert sorted(bounds) == bounds and bounds[-1] <= read(page, "iwae") <= read(page, "logp")


def minimum(variance: float, beta: float, noise: float) -> tuple[float, float]:
    """The squared error and the KL term at the minimum of -ELBO of a direction, by descent."""
    p = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)  # w, a, log t
    step = torch.optim.LBFGS([p], max_iter=1000, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def terms() -> tuple[torch.Tensor, torch.Tensor]:
        w, a, t = p[0], p[1], p[2].exp()
        kl = collapse.negative_elbo(w * 0, a, t, variance) - variance / 2  # w = 0 leaves the KL term
        return 2 * (collapse.negative_elbo(w, a, t, variance) - kl), kl

    def closure() -> torch.Tensor:
        p.grad = None
        error, kl = terms()
        value = error / (2 * noise) + beta * kl
        value.backward()
        return value

    for _ in range(3):
        step.step(closure)
    error, kl = terms()
    return error.item(), kl.item()


@pytest.mark.parametrize("at", shortened([(8, 8), (3, 9), (11, 13), (2, 3), (23, 18)], [(11, 13)]))
def test_terms_of_the_linear_model_are_those_of_a_descent(
    at: tuple[int, int], figure: Callable[..., "Page"], float64: None
) -> None:
    page = figure("collapse")
    beta, noise = move(page, "beta", at[0]), move(page, "noise", at[1])
    variances = [8, 4, 2, 1, 0.5, 0.25]
    error, kl = np.transpose([minimum(variance, beta, noise) for variance in variances])
    assert [read(page, f"kl-{i}") for i in range(1, 7)] == pytest.approx(kl, abs=6e-4)
    assert int(read(page, "collapsed")) == sum(variance <= beta * noise for variance in variances)
    constant = 3 * np.log(2 * np.pi * noise)
    reconstruction = error.sum() / (2 * noise) + constant
    assert read(page, "error") == near(error.sum())
    assert read(page, "reconstruction") == near(reconstruction)
    assert read(page, "kl") == near(kl.sum())
    assert read(page, "bound") == near(reconstruction + kl.sum())
    best = sum(np.array(minimum(variance, 1.0, noise)) @ (0.5 / noise, 1) for variance in variances)
    assert read(page, "excess") == near(reconstruction - constant + kl.sum() - best)


@pytest.mark.full
def test_only_the_product_of_weight_and_noise_decides_which_directions_collapse(
    figure: Callable[..., "Page"],
) -> None:
    page, found = figure("collapse"), []
    for at in ((4, 12), (12, 4)):
        assert move(page, "beta", at[0]) * move(page, "noise", at[1]) == 1 / 2 * 2
        found.append([read(page, name) for name in ("kl-1", "kl-3", "kl", "error", "collapsed")])
    assert found[0] == found[1] and found[0][-1] == 3


def degrees(page: "Page") -> list[list[int]]:
    """The numbers of the units of each layer."""
    layers: dict[str, list[int]] = {}
    for unit in page.locator("g.unit").all():
        number = int(unit.locator("text").first.text_content())
        layers.setdefault(unit.get_attribute("data-layer"), []).append(number)
    return list(layers.values())


def outputs(page: "Page") -> "Locator":
    last = page.locator("g.unit").last.get_attribute("data-layer")
    return page.locator(f'g.unit[data-layer="{last}"]')


@pytest.mark.full
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("order", ["natural", "random"])
def test_an_output_sees_the_inputs_of_the_masks(
    layers: int, order: str, figure: Callable[..., "Page"]
) -> None:
    page = figure("made")
    select(page, order, "order")
    select(page, str(layers), "hidden layers")
    seen = set()
    for _ in range(3):
        page.locator("button").click()
        *units, last = degrees(page)
        assert last == units[0] and sorted(last) == [1, 2, 3, 4, 5]
        assert (last == sorted(last)) if order == "natural" else True
        network = MaskedMLP(5, [6] * layers)
        state = network.state_dict() | {f"units_{i}": torch.tensor([of]).int() for i, of in enumerate(units)}
        network.load_state_dict(state)
        assert page.locator("path.edge").count() == sum(int(mask.sum()) for mask in network.connections())
        for i, sees in enumerate(visible_inputs(network.connections()).tolist()):
            outputs(page).nth(i).hover()
            names = [f"x{j + 1}" for j, on in enumerate(sees) if on]
            expected = f"p(x{i + 1} | {', '.join(names)})" if names else f"p(x{i + 1})"
            assert page.locator('[data-value="conditional"]').inner_text() == expected
            inputs = page.locator('g.unit[data-layer="0"]')
            assert ["on" in one.get_attribute("class").split() for one in inputs.all()] == sees
            assert (page.locator("path.on").count() > 0) == any(sees)
        seen.add(str(units))
    assert len(seen) == 3


def test_controls_work_with_the_keyboard(figure: Callable[..., "Page"]) -> None:
    page = figure("made")
    page.locator('input[value="4"][name^="output"]').focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator('[data-value="conditional"]').inner_text().startswith("p(x3")
    page = figure("elbo")
    before = read(page, "elbo")
    page.locator('input[name="mu"]').focus()
    page.keyboard.press("ArrowRight")
    assert page.locator('input[name="mu"]').get_attribute("aria-valuetext") == "0.55"
    assert read(page, "elbo") != before


def test_a_hidden_figure_is_drawn_when_it_appears(figure: Callable[..., "Page"]) -> None:
    page = figure("collapse", width=380)
    drawn = "all => all.map(e => e.width.baseVal.value)"
    before = page.locator(".interactive rect").evaluate_all(drawn)
    box = page.locator(".interactive")
    box.evaluate("e => { e.style.display = 'none' }")
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    box.evaluate("e => { e.style.display = '' }")
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert page.locator(".interactive rect").evaluate_all(drawn) == before and min(before) > 0


def test_on_a_narrow_screen_a_wide_picture_and_a_long_formula_can_be_read(
    open_page: Open, tmp_path: Path
) -> None:
    static = (DOCS / "_static").as_uri()
    scripts = "".join(f"<script src='{static}/{name}'></script>" for name in SCRIPTS)
    picture = "<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='300'/>"
    for name, width in (("wide", 1200), ("square", 600)):
        (tmp_path / f"{name}.svg").write_text(picture.format(width))
    path = tmp_path / "page.html"
    path.write_text(
        f"<!doctype html><meta charset='utf-8'><link rel='stylesheet' href='{static}/katex/katex.min.css'>"
        f"<link rel='stylesheet' href='{static}/site.css'>{scripts}<article><p><img src='wide.svg'></p>"
        f"<p><img src='square.svg'></p><div class='formula'>{' = '.join(['abcdef'] * 20)}</div>"
        "<span class='formula'>p(x \\mid z)</span></article>"
    )
    page = open_page(path, width=380)
    assert overflow(page) <= 0
    sizes = page.locator("img").evaluate_all("all => all.map(e => e.clientWidth)")
    assert sizes[0] == 640 and sizes[1] < 380  # 40 em, and as wide as the page
    formula = page.locator("div.formula")
    assert formula.evaluate("e => e.scrollWidth <= e.clientWidth")
    tops = formula.locator(".katex-base").evaluate_all("all => all.map(e => e.offsetTop)")
    assert len(tops) == 20 and len(set(tops)) > 3
    assert page.locator("span.formula .katex-base").count() == 1  # it has no place to break


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("width", shortened([380, 1600], [380]))
@pytest.mark.parametrize("dark", shortened([False, True], [True]))
def test_a_figure_fits_and_names_its_controls(
    name: str, width: int, dark: bool, figure: Callable[..., "Page"]
) -> None:
    page = figure(name, width=width, dark=dark)
    assert overflow(page) <= 0
    box = page.locator(".interactive").bounding_box()
    for part in page.locator(".interactive svg, .interactive table").all():
        inside = part.bounding_box()
        assert box["x"] < inside["x"] and inside["x"] + inside["width"] < box["x"] + box["width"]
    assert page.locator(".values").get_attribute("aria-live") == "polite"
    assert all(page.locator("input").evaluate_all("all => all.map(e => e.labels[0].innerText.trim())"))


def test_each_figure_is_next_to_the_picture_of_its_page() -> None:
    assert {page: names for page, names in PLACED.items() if names} == {
        "01-chain-rule-and-made": ["made"],
        "04-elbo": ["elbo"],
        "06-importance-weighted-bound": ["elbo"],
        "10-beta-as-a-variance": ["collapse"],
        "21-posterior-collapse": ["collapse"],
    }
    assert '"figures.js"' in (DOCS / "conf.py").read_text("utf-8")
