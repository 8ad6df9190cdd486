"""What several tests share: small data on disk, and the real MNIST where it is at hand."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from inference import report
from tests.browser import browser, open_page  # noqa: F401  (fixtures)
from tests.support import every_kind

ROOT = Path(__file__).parent.parent
if os.environ.get("PYTEST_XDIST_WORKER"):  # the workers share the cores, and so do what they begin
    cores = max((os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), 1)
    torch.set_num_threads(cores)
    os.environ["OMP_NUM_THREADS"] = str(cores)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same generators, with validation on and an empty parameter store."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float64() -> None:
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="session")
def small_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 6x6 in three classes that can be told apart, as a user's .npz: 90 to train, 30 to test."""
    random = np.random.RandomState(0)
    prototypes = random.rand(3, 6, 6) > 0.5
    y = np.arange(120) % 3
    x = (random.rand(120, 6, 6) < np.where(prototypes[y], 0.9, 0.1)).astype(np.uint8) * 255
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    return path


@pytest.fixture(autouse=True)
def reports_where_they_matter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training leaves its report in the tests of what a run leaves; elsewhere that would cost a second."""
    if not request.node.path.stem.startswith(("test_report", "test_svi", "test_sweep", "test_disk")):
        monkeypatch.setattr(report, "leave", lambda *_: 0)


@pytest.fixture(scope="session")
def report_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short finished runs, one of each kind, with their reports; not to be changed."""
    return every_kind(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A folder that holds MNIST, if there is one beside the project or in it."""
    for folder in (ROOT / "data", ROOT.parent / "shared" / "data"):
        if (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
            return folder
    pytest.skip("MNIST is not on disk")
