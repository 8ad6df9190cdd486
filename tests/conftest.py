"""Settings of a run of the tests. The fixtures are in `fixtures.py`.

The process that only gives the tests to the workers of pytest-xdist imports neither torch nor Pyro: the
workers start when it has read this file.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from typing import Any

import pytest
from hypothesis import settings

from tests import forks

if "PPL_MODELS_CACHE" not in os.environ:  # compiled programs of this session only; the workers share them
    os.environ["PPL_MODELS_CACHE"] = tempfile.mkdtemp(prefix="ppl-models-")
    atexit.register(shutil.rmtree, os.environ["PPL_MODELS_CACHE"], ignore_errors=True)


settings.register_profile("suite", deadline=None, database=None, derandomize=True, max_examples=25)
settings.register_profile("long", deadline=None, database=None, max_examples=2_000)  # of .ci/full
settings.load_profile("suite")

LONG = ("test_faults", "test_ranks", "test_engine")  # files with the longest tests


def distributes(config: pytest.Config) -> bool:
    """Whether other processes run the tests."""
    return bool(getattr(config.option, "numprocesses", None)) and not config.option.collectonly


def pytest_configure(config: pytest.Config) -> None:
    """Loads the fixtures, or starts the process that `forks.run` of all workers forks from."""
    if not distributes(config):
        gc.disable()  # until all modules are imported
        config.pluginmanager.import_plugin("tests.fixtures")
    elif sys.platform == "linux":  # elsewhere a test starts it, if it forks at all
        forks.start()


def pytest_collection_finish() -> None:
    """Collects garbage again, now that all modules are imported."""
    gc.enable()


def pytest_unconfigure() -> None:
    """Ends the process that `forks.run` forks from, if this process has started it."""
    forks.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each worker a part of the files, whose tests share fixtures. One without work takes some."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the files with the longest tests to the front, so that the processes end at about one time."""
    items.sort(key=lambda item: item.path.stem not in LONG)
