"""Files that show what happened to them, memory that is asked for before it is taken, folders held by one."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference import svi
from inference.backend import files
from inference.backend.files import pack, unpack, write_whole
from inference.cli.train import configuration, parse
from inference.data.dataset import Dataset
from inference.data.load import find_dataset
from inference.errors import UserError
from inference.rundir import schema
from inference.rundir.checkpoint import config_digest
from inference.rundir.run import Run
from inference.rundir.schema import FORMAT
from ppl_models import MODELS
from tests.support import LONGER, TINY


def test_a_checkpoint_knows_its_own_sum_and_torch_reads_it(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pt", {"a": torch.arange(5.0), "b": [1, "two"]}
    write_whole(path, pack(state))
    assert torch.equal(torch.load(path, weights_only=True)["a"], state["a"])
    assert unpack(path)["b"] == [1, "two"] and [file.name for file in tmp_path.iterdir()] == ["x.pt"]
    whole = path.read_bytes()
    for place in (0, 100, len(whole) // 2, len(whole) - 80, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"x\.pt is damaged"):
            unpack(path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_whole(path, b"before")
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"something else")  # what the disk gives back
    with pytest.raises(OSError, match="does not return what was written"):
        write_whole(path, b"after")
    monkeypatch.undo()
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("part", [lambda size: 1, lambda size: (size + 1) // 2], ids=["one byte", "half"])
def test_a_write_that_ends_early_is_continued(
    part: Callable[[int], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may write less than it is given, and does so beyond 2 GiB."""
    content, counts, write = bytes(range(256)), [], os.write

    def short(file: int, rest: bytes) -> int:
        counts.append(write(file, rest[: part(len(rest))]))
        return counts[-1]

    monkeypatch.setattr(os, "write", short)
    write_whole(tmp_path / "x", content)
    assert (tmp_path / "x").read_bytes() == content
    assert sum(counts) == 256 and len(counts) > 8


def test_what_does_not_fit_says_how_much_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what the headers of the arrays say: none of them is read."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (2**18, 32, 32)}
    )
    path, content = tmp_path / "large.npz", bytes(2**28)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x_train.npy", header.getvalue() + content)
    monkeypatch.setattr(files.psutil, "virtual_memory", lambda: type("M", (), {"available": 2**29})())
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(UserError, match=r"large\.npz needs 0\.8 GiB of memory, and 0\.5 are free"):
        find_dataset(str(path), tmp_path)
    with pytest.raises(UserError, match=r"vae of this size needs \d+\.\d GiB of memory, and 0\.5 are free"):
        svi.main(
            ["--model", "vae", "--data", "digits", "--hidden", "40000", "--run-dir", str(tmp_path / "x")]
        )
    with pytest.raises(UserError, match="flow of this size has more than 10000 tensors"):
        svi.main(["--model", "flow", "--layers", "100000", "--run-dir", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_a_folder_is_held_by_one(own_run: Path) -> None:
    with Run.open(own_run), pytest.raises(UserError, match="is in use by another command"):
        svi.main(["--resume", str(own_run)])
    assert svi.main(["--resume", str(own_run)]) == 0


def test_where_nothing_can_be_written_nothing_is_left(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run would have named its folder itself."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match=r"cannot write to runs/vae/.*No space"):
        svi.main(["--model", "vae", *TINY, "--data", str(small_npz)])
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_model_is_refused(own_run: Path) -> None:
    path = own_run / "checkpoint.pt"
    path.write_bytes(pack(unpack(path) | {"model": "ae"}))
    with pytest.raises(UserError, match=r"is a checkpoint of ae, not of vae\. Restore the run's own"):
        svi.main(["--resume", str(own_run)])


def test_a_configuration_and_a_checkpoint_belong_together(own_run: Path) -> None:
    """Also where nothing but a number was changed, as by a flipped bit."""
    config = json.loads((own_run / "config.json").read_text())
    (own_run / "config.json").write_text(json.dumps(config | {"lr": 0.002}))
    with pytest.raises(UserError, match=r"and checkpoint\.pt do not belong together\. Restore both"):
        svi.main(["--resume", str(own_run)])
    for key, value in (("steps", "many"), ("lr", -1), ("seed", None), ("kl_warmup", []), ("eval_every", 0)):
        (own_run / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(UserError, match=r"config\.json is damaged"):
            svi.main(["--resume", str(own_run)])


@pytest.mark.parametrize("name", MODELS)
def test_a_configuration_read_back_decides_the_same(name: str) -> None:
    cls = MODELS[name]
    kind = torch.float32 if cls.observation == "points" else torch.uint8
    x, y = torch.zeros(20, *cls.padded(cls.example_shape), dtype=kind), torch.arange(20) % 10
    config = configuration(parse(["--model", name]), Dataset("any", x, y, x, y))
    content = json.dumps(config.to_json() | {"format": FORMAT}).encode()
    read = schema.config(content, Path("config.json"))
    assert config_digest(read) == config_digest(config) and read == replace(config, format=FORMAT)


def test_a_line_of_metrics_is_written_at_once(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows the file never sees half of one. It is flushed to the disk before each other file."""
    write, seen = os.write, []
    save, saves, flushed = Run.save, list[object](), list[int]()
    monkeypatch.setattr(Run, "save", lambda self, each: (saves.append(each), save(self, each))[1])
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino))

    def watch(file: int, content: bytes) -> int:
        if b'"split"' in content:
            seen.append(bytes(content))
        return write(file, content)

    monkeypatch.setattr(os, "write", watch)
    run = tmp_path / "run"
    assert svi.main(["--model", "vae", *LONGER, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    assert b"".join(seen) == (run / "metrics.jsonl").read_bytes() and len(seen) == 22
    assert all(json.loads(line)["step"] >= 0 for line in seen)
    assert flushed.count((run / "metrics.jsonl").stat().st_ino) == len(saves) > 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_device_or_a_folder_is_not_replaced(tmp_path: Path) -> None:
    """What a user names as a place for a picture may be one: with enough rights it could be renamed over."""
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("fifo.png", "folder.png"):
        with pytest.raises(OSError, match="not a regular file"):
            write_whole(tmp_path / name, b"x")
    assert (tmp_path / "fifo.png").is_fifo() and len(list(tmp_path.iterdir())) == 2


def test_a_link_is_replaced_and_its_target_is_left(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"before")
    for name in ("x", "x.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    write_whole(tmp_path / "x", b"after")
    assert (tmp_path / "victim").read_bytes() == b"before" and (tmp_path / "x.tmp").is_symlink()
    assert (tmp_path / "x").read_bytes() == b"after" and not (tmp_path / "x").is_symlink()
    with pytest.raises(OSError, match=r"symbolic links|not a regular file"):
        files.open_append(tmp_path / "x.tmp")
