"""Data that stay on disk train, evaluate and resume as the same data in memory do, to the bit."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from inference import evaluate, fit, svi
from inference.data import stored
from inference.data.batches import Batches
from inference.data.convert import as_dataset
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.load import find_dataset
from inference.data.stored import Growing, Rows
from inference.errors import UserError
from ppl_models import VAE, ConvVAE, GatedVAE
from tests.data.test_npz import SAME
from tests.support import shortened

CPU = torch.device("cpu")
IMAGES = np.random.RandomState(0).randint(256, size=(130, 8, 8)).astype(np.uint8)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every file stay on disk."""
    monkeypatch.setattr(stored, "LIMIT", 0)


def both(path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Dataset]:
    """Returns the data set of a file in memory and on disk."""
    in_memory, _ = find_dataset(str(path), path.parent, model)
    monkeypatch.setattr(stored, "LIMIT", 0)
    on_disk, _ = find_dataset(str(path), path.parent, model)
    assert isinstance(in_memory.x_train, torch.Tensor) and isinstance(on_disk.x_train, Rows)
    return in_memory, on_disk


@pytest.mark.parametrize("how", SAME)
def test_arrays_of_every_type_and_layout_are_converted_as_in_memory(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _ = SAME[how]
    np.save(tmp_path / "x.npy", x)
    in_memory, on_disk = both(tmp_path / "x.npy", None, monkeypatch)
    assert on_disk.checksum() == in_memory.checksum() and on_disk.scale == in_memory.scale
    assert torch.equal(on_disk.x_train[:], in_memory.x_train[:])
    assert torch.equal(on_disk.x_test[0], in_memory.x_test[0])
    assert on_disk.x_train.shape == in_memory.x_train.shape and on_disk.x_train.dtype == torch.uint8


def test_validation_and_padding_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.RandomState(0).randint(256, size=(50, 3, 28, 28), dtype=np.uint8))
    in_memory, on_disk = (
        data.with_validation(0.2, 3).padded(ConvVAE)
        for data in both(tmp_path / "x.npy", ConvVAE, monkeypatch)
    )
    assert on_disk.shape == in_memory.shape == (3, 32, 32)
    for part in ("x_train", "x_valid", "x_test"):
        assert isinstance(getattr(on_disk, part), Rows)
        assert torch.equal(getattr(on_disk, part)[:], getattr(in_memory, part))


def test_known_blocks_prove_the_order(tmp_path: Path, on_disk: None) -> None:
    """A sparse file: every row is zero except a few, whose first pixel tells which they are."""
    marked = [0, 1, 500, 777, 1999]
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (2_000, 4, 4))
    for number, row in enumerate(marked):
        x[row] = 255
        x[row, 0, 0] = number + 1
    x.flush()
    data, _ = find_dataset(str(tmp_path / "x.npy"), tmp_path, VAE)
    batches = Batches(data, VAE, 90, 5, torch.empty(0, dtype=torch.long), CPU)
    test_rows = np.random.RandomState(0).permutation(2_000)[:200]
    rows = np.setdiff1d(np.arange(2_000), test_rows)
    for epoch in range(2):
        order = rows[torch.randperm(1_800, generator=torch.Generator().manual_seed(5 * 1_000_003 + epoch))]
        for place in range(20):
            index, read = batches.tensors(20 * epoch + place)
            expected = [marked.index(row) + 1 if row in marked else 0 for row in order[90 * place :][:90]]
            assert index.tolist() == list(range(90)) and read[:, 0, 0, 0].tolist() == expected


