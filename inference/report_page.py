"""What every page of a report is made of: the page itself, tables, numbers with errors, embedded pictures."""

import base64
import io
import math
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from inference.figures import LABELS, UNITS
from inference.table import BOUNDS, CODES, DENSITIES, ERRORS, POINTS, Column
from inference.table import LABELS as SHARES

# Nothing may be fetched, and the browser sees to it: all that a page needs is in its one file.
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
COLUMNS = {
    column.figure: (title, column)
    for part in (SHARES, CODES, DENSITIES, ERRORS, POINTS, BOUNDS)
    for title, column in part.items()
}
# What a run is known by, the first figures of its report and the columns of an index.
HEADLINES = (
    *("negative_elbo", "negative_log_p", "kl", "bits_per_dim", "squared_error_and_kl"),
    *("mean_squared_error", "loss", "nats_per_code", "accuracy"),
)
Figure = dict[str, float]  # value, and se and mc_se where there are


def page(title: str, body: str, scripts: Iterable[str] = ()) -> str:
    """A whole HTML page with the style of all pages and the named scripts of `inference/pages` inside it."""
    code = "\n".join(f"<script>\n{read(name)}</script>" for name in scripts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>
{read("page.css")}</style>
</head>
<body>
<a class="skip" href="#content">to the content</a>
{body}
{code}
</body>
</html>
"""


def read(name: str) -> str:
    """A file of `inference/pages`."""
    return (files("inference") / "pages" / name).read_text("utf-8")


def section(name: str, title: str, *parts: str) -> str:
    """A section under its heading; nothing where its parts are."""
    inside = "\n".join(filter(None, parts))
    head = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">\n{head}\n{inside}\n</section>' * bool(
        inside
    )


def table(caption: str, head: Iterable[str], rows: Iterable[str], name: str = "") -> str:
    """A table that scrolls in a box of its own; `head` is plain text, and `rows` are of HTML."""
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="{name}">'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>"
        "</table></div>"
    )


def label(name: str) -> str:
    """A figure of results.json, as one says it."""
    if name in COLUMNS:
        return COLUMNS[name][0]
    if name.startswith("iwae_"):
        return f"-IWAE-{name.removeprefix('iwae_')}"
    if name.startswith("probe_"):
        return f"probe, {name.removeprefix('probe_')} labels"
    latent = name.removeprefix("kl_")
    return LABELS.get(name, f"KL of {latent}" if latent != name else name.replace("_", " "))


def unit(name: str, what: str) -> str:
    """What a figure is measured in, where an observation is a `what`: image or point."""
    if _column(name).unit:
        return _column(name).unit.strip()
    return UNITS.get(name, "latent dimensions" if name == "active_units" else f"nats per {what}")


def with_unit(words: str, name: str, what: str) -> str:
    """A figure's name in words, and what it is measured in where the words do not say so already."""
    measured = unit(name, what)
    return words if words == measured else f"{words}, {measured}"


def _column(name: str) -> Column:
    if name.startswith("probe_"):
        return Column(name, factor=100, unit=" %")
    return COLUMNS.get(name, ("", Column(name)))[1]


def numbers(name: str, figure: Figure) -> tuple[str, str, str]:
    """Value, standard error and Monte-Carlo error as they are printed: two digits of the larger error."""
    factor = _column(name).factor
    value, se, mc_se = (figure[key] * factor if key in figure else None for key in ("value", "se", "mc_se"))
    assert value is not None
    error = max(se or 0.0, mc_se or 0.0)
    places = 1 - math.floor(math.log10(error)) if error else 12
    form = f".{max(places, 0)}f" if places < 9 else ".6g"
    small = "" if mc_se is None else f"{mc_se:{form}}" if mc_se == error else f"{mc_se:.2g}"
    return f"{value:{form}}", "" if se is None else f"{se:{form}}", small


def brief(name: str, figure: Figure, what: str = "") -> str:
    """Value ± standard error, with its unit where it is said of `what`."""
    value, se, _ = numbers(name, figure)
    words = f"{value} ± {se}" if se else value
    return words + (f" {unit(name, what)}" if what or _column(name).unit else "")


def distinct(figures: dict[str, Figure]) -> dict[str, Figure]:
    """Without the divergence of a latent that is the only one: it is the sum of all."""
    alone = sum(name.startswith("kl_") for name in figures) == 1
    return {name: figure for name, figure in figures.items() if not (alone and name.startswith("kl_"))}


def exact(text: str, value: float) -> str:
    """A printed number with all its digits beside it, for programs and for whoever points at it."""
    return f'<data value="{value!r}" title="{value!r}">{escape(text)}</data>'


def facts(pairs: dict[str, str]) -> str:
    """Names and what they stand for, in HTML; what is empty is left out."""
    items = "".join(f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in pairs.items() if value)
    return f"<dl>{items}</dl>"


def count(number: float) -> str:
    """A number of things: 60 000."""
    return f"{number:,.0f}".replace(",", "\u202f")


def embedded(path: Path, most: int) -> tuple[str, int, int]:
    """A picture as a data address of at most so many bytes, and its width and height.

    Without loss where that fits, else in 256 colours, else smaller. Raises OSError where it is no picture.
    """
    image = _opened(path, 2_400)
    size, content = image.size, _webp(image, lossless=True)
    while len(content) > most and max(image.size) > 32:
        content = _webp(image.quantize(256).convert("RGB"), lossless=True)
        image = image.resize((max(image.width * 3 // 4, 1), max(image.height * 3 // 4, 1)))
    return _address(content), *size


def thumbnail(path: Path, most: int) -> str:
    """A picture at a glance, as a data address of at most so many bytes. Raises OSError where it is none."""
    image = _opened(path, 600)
    content = _webp(image, quality=75)
    while len(content) > most and max(image.size) > 32:
        image = image.resize((max(image.width * 3 // 4, 1), max(image.height * 3 // 4, 1)))
        content = _webp(image, quality=75)
    return _address(content)


def _opened(path: Path, width: int) -> Image.Image:
    """A picture in colour, no wider than that."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width <= width:
        return image
    return image.resize((width, max(round(image.height * width / image.width), 1)))


def _webp(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="WEBP", **how)
    return file.getvalue()


def _address(content: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
