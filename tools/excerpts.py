"""Fills the code excerpts of the derivations from the source.

python -m tools.excerpts           name the pages whose excerpts differ from the source
python -m tools.excerpts --write   fill the excerpts in

A page marks an excerpt with a file and a function, class or constant in it:

    <!-- code: ppl_models/vae.py VAE.bound -->
    <!-- end of code -->

`<!-- code: FILE NAME | FIRST | LAST -->` takes the lines from the first one that begins with FIRST to the
next one that begins with LAST, or to the end. Docstrings are left out.
"""

import ast
import re
import textwrap
from pathlib import Path

from inference.backend.files import write_whole
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError

HERE = Path(__file__).parent.parent
ROOT = HERE if (HERE / "docs" / "derivations").is_dir() else Path()  # installed: the current directory
END = "<!-- end of code -->"
MARK = re.compile(
    r"^<!-- code: (?P<file>\S+) (?P<name>[\w.]+)(?: \| (?P<first>.+?))?(?: \| (?P<last>.+?))? -->\n"
    rf"(?P<code>.*?)^{END}$",
    re.MULTILINE | re.DOTALL,
)


def main(arguments: list[str]) -> int:
    """Fills the excerpts in, or prints which pages differ; the exit status is 1 if some do."""
    parser = Parser(prog="python -m tools.excerpts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="fill the excerpts in")
    write, differ = parser.parse_args(arguments).write, 0
    for page in sorted((ROOT / "docs" / "derivations").glob("*.md")):
        text = page.read_text("utf-8")
        found = filled(text)
        if found != text:
            differ += not write
            print(f"{page}: {'written' if write else 'an excerpt differs from the source. Use --write.'}")
            if write:
                write_whole(page, found.encode())
    return int(differ > 0)


def filled(text: str) -> str:
    """Returns a page with each excerpt taken from the source.

    Raises:
        UserError: A mark has no end, or names something that does not exist.
    """
    if text.count("<!-- code: ") != len(MARK.findall(text)):
        raise UserError(f"an excerpt has no end. Close each mark with a line {END}.")

    def fill(mark: re.Match[str]) -> str:
        head = mark[0].partition("\n")[0]
        return f"{head}\n```python\n{excerpt(*mark.group('file', 'name', 'first', 'last'))}\n```\n{END}"

    return MARK.sub(fill, text)


def excerpt(file: str, name: str, first: str | None = None, last: str | None = None) -> str:
    """Returns lines of source code without docstrings, dedented.

    Args:
        file: The file, relative to the project's folder.
        name: A function, class or constant in it; `Class.method` for a method.
        first: How the first line begins; by default it is the first line of the definition.
        last: How the last line begins; by default it is the last line of the definition.

    Raises:
        UserError: The file, the name or a line does not exist.
    """
    try:
        source = (ROOT / file).read_text("utf-8")
    except OSError:
        raise UserError(f"cannot read {file}. Correct the mark.") from None
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        inside = (child for child in getattr(node, "body", []) if part in _names(child))
        found = next(inside, None)
        if found is None:
            raise UserError(f"{name} is not defined in {file}. Correct the mark.")
        node = found
    assert isinstance(node, ast.stmt) and node.end_lineno is not None
    skipped = _docstring_lines(node)
    numbers = [i for i in range(node.lineno, node.end_lineno + 1) if i not in skipped]
    lines = [source.splitlines()[i - 1] for i in numbers]
    start = _find(lines, first, 0, file) if first else 0
    stop = _find(lines, last, start + 1, file) + 1 if last else len(lines)
    return textwrap.dedent("\n".join(lines[start:stop]))


def _names(node: ast.stmt) -> list[str]:
    """Returns the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _docstring_lines(node: ast.stmt) -> set[int]:
    """Returns the numbers of the lines of all docstrings in a statement."""
    lines: set[int] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(part) is not None:
            first = part.body[0]
            lines |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def _find(lines: list[str], beginning: str, start: int, file: str) -> int:
    """Returns the index of the next line that begins with some text, from `start` on."""
    for i in range(start, len(lines)):
        if lines[i].strip().startswith(beginning):
            return i
    raise UserError(f"no line of the excerpt of {file} begins with {beginning!r}. Correct the mark.")


if __name__ == "__main__":
    run_command(main)
