"""Fixtures: seeded generators, small data sets on disk, short runs, and MNIST if it is on disk."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from inference.html import report
from tests import forks
from tests.browser import browser, open_page  # noqa: F401  (fixtures)
from tests.support import every_kind

ROOT = Path(__file__).parent.parent
if os.environ.get("PYTEST_XDIST_WORKER"):  # the workers and their subprocesses share the cores
    cores = max((os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), 1)
    torch.set_num_threads(cores)
    os.environ["OMP_NUM_THREADS"] = str(cores)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Ends the process that `forks.run` forks from."""
    yield
    forks.close()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Seeds the generators, enables Pyro's validation and clears the parameter store before every test."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float64() -> None:
    """Sets the default dtype to float64 during the test."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="session")
def small_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file of 6 x 6 images in three distinguishable classes, 90 for training, 30 for testing."""
    random = np.random.RandomState(0)
    prototypes = random.rand(3, 6, 6) > 0.5
    y = np.arange(120) % 3
    x = (random.rand(120, 6, 6) < np.where(prototypes[y], 0.9, 0.1)).astype(np.uint8) * 255
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    return path


@pytest.fixture(autouse=True)
def no_reports_elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables the report after training, which takes a second, except in tests of run folders."""
    if not request.node.path.stem.startswith(("test_report", "test_svi", "test_sweep", "test_disk")):
        monkeypatch.setattr(report, "write_after_training", lambda *_: 0)


@pytest.fixture(scope="session")
def report_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short finished runs of each kind with their reports. Tests must not change it."""
    return every_kind(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A folder with MNIST. Skips the test if there is none."""
    for folder in (ROOT / "data", ROOT.parent / "shared" / "data"):
        if (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
            return folder
    pytest.skip("MNIST is not on disk")
