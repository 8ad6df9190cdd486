"""What codes are good for: linear probes, and the way from one image to another."""

from pathlib import Path

import numpy as np
import pytest
import torch

from inference import interpolate, svi
from inference.data.dataset import Dataset
from inference.data.load import find_dataset
from inference.errors import UserError
from inference.metrics.linear_probe import probe
from inference.plots import interpolations
from inference.rundir.restore import restore
from ppl_models import MODELS
from tests.support import SSVAE, TINY


def labelled_levels(noise: float) -> Dataset:
    """Ten classes told apart by the brightness of one pixel each, with noise over all of them."""
    random = np.random.RandomState(0)
    y = np.arange(400) % 10
    x = np.clip(200 * np.eye(16)[y] + noise * random.randn(400, 16), 0, 255).astype(np.uint8)
    images, labels = torch.from_numpy(x.reshape(400, 1, 4, 4)), torch.from_numpy(y)
    return Dataset("levels", images[:300], labels[:300], images[300:], labels[300:])


def test_a_probe_reads_what_a_code_holds() -> None:
    model = MODELS["vae"]((1, 4, 4), z_dim=16)
    blind = MODELS["vae"]((1, 4, 4), z_dim=16)
    model.encode = lambda x: {"z": x.flatten(1)}
    blind.encode = lambda x: {"z": torch.randn(len(x), 16)}
    figures_of = {name: probe(m, labelled_levels(60.0)) for name, m in (("all", model), ("nothing", blind))}
    assert list(figures_of["all"]) == ["probe_10", "probe_100"]  # 300 images hold no 1 000 labels
    few, more = (figures_of["all"][f"probe_{n}"] for n in (10, 100))
    assert 0.4 < few["value"] < more["value"] and more["value"] > 0.85 and 0 < more["se"] < few["se"]
    assert abs(figures_of["nothing"]["probe_100"]["value"] - 0.1) < 0.06
    assert figures_of["all"] == probe(model, labelled_levels(60.0))  # the labels are drawn by seed


def test_a_probe_needs_labels_and_a_code() -> None:
    data = labelled_levels(1.0)
    model = MODELS["vae"]((1, 4, 4))
    assert probe(model, Dataset("none", data.x_train, None, data.x_test, None)) == {}
    model.encode = lambda x: {"y": torch.eye(10)[: len(x)]}
    assert probe(model, data) == {}


def test_between_walks_from_each_code_to_its_partner() -> None:
    z = torch.tensor([[0.0, 1.0], [2.0, 2.0], [4.0, 1.0], [2.0, -2.0]])
    line = MODELS["vae"]((1, 4, 4)).interpolate({"z": z}, torch.linspace(0, 1, 3))["z"]
    assert line.tolist() == [[0, 1], [2, 1], [4, 1], [2, 2], [2, 0], [2, -2]]


def test_rows_of_an_interpolation(small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ae = ["--model", "ae", "--z-dim", "2", "--steps", "2", "--batch-size", "9"]
    runs = []
    for name, arguments in (("ae", ae), ("beta", ["--model", "beta_vae", *ae[2:], "--beta", "0.01"])):
        runs.append(str(tmp_path / name))
        assert svi.main([*arguments, "--data", str(small_npz), "--run-dir", runs[-1]]) == 0
    drawn = {}
    monkeypatch.setattr(
        interpolations, "save_grid", lambda images, columns, path, title, rows: drawn.update(locals())
    )
    assert interpolate.main([*runs, "--labels", "0-2", "1-0", "--out", str(tmp_path / "x.png")]) == 0
    assert drawn["rows"] == [
        "0 to 2: ae",
        "0 to 2: beta_vae, beta 0.01",
        "1 to 0: ae",
        "1 to 0: beta_vae, beta 0.01",
    ]
    rows = drawn["images"].unflatten(0, (4, drawn["columns"]))
    assert drawn["columns"] == 7
    assert torch.equal(rows[0, [0, -1]], rows[1, [0, -1]])  # the same two images for both models
    assert not torch.equal(rows[0, 1:-1], rows[1, 1:-1])
    data, _ = find_dataset(str(small_npz), tmp_path)
    of_label = data.padded(MODELS["ae"]).x_train[data.y_train == 2] / 255
    assert any(torch.equal(rows[0, -1], image) for image in of_label)
    model = restore(Path(runs[0]))[3]
    torch.testing.assert_close(
        rows[0, 1], model.reconstruct(rows[0, :1])[0]
    )  # the first step is the first code
    with torch.no_grad():
        z = model.encode(torch.stack([rows[0, 0], rows[0, -1]]))["z"]
        last = model.decode({"z": (0.2 * z[0] + 0.8 * z[1])[None]})[0]
    torch.testing.assert_close(rows[0, 5], last, rtol=1e-4, atol=1e-5)

    for arguments, complaint in (
        (["--labels", "17"], "17 is not a pair of labels"),
        (["--labels", "0-7"], "no training image of label 7"),
        ([str(tmp_path / "none")], "is not a run"),
    ):
        with pytest.raises(UserError, match=complaint):
            interpolate.main([*runs, *arguments])


def test_interpolation_refuses_labels_and_other_data(
    finished_run: Path, small_npz: Path, tmp_path: Path
) -> None:
    runs = {name: str(tmp_path / name) for name in ("ssvae", "digits")}
    assert svi.main([*SSVAE, "--steps=1", "--data", str(small_npz), "--run-dir", runs["ssvae"]]) == 0
    digits = ["--model", "vae", *TINY, "--steps=1", "--data", "digits"]
    assert svi.main([*digits, "--run-dir", runs["digits"]]) == 0
    for second, complaint in (("ssvae", "which is conditional on a label"), ("digits", "has other data")):
        with pytest.raises(UserError, match=complaint):
            interpolate.main([str(finished_run), runs[second], "--labels", "0-1"])
