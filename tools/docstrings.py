"""Collects first sentences of the docstrings of Python's standard library into a text, one per line.

python -m tools.docstrings docstrings.txt
"""

import argparse
import ast
import re
import sys
import sysconfig
from pathlib import Path

LEAST, MOST = 4, 20  # words of a sentence


def first_sentence(docstring: str) -> str:
    """Returns the first sentence of a docstring in lower case, or "" if its first paragraph has none."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    found = re.match(r"[A-Z][a-z]*\b[^.`*<>\\|={}\[\]()]*\.(?=\s|$)", paragraph)
    return found[0].lower() if found else ""


def sentences(folder: Path) -> list[str]:
    """Returns the different sentences of the modules in a folder, in the order of the files."""
    found: dict[str, None] = {}
    for path in sorted(folder.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "__pycache__"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                sentence = first_sentence(ast.get_docstring(node) or "")
                if sentence.isascii() and LEAST <= len(sentence.split()) <= MOST:
                    found[sentence] = None
    return list(found)


def main(arguments: list[str]) -> int:
    """Writes the text."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.docstrings", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out", type=Path, metavar="FILE.txt", help="the text")
    given = parser.parse_args(arguments)
    lines = sentences(Path(sysconfig.get_paths()["stdlib"]))
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{given.out}: {len(lines)} sentences of Python {sys.version.split()[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
