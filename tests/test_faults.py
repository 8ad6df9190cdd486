"""A short version of `python -m tests.faults`, in a process of its own: it forks, and has no threads."""

import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_nothing_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--share", "0.02"], capture_output=True, text=True
    )
    tried = {kind: (int(n), int(wrong)) for kind, n, wrong in LINE.findall(done.stdout)}
    least = {"kills": 2, "writes": 3, "disks": 12, "races": 2, "words": 100, "files": 6, "hostile": 13}
    assert done.returncode == 0, done.stdout + done.stderr
    assert tried.keys() == least.keys() and all(tried[kind][0] >= n for kind, n in least.items())
    assert all(wrong == 0 for _, wrong in tried.values())


LINE = re.compile(r"^(\w+): .* (\d+) tried, (\d+) went wrong", re.MULTILINE)
