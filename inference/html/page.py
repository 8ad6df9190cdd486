"""What every page of a report is made of: the page itself, tables, numbers with errors, embedded pictures.

All HTML comes from the autoescaping templates of `inference/html`, or from `Markup.format`, which escapes.
"""

import base64
import hashlib
import io
import math
import warnings
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from inference.errors import UserError
from inference.plots.images import LABELS, UNITS
from inference.rundir.files import read_regular
from tools.table import BOUNDS, CODES, DENSITIES, ERRORS, POINTS, Column
from tools.table import LABELS as SHARES

# The browser fetches nothing, and runs no script but those whose hashes the policy names. Inline styles stay
# allowed: matplotlib's SVG uses them.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; script-src "
)
PICTURE_BYTES, PICTURE_PIXELS = 2**25, 40_000_000  # of a picture that is read
TEMPLATES = Environment(
    loader=PackageLoader("inference", "html/templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False}  # of `tojson`, which escapes <, >, & and '
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


def page(title: str, body: Markup, scripts: Iterable[str] = ()) -> str:
    """A whole HTML page with the style of all pages and the named scripts of `inference/html` inside it."""
    code = [read(name) for name in scripts]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    return TEMPLATES.get_template("page.html").render(
        title=title,
        body=body,
        scripts=code,
        style=read("page.css"),
        policy=POLICY + (" ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"),
    )


def read(name: str) -> Markup:
    """A style or script of `inference/html`."""
    return Markup((files("inference") / "html" / "static" / name).read_text("utf-8"))


def part(macro: str, *values: Any, **named: Any) -> Markup:
    """What a macro of `templates/parts.html` makes of values, which it escapes unless they are `Markup`."""
    return getattr(TEMPLATES.get_template("parts.html").module, macro)(*values, **named)


def section(name: str, title: str, *parts: Markup) -> Markup:
    """A section under its heading; nothing if its parts are empty."""
    inside = [inner for inner in parts if inner]
    return part("section", name, title, inside) if inside else Markup()


def table(caption: str, head: Iterable[str], rows: Iterable[list[str]], name: str = "") -> Markup:
    """A table that scrolls in a box of its own.

    A row is its heading and its cells: text, or `Markup` of whole td elements.
    """
    return part("table", caption, list(head), list(rows), name)


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


def exact(text: str, value: float) -> Markup:
    """A printed number with all its digits beside it, for programs and for whoever points at it."""
    return Markup('<data value="{0}" title="{0}">{1}</data>').format(repr(value), text)


def count(number: float) -> str:
    """A number of things: 60 000."""
    return f"{number:,.0f}".replace(",", "\u202f")


def embedded(path: Path, most: int) -> tuple[str, int, int]:
    """A picture as a data address of at most so many bytes, and its width and height.

    Without loss where that fits, else in 256 colours, else smaller. Raises UserError if it is not a picture.
    """
    image = _opened(path, 2_400)
    size, content = image.size, _webp(image, lossless=True)
    while len(content) > most and max(image.size) > 32:
        content = _webp(image.quantize(256).convert("RGB"), lossless=True)
        image = image.resize((max(image.width * 3 // 4, 1), max(image.height * 3 // 4, 1)))
    return _address(content), *size


def thumbnail(path: Path, most: int) -> str:
    """A picture at a glance, as a data address of at most so many bytes. Raises UserError if it is none."""
    image = _opened(path, 600)
    content = _webp(image, quality=75)
    while len(content) > most and max(image.size) > 32:
        image = image.resize((max(image.width * 3 // 4, 1), max(image.height * 3 // 4, 1)))
        content = _webp(image, quality=75)
    return _address(content)


def _opened(path: Path, width: int) -> Image.Image:
    """A PNG in colour, no wider than that. Raises UserError if it is none, or has too many pixels."""
    try:
        content = read_regular(path, PICTURE_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
                if math.prod(opened.size) > PICTURE_PIXELS:
                    raise ValueError(f"it has {opened.width} x {opened.height} pixels")
                image = opened.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds for what is no picture
        reason = str(error)[:100] or type(error).__name__
        raise UserError(f"{path} cannot be shown ({reason}). Move it away, or draw it again.") from None
    if image.width <= width:
        return image
    return image.resize((width, max(round(image.height * width / image.width), 1)))


def _webp(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="WEBP", **how)
    return file.getvalue()


def _address(content: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
