"""Markdown pages: every link leads to a file that defines the name in the link, and formulas render."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
DERIVATIONS = ROOT / "docs" / "derivations"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "exercises" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r'\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)(?:\s+"[^"]*")?\)')
NAME = re.compile(r"`(?P<name>[\w./:]+)`")
# Blocks of code and of mathematics, and comments.
NO_PROSE = re.compile(r"^(```|\$\$).*?^\1\s*$|<!--.*?-->", re.MULTILINE | re.DOTALL)


def links(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yields line, text and target of every link to a file of the project, pictures included."""
    prose = NO_PROSE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text("utf-8"))
    for link in LINK.finditer(prose):
        target = unquote(link["target"].partition("#")[0])
        if target and not re.match(r"[a-z][a-z+.-]*:", target):
            yield prose.count("\n", 0, link.start()) + 1, link["text"], target


@cache
def defined(path: Path) -> set[str]:
    """Returns the names that a module defines, and the names in its classes as `Class.name`."""

    def names(body: list[ast.stmt], before: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield before + node.name
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{before}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                parts = (part for target in targets for part in ast.walk(target))
                found = (part for part in parts if isinstance(part, ast.Name))
                yield from (before + part.id for part in found if isinstance(part.ctx, ast.Store))

    return set(names(ast.parse(path.read_text("utf-8")).body, ""))


def is_defined(name: str, path: Path) -> bool:
    """Returns whether a file defines a name.

    Args:
        name: `file.py::test`, `file.py::Class::test`, `module.name`, `Class.method` or a plain name. A
            path such as `ppl_models/vae.py` or `vae.py`, or the module's name `vae`, names the file itself.
        path: The file.
    """
    if "::" in name:
        file, *inside = name.split("::")
        return file == path.name and ".".join(inside) in defined(path)
    if "/" in name or name in (path.name, path.stem):
        return "/" not in name or path.as_posix().endswith(name)
    module, _, rest = name.partition(".")
    return name in defined(path) or (module == path.stem and rest in defined(path))


def mistakes(page: Path) -> list[str]:
    """Returns a message with file and line for each wrong link of a page."""
    found = []
    for line, text, target in links(page):
        path, name = page.parent / target, NAME.fullmatch(text)
        if not path.exists():
            found.append(f"{page}:{line}: {target} does not exist")
        elif path.suffix == ".py" and name and not is_defined(name["name"], path.resolve()):
            found.append(f"{page}:{line}: {name['name']} is not defined in {target}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_the_names_in_their_text(page: Path) -> None:
    found = mistakes(page)
    assert not found, "\n".join(found)


def test_every_derivation_is_in_the_index_and_links_to_a_function_and_a_test() -> None:
    index = DERIVATIONS / "README.md"
    listed = {target for _, _, target in links(index)}
    pages = sorted(set(DERIVATIONS.glob("*.md")) - {index})
    assert pages
    found = []
    for page in pages:
        named = [(NAME.fullmatch(text), target) for _, text, target in links(page)]
        code = [name["name"] for name, target in named if name and target.endswith(".py")]
        if page.name not in listed:
            found.append(f"{index}:1: {page.name} is not listed")
        if not any("::" in name for name in code):
            found.append(f"{page}:1: no link to a test")
        if all("::" in name for name in code):
            found.append(f"{page}:1: no link to a function")
    assert not found, "\n".join(found)


def test_wrong_links_are_found_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text("LIMIT = 3\nclass Box:\n    def lid(self): ...\ndef test_it(): ...\n")
    right = "tools.LIMIT LIMIT Box Box.lid tools.Box.lid tools.py::test_it tools.py::Box::lid tools.py"
    wrong = "tools.lid lid Box.top other.Box other.py::test_it tools.py::test_that other.py"
    page, head = tmp_path / "page.md", "[all](https://example.org) [above](#top)\n\n$$\n[a](b)\n$$\n\n"

    def written(names: str, last: str = "") -> list[str]:
        page.write_text(head + "".join(f"[`{name}`](tools.py)\n" for name in names.split()) + last)
        return mistakes(page)

    assert written(right, "[in words](tools.py)") == []
    expected = [f"{name} is not defined in tools.py" for name in wrong.split()] + ["gone.png does not exist"]
    expected = [f"{page}:{line}: {words}" for line, words in enumerate(expected, start=7)]
    assert written(wrong, "![x](gone.png)") == expected


# Parts of a formula that a code host removes or interprets as Markdown or HTML.
BREAKS_RENDERING = {
    "a backslash before punctuation": re.compile(r"\\[^a-zA-Z\s]"),
    "looks like a tag": re.compile(r"<[a-z/]"),
    "looks like a link": re.compile(r"\]\("),
}


def formulas(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yields line, formula and problem of each formula of a page; the problem is "" if there is none."""

    def blank(part: re.Match[str]) -> str:
        return "\n" * part[0].count("\n")

    text = re.sub(r"(?ms)^```.*?^```$|<!--.*?-->|^    .*?$", blank, page.read_text("utf-8"))
    shown, inline = re.compile(r"(?ms)^\$\$\n(.*?)^\$\$$"), re.compile(r"(?s)(.)\$([^$]+)\$(?=(.))")
    prose = re.sub(r"`[^`\n]*`", "", shown.sub(blank, text))
    found = [(text.count("\n", 0, part.start()) + 1, part[1], "") for part in shown.finditer(text)]
    for part in inline.finditer(prose):
        apart = not (part[1].isalnum() or part[1] == "-" or part[3].isalnum())
        whole = part[2] == part[2].strip() and "\n" not in part[2] and "*" not in part[2]
        wrong = "" if apart and whole else "dollar signs that a code host does not read as mathematics"
        found.append((prose.count("\n", 0, part.start()) + 1, part[2], wrong))
    for line, formula, wrong in found:
        signs = [words for words, sign in BREAKS_RENDERING.items() if sign.search(formula)]
        signs += ["braces that do not match"] if formula.count("{") != formula.count("}") else []
        yield line, formula, wrong or ", ".join(signs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_hosts_render_every_formula(page: Path) -> None:
    found = [f"{page}:{line}: {wrong}: {formula}" for line, formula, wrong in formulas(page) if wrong]
    assert not found, "\n".join(found)
    if page.parent == DERIVATIONS and page.name != "README.md":
        assert len(list(formulas(page))) >= 10


def test_formulas_that_do_not_render_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    right = ["so $x_1$ and $\\mathbb E [z]$, in `$code$`", "$$\n\\frac{a}{b}\n$$"]
    wrong = [
        "$\\{x\\}$ is",
        "a$x$ is",
        "$a\nb$ is",
        "$a <b>$ is",
        "$[a](b)$ is",
        "$a*b$ is",
        "$\\frac{a}{$ is",
    ]
    for text in right:
        page.write_text(f"{text}\n")
        assert [words for _, _, words in formulas(page) if words] == [] != list(formulas(page))
    for text in wrong:
        page.write_text(f"so {text} so\n")
        assert [words for _, _, words in formulas(page) if words], text
