"""A short version of `python -m tests.faults`, in a process without threads, because it forks.

.ci/full runs more trials, and kills runs at random times. Here they are killed at system calls that write.
"""

import re
import sys

import pytest

from tests import forks


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_faults_lose_nothing() -> None:
    done = forks.run("-m", "tests.faults", "--fraction", "0.02", "--only", *MINIMUM)
    found = {kind: (int(trials), int(failures)) for kind, trials, failures in LINE.findall(done.stdout)}
    assert done.returncode == 0, done.stdout + done.stderr
    assert found.keys() == MINIMUM.keys() and all(found[kind][0] >= n for kind, n in MINIMUM.items())
    assert all(failures == 0 for _, failures in found.values())


MINIMUM = {"writes": 3, "disks": 5, "races": 2, "commands": 100, "files": 6, "hostile": 13}  # trials
LINE = re.compile(r"^(\w+): .* (\d+) trials, (\d+) failures", re.MULTILINE)
