"""Collects the pages of the site in one folder, from which Sphinx builds it.

The Markdown of the repository is written for a code host. Its copy here differs in three ways: links to other
pages and to source files lead to where the site has them, a folder's README.md becomes its index page, and
an index page lists its pages for Sphinx. The pages of models and of the API are generated.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from tools.site.models import model_pages
from tools.site.reference import reference_pages

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Where the site has the pages that do not lie in docs/ or that have another name there.
MOVED = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
MOVED |= {"exercises/README.md": "exercises.md"}
# Entries of the site's table of contents, in order; pages of docs/ that are not here follow.
CONTENTS = (
    ("Start", "index"),
    ("Overview", "overview"),
    ("Tutorials", "tutorials/index"),
    ("Exercises", "exercises"),
    ("How-to guides", "howto/index"),
    ("Derivations", "derivations/index"),
    ("Courses", "courses/index"),
    ("Teaching", "teaching"),
    ("Marking notes", "marking"),
    ("Models", "models/index"),
    ("Plate diagrams", "diagrams/index"),
    ("Commands", "commands"),
    ("API reference", "reference/index"),
    ("Results", "results"),
    ("Cost", "cost"),
    ("Contributing", "contributing"),
    ("Mutation tests", "mutants"),
)
PAGE = (".md", ".ipynb")
LINK = re.compile(r"(?P<before>!?\[(?P<text>[^\]]*)\]\()(?P<target>[^)\s]+)(?P<after>(?:\s+\"[^\"]*\")?\))")
VERBATIM = re.compile(r"^```.*?^```\s*$|^\$\$\n.*?^\$\$$|<!--.*?-->", re.MULTILINE | re.DOTALL)
# The README lays out two pictures and a block of code in a table of HTML, whose paths Sphinx cannot follow.
HTML_TABLE, HTML_IMAGE = re.compile(r"</?(?:table|tr|td)[^>]*>"), re.compile(r"<img ([^>]*)>")


def collect(target: Path) -> list[str]:
    """Writes all pages and pictures of the site into a folder and deletes everything else there.

    A file that would not change is left alone, so that Sphinx builds only pages that did.

    Args:
        target: the folder.

    Returns:
        The names of the pages, such as `howto/arrays`.
    """
    files = dict(pages())
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(target).as_posix() not in files:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name, content in files.items():
        path = target / name
        data = content.read_bytes() if isinstance(content, Path) else content.encode()
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return sorted(str(Path(name).with_suffix("")) for name in files if name.endswith(PAGE))


def pages() -> Iterator[tuple[str, str | Path]]:
    """Yields every file of the site: its path there, and its text or the file to copy."""
    files = [path for path in sorted(DOCS.rglob("*")) if path.is_file() and _is_part(path)]
    texts = {place_of(path): _page(path) for path in files if path.suffix in PAGE}
    texts |= {place: _page(ROOT / name) for name, place in MOVED.items()}
    texts |= model_pages(ROOT, links_to_code()) | reference_pages()
    texts["index.md"] += _contents(texts)
    for folder in sorted({str(Path(place).parent) for place in texts} - {"."}):
        index, own = f"{folder}/index.md", [place for place in texts if str(Path(place).parent) == folder]
        names = sorted(Path(place).stem for place in own if place != index)
        texts[index] += _toctree(sorted(names, key=lambda name: _position(texts[index], f"({name}.")))
    yield from texts.items()
    yield from ((place_of(path), path) for path in files if path.suffix not in PAGE)


def _is_part(path: Path) -> bool:
    parts = path.relative_to(DOCS).parts
    return not any(part.startswith((".", "_")) for part in parts) and path.suffix not in (".py", ".yaml")


def place_of(path: Path) -> str:
    """Returns where the site has a file of the repository, such as `howto/index.md`."""
    name = path.relative_to(ROOT).as_posix()
    if name in MOVED:
        return MOVED[name]
    place = path.relative_to(DOCS)
    return (place.with_name("index.md") if place.name == "README.md" else place).as_posix()


def _page(path: Path) -> str:
    """Returns a page as the site has it."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = site_links("".join(cell["source"]), path)
        return json.dumps(notebook, indent=1, ensure_ascii=False)
    if path == ROOT / "README.md":
        text = HTML_IMAGE.sub(_markdown_image, HTML_TABLE.sub("", text))
    return site_links(text, path)


def _markdown_image(image: re.Match[str]) -> str:
    found = dict(re.findall(r'(\w+)="([^"]*)"', image[1]))
    return f"\n![{found['alt']}]({found['src']})\n"


def site_links(text: str, page: Path) -> str:
    """Returns the text of a page with the links to files of the project as the site has them.

    A link to a source file becomes `source:path#name`, with the name that its text gives, if any;
    `tools.site.extension` turns it into a link to the page of that file.

    Args:
        text: the text, in Markdown.
        page: the file, from which its links are relative.
    """

    def moved(link: re.Match[str]) -> str:
        target, _, anchor = unquote(link["target"]).partition("#")
        if not target or re.match(r"[a-z][a-z+.-]*:", target):
            return link[0]
        path = Path(os.path.normpath(page.parent / target))
        if path.is_dir() and (path / "README.md").is_file():
            path /= "README.md"
        if path.suffix == ".py":
            name = re.fullmatch(r"`(?:[^`]*::)?([^`]+)`", link["text"])
            anchor = name[1] if name else ""
            url = f"source:{path.relative_to(ROOT).as_posix()}"
        elif path.is_relative_to(DOCS) or path.relative_to(ROOT).as_posix() in MOVED:
            url = os.path.relpath(place_of(path), Path(place_of(page)).parent)
        else:
            raise ValueError(f"{page}: the site does not have {target}. Link to a page or to a source file.")
        return link["before"] + url + (f"#{anchor}" if anchor else "") + link["after"]

    start, parts = 0, []
    for block in VERBATIM.finditer(text):
        parts += [LINK.sub(moved, text[start : block.start()]), block[0]]
        start = block.end()
    return "".join([*parts, LINK.sub(moved, text[start:])])


def links_to_code() -> dict[str, list[tuple[str, str]]]:
    """Returns, by source file, the place and the title of the pages of docs/ that link to it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text("utf-8")
        entry = place_of(path), text.partition("\n")[0].removeprefix("# ")
        targets = {os.path.normpath(path.parent / link["target"]) for link in LINK.finditer(text)}
        for target in sorted(target for target in targets if target.endswith(".py")):
            found.setdefault(os.path.relpath(target, ROOT), []).append(entry)
    return found


def _contents(texts: dict[str, str]) -> str:
    """Returns the table of contents of the site."""
    named = {entry for _, entry in CONTENTS}
    places = sorted(str(Path(place).with_suffix("")) for place in texts)
    sections = [place for place in places if "/" not in place or place.endswith("/index")]
    entries = [f"{title} <{'self' if entry == 'index' else entry}>" for title, entry in CONTENTS]
    return _toctree(entries + [place for place in sections if place not in named])


def _position(text: str, words: str) -> int:
    """Returns where words first appear in a text, or its length."""
    return text.index(words) if words in text else len(text)


def _toctree(entries: list[str]) -> str:
    if not entries:
        return ""
    return "\n\n```{toctree}\n:hidden:\n:titlesonly:\n\n" + "\n".join(entries) + "\n```\n"
