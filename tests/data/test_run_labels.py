"""Classes of a run: what config.json and the report keep of them, and runs of versions that kept nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference import svi
from inference.data.load import find_dataset
from inference.errors import UserError
from inference.html import report, sections
from inference.plots.interpolations import interpolate
from inference.rundir.restore import load_data, restore
from inference.rundir.run import Run

SETTINGS = ["--model=vae", "--steps=2", "--batch-size=8", "--device=cpu", "--compile=eager", "--hidden=8"]
GAPS = np.arange(40) % 3 * 2 - 1  # -1, 1, 3
TEXT = np.array(["ox", "a b", "<i>"] * 14)[:40]


def trained(folder: Path, y: np.ndarray) -> Path:
    """Trains on images with labels, and returns the folder of the run."""
    x = np.random.RandomState(0).randint(256, size=(40, 6, 6)).astype(np.uint8)
    np.savez(folder / "own.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    run = folder / "run"
    assert svi.main([*SETTINGS, "--data", str(folder / "own.npz"), f"--run-dir={run}"]) == 0
    return run


def edit(run: Path, **changes: object) -> None:
    """Changes config.json; None removes a key."""
    config = json.loads((run / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None or key not in changes}
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("y", "names"), [(GAPS, ["-1", "1", "3"]), (TEXT, ["<i>", "a b", "ox"]), (GAPS // 2 + 1, None)]
)
def test_config_and_report_keep_the_classes(y: np.ndarray, names: list[str] | None, tmp_path: Path) -> None:
    run = trained(tmp_path, y)
    assert json.loads((run / "config.json").read_text()).get("class_names") == names
    html = str(sections.training(report.gather(run)))
    assert "3 classes" in html and ("classes (" in html) == (names is not None) and "<i>" not in html
    if names:
        shown = ", ".join(names).replace("<", "&lt;").replace(">", "&gt;")
        assert f"3 classes ({shown})" in html


def test_runs_of_versions_without_class_names_are_restored(tmp_path: Path) -> None:
    """They hashed numbers as they are in the file, and did not use labels that are text."""
    run = trained(tmp_path, GAPS)
    edit(run, class_names=None)
    assert load_data(Run.open(run)).y_test.tolist() == (np.arange(30, 40) % 3).tolist()
    (tmp_path / "text").mkdir()
    run = trained(tmp_path / "text", TEXT)
    data, _ = find_dataset(str(tmp_path / "text" / "own.npz"), tmp_path)
    old = replace(data, y_train=None, y_test=None, class_names=None).checksum()
    edit(run, class_names=None, classes=0, checksum=old)
    assert load_data(Run.open(run)).y_train is None
    edit(run, classes=3)
    with pytest.raises(UserError, match=r"own\.npz is not the data that the run used"):
        load_data(Run.open(run))


def test_interpolations_name_the_labels_of_the_file(tmp_path: Path) -> None:
    found = restore(trained(tmp_path, GAPS))
    assert interpolate(found.model, found.data, (-1, 3), 0).shape == (7, 1, 6, 6)
    with pytest.raises(UserError, match="no training image of label 2"):
        interpolate(found.model, found.data, (2, 3), 0)
