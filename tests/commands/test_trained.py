"""inference.sample, encode and score: files, refusals, JSON; run folders are only read."""

import csv
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inference.encode as encode_command
import inference.evaluate as evaluate_command
import inference.sample as sample_command
import inference.score as score_command
from inference import encode, load, sample, score, svi
from inference.data.load import find_dataset
from inference.errors import UserError

COMMANDS = {"sample": sample_command.main, "encode": encode_command.main, "score": score_command.main}


def content(folder: Path) -> dict[str, str]:
    """A digest of every file of a folder, and the time when it changed."""
    return {
        str(path): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_command_does_what_the_call_does(finished_run: Path, tmp_path: Path, small_npz: Path) -> None:
    """And changes nothing in the run folder."""
    before = content(finished_run)
    data, _ = find_dataset(str(small_npz), Path("data"))
    files = {name: str(tmp_path / f"{name}.npz") for name in COMMANDS}
    options = ["--n", "7", "--temperature", "0.5", "--seed", "3", "--out", files["sample"]]
    assert sample_command.main([str(finished_run), *options]) == 0
    assert encode_command.main([str(finished_run), "--out", files["encode"]]) == 0
    assert score_command.main([str(finished_run), "--particles", "5", "--out", files["score"]]) == 0
    assert content(finished_run) == before
    with np.load(files["sample"]) as file:
        found = sample(finished_run, 7, temperature=0.5, seed=3)
        assert file["x"].dtype == np.uint8 and set(np.unique(file["x"])) == {0, 255}
        assert (file["x"] == found.x.numpy()).all() and (file["z"] == found.latents["z"].numpy()).all()
    with np.load(files["encode"]) as file:
        latents = encode(load(finished_run), data)
        assert sorted(file) == ["y", "z_mean", "z_std"]
        assert (file["z_mean"] == latents.mean["z"].numpy()).all() and (
            file["y"] == data.y_test.numpy()
        ).all()
    with np.load(files["score"]) as file:
        scores = score(load(finished_run), data, 5)
        assert (file["score"] == scores.values.numpy()).all() and (
            file["mc_se"] == scores.mc_se.numpy()
        ).all()


def test_a_csv_has_the_same_numbers_as_an_npz(finished_run: Path, tmp_path: Path) -> None:
    for name in ("encode", "score"):
        for ending in ("npz", "csv"):
            assert COMMANDS[name]([str(finished_run), "--out", str(tmp_path / f"{name}.{ending}")]) == 0
        with open(tmp_path / f"{name}.csv", newline="") as file:
            head, *rows = csv.reader(file)
        with np.load(tmp_path / f"{name}.npz") as file:
            wide = {
                f"{key}_{i}" if array.ndim > 1 else key: part
                for key, array in file.items()
                for i, part in enumerate(array.reshape(len(array), -1).T)
            }
        assert head == list(wide) and len(rows) == 30
        for i, column in enumerate(wide.values()):
            assert (np.array([row[i] for row in rows]).astype(column.dtype) == column).all()


@pytest.mark.skipif(not find_spec("pyarrow"), reason="pyarrow is not installed")
def test_a_parquet_file_has_the_same_numbers_as_an_npz(finished_run: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    for ending in ("npz", "parquet"):
        assert encode_command.main([str(finished_run), "--out", str(tmp_path / f"latents.{ending}")]) == 0
    found = parquet.read_table(tmp_path / "latents.parquet").to_pydict()
    with np.load(tmp_path / "latents.npz") as file:
        assert (np.float32(found["z_std_1"]) == file["z_std"][:, 1]).all()
        assert found["y"] == file["y"].tolist()


def test_a_missing_pyarrow_is_said_before_the_work(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.cli.outputs.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs pyarrow.*install it: pip install "ppl-models\[parquet\]"$'):
        encode_command.main([str(finished_run), "--out", str(tmp_path / "latents.parquet")])


def test_the_summary_is_the_bound_of_evaluate(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.csv"
    assert score_command.main([str(finished_run), "--particles", "10", "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)  # nothing else is printed
    assert evaluate_command.main([str(finished_run), "--particles", "10", "--images", "30", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["iwae_10"]
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["metric"] == "iwae_10" and found["n"] == 30
    rows = np.genfromtxt(out, delimiter=",", names=True)
    assert found["largest"]["value"] == rows["score"].max() == rows["score"][found["largest"]["index"]]


def test_a_picture_has_one_cell_per_sample(finished_run: Path, tmp_path: Path) -> None:
    assert sample_command.main([str(finished_run), "--n", "12", "--out", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1_000 and picture.width / picture.height > 3  # 10 columns, 2 rows


@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_is_overwritten(name: str, finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.npz"
    out.write_text("mine")
    with pytest.raises(UserError, match=r"mine\.npz exists\. Remove it, or name another file with --out\.$"):
        COMMANDS[name]([str(finished_run), "--out", str(out)])
    assert out.read_text() == "mine"
    out.unlink()
    out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="exists"):
        COMMANDS[name]([str(finished_run), "--out", str(out)])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sample", ["--labels", "0"], r"VAE has no label\. Leave out the labels\."),
        ("sample", ["--labels", "a"], r"a is not a list of labels, as in 0,1,2"),
        ("sample", ["--n", "0"], "0 is not a whole number above zero"),
        ("sample", ["--temperature", "0"], "0 is not a number above zero"),
        ("sample", ["--out", "x.csv"], r"x\.csv has an unknown ending\. Use one of \.png, \.npz, \.txt\."),
        (
            "encode",
            ["--out", "x.png"],
            r"x\.png has an unknown ending\. Use one of \.npz, \.csv, \.parquet\.",
        ),
        ("encode", ["--out", "none/x.npz"], r"none is not a folder\. Create it"),
        ("encode", ["--data", "digits"], r"have shape \(1, 8, 8\), and the model is built for \(1, 6, 6\)"),
        (
            "score",
            ["--data", "smiley"],
            r"the data have shape \(2,\), and the model is built for \(1, 6, 6\)",
        ),
        ("score", ["--particles", "0"], "0 is not a whole number above zero"),
        ("score", ["--data", "nothing.npz"], "no file nothing.npz"),
    ],
)
def test_bad_input_is_refused(
    name: str,
    options: list[str],
    words: str,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        COMMANDS[name]([str(finished_run), *options])
    assert list(tmp_path.iterdir()) == []


def test_a_saved_model_needs_data(finished_run: Path, tmp_path: Path, small_npz: Path) -> None:
    file, out = str(tmp_path / "vae.pt"), str(tmp_path / "latents.npz")
    load(finished_run).save(file)
    with pytest.raises(UserError, match=r"vae\.pt is the file of a model and names no data\. Give --data\.$"):
        encode_command.main([file, "--out", out])
    assert encode_command.main([file, "--out", out, "--data", str(small_npz)]) == 0
    assert sample_command.main([file, "--n", "3", "--out", str(tmp_path / "samples.npz")]) == 0


@pytest.mark.usefixtures("narrow")
def test_a_code_prior_is_decoded_by_its_first_stage(tmp_path: Path) -> None:
    """From where the first stage was, and from the folder above if both moved; not by another codebook."""
    x = np.random.RandomState(0).randint(256, size=(12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x[:8], x_test=x[8:])
    two = ["--steps", "2", "--batch-size", "8"]
    first = tmp_path / "vqvae"
    options = ["--data", str(tmp_path / "x.npz"), "--codes", "9", "--run-dir", str(first)]
    assert svi.main(["--model", "vqvae", *two, *options]) == 0
    prior = ["--stage1-run", str(first), "--code-prior", "pixelcnn", "--width", "8"]
    assert svi.main([*prior, *two]) == 0
    found = sample(first / "prior-pixelcnn", 2)
    model = load(first)
    mean = model.decode_codes(found.latents["codes"].long())
    assert found.x.shape == (2, 3, 32, 32)
    assert torch.equal(found.x, ((mean + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8))
    moved = first.rename(tmp_path / "moved")
    assert torch.equal(sample(moved / "prior-pixelcnn", 2).x, found.x)
    alone = (moved / "prior-pixelcnn").rename(tmp_path / "alone")
    with pytest.raises(UserError, match=r"is not a run with such a codebook\. Move it back"):
        sample(alone, 2)
