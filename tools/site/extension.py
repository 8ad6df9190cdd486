"""The Sphinx extension of the site: formulas by KaTeX, pages of source files, and docstrings."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx

from ppl_models.base import LatentVariableModel

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("ppl_models", "inference", "benchmarks", "tools", "tests", "exercises")
SCHEME = "source:"


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the extension to Sphinx."""
    app.add_html_math_renderer("katex", (_inline_math, None), (_display_math, None))
    app.connect("autodoc-process-docstring", _docstring, priority=100)  # before napoleon
    app.connect("doctree-resolved", _resolve_sources)
    app.connect("html-collect-pages", _source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline_math(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<span class="formula">{writer.encode(node.astext())}</span>')
    raise nodes.SkipNode


def _display_math(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<div class="formula">{writer.encode(node.astext())}</div>\n')
    raise nodes.SkipNode


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keeps the layout of a model's docstring; elsewhere, escapes what reStructuredText would interpret."""
    if inspect.isclass(obj) and issubclass(obj, LatentVariableModel) and obj is not LatentVariableModel:
        lines[:] = [".. code-block:: text", "", *(f"   {line}" for line in lines), ""]
        return
    for i, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"([|*\\]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
        parts[1::2] = [f"`{part}`" for part in parts[1::2]]  # literal text has two backticks
        lines[i] = "".join(parts)
        # In these places napoleon takes what is before a colon as a type.
        if lines[i - 1].strip() in ("Returns:", "Yields:") if i else what in ("property", "attribute"):
            lines[i] = lines[i].replace(line.lstrip()[:1], ": " + line.lstrip()[:1], 1)


def source_url(domain: str, info: dict[str, str]) -> str | None:
    """Returns the URL of the definition of a documented object, for `sphinx.ext.linkcode`."""
    if domain != "py" or not info["module"]:
        return None
    found: Any = importlib.import_module(info["module"])
    for part in info["fullname"].split("."):
        found = getattr(found, part, None)
    found = found.fget if isinstance(found, property) else found
    found = inspect.unwrap(found) if callable(found) else None
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not module or not name or module.partition(".")[0] not in SOURCES:
        return None
    path = Path(str(importlib.import_module(module).__file__)).relative_to(ROOT)
    return f"{SCHEME}{path.as_posix()}#{name}"


def _resolve_sources(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Points links to source files at their pages, at the line of the name if there is one."""
    for node in doctree.findall(nodes.reference):
        uri = node.get("refuri", "")
        if uri.startswith(SCHEME):
            path, _, name = uri.removeprefix(SCHEME).partition("#")
            line = _line(path, name)
            page = app.builder.get_relative_uri(docname, _page_name(path))
            node["refuri"] = page + (f"#L-{line}" if line else "")
            node["internal"] = True
            node["classes"] = [name for name in node["classes"] if name != "external"]


def _page_name(path: str) -> str:
    return "source/" + path.removesuffix(".py")


@cache
def _lines(path: str) -> dict[str, int]:
    """Returns the lines of the names that a file defines, as `name` and `Class.name`."""
    found: dict[str, int] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.setdefault(prefix + node.name, node.lineno)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")

    visit(ast.parse((ROOT / path).read_text("utf-8")).body, "")
    return found


def _line(path: str, name: str) -> int | None:
    """Returns the line of `Class.method`, `module.function` or a plain name in a file, or None."""
    lines = _lines(path)
    return lines.get(name) or lines.get(name.partition(".")[2])


def _source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields a page for each source file."""
    formatter = HtmlFormatter(lineanchors="L", wrapcode=True)
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            code = highlight(path.read_text("utf-8"), PythonLexer(), formatter)
            body = f"<h1>{name}</h1>\n<div class='source-page'>{code}</div>"
            yield _page_name(name), {"title": name, "body": body}, "page.html"
