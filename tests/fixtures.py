"""Fixtures: seeded generators, small data sets on disk, short runs, and MNIST if it is on disk.

`conftest.py` loads this module in the processes that run tests.
"""

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyro
import pytest
import sklearn.datasets
import torch
from filelock import FileLock

from inference import fitting, svi
from inference.html import pictures, report
from inference.rundir import provenance
from tests.browser import browser, kept_page, open_page  # noqa: F401  (fixtures)
from tests.support import TINY, drawn, every_kind, narrowed, reported

ROOT = Path(__file__).parent.parent
if os.environ.get("PYTEST_XDIST_WORKER"):  # the workers and their subprocesses share the cores
    cores = max((os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), 1)
    torch.set_num_threads(cores)
    os.environ["OMP_NUM_THREADS"] = str(cores)


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


@pytest.fixture
def narrow() -> Iterator[None]:
    """Networks with few channels and blocks: none of the identities depends on their number."""
    with narrowed():
        yield


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


@pytest.fixture(scope="session", autouse=True)
def short_runs() -> Iterator[None]:
    """Runs draw no pictures and commands write no report, which takes longer than a short training.

    The commit of the code and scikit-learn's digits are read once, and nothing waits for the disk. The
    pictures of reports are compressed quickly.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(provenance, "_commit", cache(provenance._commit))
        patch.setattr(sklearn.datasets, "load_digits", cache(sklearn.datasets.load_digits))
        patch.setattr(fitting, "draw_all", lambda model, batches, test, run: run.figures.mkdir(exist_ok=True))
        patch.setattr(report, "update", lambda *_: None)
        patch.setitem(pictures.LOSSLESS, "method", 0)
        yield


@pytest.fixture
def with_pictures() -> Iterator[None]:
    """Runs of the test that uses this draw their pictures."""
    with drawn():
        yield


@pytest.fixture
def with_report() -> Iterator[None]:
    """Runs of the test that uses this draw their pictures, and commands write the report of a run."""
    with drawn(), reported():
        yield


@pytest.fixture(autouse=True)
def short_classifier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations train the classifier of images in few steps, except where tests look at its accuracy."""
    if request.node.path.stem != "test_classifier":
        monkeypatch.setattr("inference.metrics.sample_classifier.STEPS", 20)


@pytest.fixture(scope="session")
def finished_run(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run of `vae` on `small_npz`, without pictures. Tests must not change it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert svi.main(["--model", "vae", *TINY, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    return run


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run` that the test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def report_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short finished runs of each kind with their reports. Tests must not change it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return every_kind(tmp_path_factory.mktemp("runs"))
    folder = tmp_path_factory.getbasetemp().parent / "runs"  # of all workers; the first one trains
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            every_kind(folder)
    return folder


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A folder with MNIST. Skips the test if there is none."""
    for folder in (ROOT / "data", ROOT.parent / "shared" / "data"):
        if (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
            return folder
    pytest.skip("MNIST is not on disk")
