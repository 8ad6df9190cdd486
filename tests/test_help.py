"""The main command's help is there at once, and is what the parser says."""

import subprocess
import sys
import time

from inference import help
from inference.options import general


def test_the_help_on_disk_is_the_parser_s() -> None:
    assert help.TEXT.read_text() == help.text(), "options have changed: python -m inference.help"
    assert all(flag in help.TEXT.read_text() for flag in general().flags())


def test_help_does_not_wait_for_torch() -> None:
    began = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "inference.svi", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 1.5
    assert done.stdout.startswith("usage: python -m inference.svi") and "torch" not in done.stderr
