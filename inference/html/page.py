"""The HTML page that every report and index consists of: style, scripts, policy, sections and tables.

All HTML comes from the autoescaping templates in `inference/html/templates`, or from `Markup.format`, which
escapes.
"""

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# The browser fetches nothing and runs only scripts whose hashes the policy names. Inline styles are allowed,
# because matplotlib's SVG uses them.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; script-src "
)
TEMPLATES = Environment(
    loader=PackageLoader("inference", "html/templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False}  # of `tojson`, which escapes <, >, & and '


def page(title: str, body: Markup, scripts: Iterable[str] = ()) -> str:
    """Returns a whole HTML page.

    Args:
        title: the title of the document.
        body: its content.
        scripts: names of files in `inference/html/static` to embed.
    """
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
    """Returns a style or script of `inference/html/static`."""
    return Markup((files("inference") / "html" / "static" / name).read_text("utf-8"))


def part(macro: str, *values: Any, **named: Any) -> Markup:
    """Renders a macro of `templates/parts.html`, which escapes all values that are not `Markup`."""
    return getattr(TEMPLATES.get_template("parts.html").module, macro)(*values, **named)


def section(name: str, title: str, *parts: Markup) -> Markup:
    """Returns a section with a heading, or nothing if all its parts are empty."""
    inside = [inner for inner in parts if inner]
    return part("section", name, title, inside) if inside else Markup()


def table(caption: str, head: Iterable[str], rows: Iterable[list[str]], name: str = "") -> Markup:
    """Returns a table in a box that scrolls by itself.

    Args:
        caption: the caption.
        head: the headings of the columns.
        rows: the heading and the cells of each row: text, or `Markup` of whole td elements.
        name: a CSS class.
    """
    return part("table", caption, list(head), list(rows), name)
