"""A run on a table: samples have the table's units, and another table is standardised as the run's own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from inference import sample
from inference.cli.outputs import find_data
from inference.data.tables import original_units
from inference.errors import UserError
from inference.rundir.run import Run
from inference.svi import main
from ppl_models import VAE


def write(path: Path, shift: float, names: str = "height,weight", rows: int = 40) -> Path:
    """Writes a table of two columns, whose values are around 100 and 5000, or shifted."""
    random = np.random.RandomState(0)
    values = random.normal(size=(rows, 2)) * [10, 700] + [100 + shift, 5000]
    path.write_text("\n".join([names, *(f"{a},{b}" for a, b in values)]) + "\n")
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    table = write(tmp_path / "own.csv", 0.0)
    options = ["--steps", "3", "--batch-size", "8", "--run-dir", str(tmp_path / "run")]
    assert main(["--model", "vae", "--data", str(table), *options]) == 0
    return tmp_path / "run"


def test_samples_are_in_the_units_of_the_table(run_dir: Path) -> None:
    found = sample(run_dir, 500).x
    assert found.shape == (500, 2)
    assert abs(found[:, 0].mean() - 100) < 10 and abs(found[:, 1].mean() - 5000) < 700


def test_another_table_is_standardised_as_the_run_s_own(run_dir: Path, tmp_path: Path) -> None:
    """By its own mean a shift of all values would vanish."""
    columns = Run.open(run_dir).config.columns
    assert columns is not None
    shifted = write(tmp_path / "shifted.csv", 25.0)
    data, _ = find_data(run_dir, VAE((2,)), str(shifted), None)
    own, _ = find_data(run_dir, VAE((2,)), None, None)
    difference = data.x_test - own.x_test
    torch.testing.assert_close(difference[:, 0], torch.full((8,), 25.0 / columns["scale"][0]))
    torch.testing.assert_close(difference[:, 1], torch.zeros(8), atol=1e-5, rtol=0)
    assert data.columns is not None
    values = original_units(data.x_test, data.columns)
    assert abs(values[:, 0].mean() - 125) < 10


def test_a_table_with_other_columns_is_refused(run_dir: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.csv", 0.0, "weight,height")
    with pytest.raises(UserError, match=r"has columns weight, height, and the run has height, weight"):
        find_data(run_dir, VAE((2,)), str(other), None)
    with pytest.raises(UserError, match="the run has height, weight"):
        find_data(run_dir, VAE((2,)), "digits", None)
