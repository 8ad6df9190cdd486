"""The help of the main command, kept as text, so that it is there before torch is imported.

python -m inference.help               write it anew, where options have changed
"""

import os
import sys
from pathlib import Path

TEXT = Path(__file__).with_name("help.txt")


def answer() -> None:
    """Print the help and leave, where the command line asks for nothing else."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(TEXT.read_text(), end="")
        sys.exit()


def text() -> str:
    """The help as argparse puts it, 100 columns wide."""
    from inference.options import general

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        return general().format_help()
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


if __name__ == "__main__":
    TEXT.write_text(text())
