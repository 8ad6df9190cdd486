"""Builds the documentation site: collects its pages in build/site, and runs Sphinx on them.

python -m tools.site               build the site in build/html/; warnings are errors

Needs `pip install -e '.[docs]'` and no network.
"""

import subprocess
import sys
from importlib.util import find_spec

from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError
from tools.site.pages import DOCS, ROOT, collect


def main(arguments: list[str]) -> int:
    """Builds the site."""
    parser = Parser(prog="python -m tools.site", description=(__doc__ or "").splitlines()[0])
    parser.parse_args(arguments)
    if any(find_spec(name) is None for name in ("sphinx", "myst_nb", "furo")):
        raise UserError("Sphinx, MyST-NB or Furo is not installed. Run pip install -e '.[docs]'.")
    pages, site = ROOT / "build" / "site", ROOT / "build" / "html"
    collect(pages)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    status = subprocess.run([*command, "-c", DOCS, "-d", ROOT / "build" / "doctrees", pages, site]).returncode
    if status == 0:
        print(f"open {site / 'index.html'}")
    return status


if __name__ == "__main__":
    run_command(main)