@pytest.mark.parametrize("cls", [VAE, GatedVAE])
def test_held_out_data_have_the_same_noise_in_chunks(
    cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = 8 if cls is VAE else 32
    x = np.random.RandomState(0).randint(256, size=(70, 3, side, side), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    in_memory, on_disk = (HeldOut(data, cls, CPU) for data in both(tmp_path / "x.npy", cls, monkeypatch))
    assert on_disk.x is None and len(on_disk) == len(in_memory) == 7
    for a, b in zip(in_memory.chunks(3), on_disk.chunks(3), strict=True):
        assert torch.equal(a[0]["x"], b[0]["x"]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("mode", shortened(["eager", "graph", "inductor"], ["eager", "graph"]))
def test_training_is_the_same_to_the_bit(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "inductor" and shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler here")
    np.save(tmp_path / "x.npy", IMAGES)
    found = []
    for data in both(tmp_path / "x.npy", VAE, monkeypatch):
        torch.manual_seed(0)
        model = VAE((1, 8, 8), z_dim=2, hidden=16)
        fit(model, data, steps=23, batch_size=20, seed=1, compile=mode, device="cpu", progress=False)
        found.append((model.state_dict(), evaluate(model, data, (1, 5), device="cpu")))
    (state, metrics), (other_state, other_metrics) = found
    assert metrics == other_metrics
    assert all(torch.equal(state[name], other_state[name]) for name in state)


def measurements(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_resumed_run_is_that_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    options = ["--model=vae", f"--data={tmp_path / 'x.npy'}", "--batch-size=20", "--device=cpu"]
    options += ["--compile=eager", "--hidden=16", "--z-dim=2"]
    assert svi.main([*options, "--steps=15", f"--run-dir={tmp_path / 'whole'}"]) == 0
    monkeypatch.setattr(stored, "LIMIT", 0)
    assert svi.main([*options, "--steps=10", f"--run-dir={tmp_path / 'resumed'}"]) == 0
    assert svi.main([f"--resume={tmp_path / 'resumed'}", "--steps=15"]) == 0
    assert measurements(tmp_path / "whole")[-1] == measurements(tmp_path / "resumed")[-1]
    one, other = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "resumed"))
    assert all(torch.equal(one["parameters"][name], other["parameters"][name]) for name in one["parameters"])


def test_a_file_larger_than_the_memory_is_mapped(tmp_path: Path) -> None:
    """A writable private mapping of so many bytes would be refused."""
    with open(tmp_path / "x.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**40 // 64, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)
        try:
            file.truncate(file.tell() + 2**40)
        except OSError:
            pytest.skip("the file system has no sparse files of this size")
    from inference.data.npz import _read_single
    from inference.data.observations import IMAGES as KIND

    array = _read_single(tmp_path / "x.npy", KIND)
    assert stored.is_stored(array) and array.shape == (2**40 // 64, 8, 8) and not array[-1].any()


def test_a_loader_larger_than_the_limit_goes_to_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    x, y = torch.from_numpy(IMAGES), torch.arange(130) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=33, shuffle=False, num_workers=2)
    in_memory = as_dataset(loader, model=VAE)
    monkeypatch.setattr(stored, "LIMIT", IMAGES.nbytes // 2)  # the file begins in the middle
    on_disk = as_dataset(loader, model=VAE)
    assert isinstance(on_disk.x_train, Rows) and isinstance(in_memory.x_train, torch.Tensor)
    assert on_disk.checksum() == in_memory.checksum()
    assert list(tmp_path.iterdir()) == []  # the file has no name


@pytest.mark.parametrize("colour", [0, 7, 11])
def test_a_folder_is_decoded_into_a_temporary_file(
    colour: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grey images before the first image with colour become RGB too."""
    for number, image in enumerate(IMAGES[:12]):
        pixels = np.stack([image, image // 2, image], -1) if number == colour else image
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{number % 3}" / f"{number}.png")
    in_memory, on_disk = both(tmp_path, VAE, monkeypatch)
    assert on_disk.shape == (3, 8, 8) and on_disk.checksum() == in_memory.checksum()
    assert on_disk.y_train is not None and in_memory.y_train is not None
    assert torch.equal(on_disk.y_train, in_memory.y_train)
    assert torch.equal(on_disk.x_train[:], in_memory.x_train[:])


def test_a_chunk_has_as_many_rows_as_fit(
    tmp_path: Path, on_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """130 images of 64 bytes: three fit into 200 bytes, and one is read at a time if none fits."""
    np.save(tmp_path / "x.npy", IMAGES)
    data = as_dataset(np.load(tmp_path / "x.npy", mmap_mode="r"), IMAGES, model=VAE).x_train
    assert isinstance(data, Rows)
    for size, rows in ((200, 3), (64, 1), (63, 1)):
        monkeypatch.setattr(stored, "CHUNK", size)
        found = list(stored.chunks(data))
        assert [len(chunk) for chunk in found] == [min(rows, 130 - k) for k in range(0, 130, rows)]
        assert torch.equal(torch.cat(found), data[:])


def test_a_full_temporary_folder_is_one_line(on_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, content: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(
        UserError, match=r"^pictures cannot be stored in .* \(No space left on device\)\. Set"
    ):
        Growing("pictures").append(IMAGES)


def test_a_mapped_array_stays_on_disk_and_one_in_memory_does_not(tmp_path: Path, on_disk: None) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    assert isinstance(as_dataset(np.load(tmp_path / "x.npy", mmap_mode="r"), model=VAE).x_train, Rows)
    assert isinstance(as_dataset(IMAGES, model=VAE).x_train, torch.Tensor)


def test_the_limit_is_a_quarter_of_the_free_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [stored.LIMIT, stored.LIMIT + 1]
    monkeypatch.setattr(stored, "free_memory", lambda: 2**40)
    assert [stored.exceeds_limit(size) for size in sizes] == [False, True]
    monkeypatch.setattr(stored, "free_memory", lambda: 4_000)
    assert [stored.exceeds_limit(size) for size in (1_000, 1_001)] == [False, True]
