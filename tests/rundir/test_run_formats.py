"""Run folders of other versions: what can be read is read, the rest is refused without a word of damage."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import inference.evaluate as evaluate_command
from inference import report, svi
from inference.backend.files import pack, unpack
from inference.errors import UserError
from inference.rundir.checkpoint import NOT_IN_DIGEST
from inference.rundir.restore import restore
from inference.rundir.schema import FORMAT
from tests.support import checkpoint, lines, same

COMMIT = "b919792c0ffee000000000000000000000000000"
FORBIDDEN = re.compile("damaged|anew|delete|remove|lost")


def edit(path: Path, *without: str, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in without}))


def as_format_2(run: Path, *without: str, **changes: Any) -> None:
    """Renames keys in a run folder as the versions before format 3 wrote them."""
    config = json.loads((run / "config.json").read_text())
    names = {"kl_warmup": "warmup", "observation": "pixels", "stage1_run": "from"}
    config = {names.get(key, key): value for key, value in config.items()} | {"format": 2}
    config["compile"] = {"eager": "plain", "inductor": "kernels"}.get(config["compile"], config["compile"])
    kept = {key: value for key, value in config.items() if key not in NOT_IN_DIGEST}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
    state = unpack(run / "checkpoint.pt") | {"decisive": digest}
    state["in_a_row"] = state.pop("consecutive_skips")
    del state["config_digest"]
    (run / "checkpoint.pt").write_bytes(pack(state))
    (run / "config.json").write_text(json.dumps(config))
    edit(run / "config.json", *without, **changes)


def refused(command: str, run: Path) -> str:
    commands = {
        "resume": lambda: svi.main(["--resume", str(run), "--steps", "15"]),
        "evaluate": lambda: evaluate_command.main([str(run), "--particles", "1"]),
        "report": lambda: report.main([str(run)]),
    }
    with pytest.raises(UserError) as caught:
        commands[command]()
    assert not FORBIDDEN.search(str(caught.value)) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_run_says_its_format_and_the_commit(finished_run: Path) -> None:
    config, root = json.loads((finished_run / "config.json").read_text()), Path(__file__).parents[2]
    assert config["format"] == FORMAT >= 2
    if (root / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
        assert config["commit"].removesuffix("-modified") == head.stdout.strip()
    else:
        assert config["commit"] is None


def test_a_run_of_before_the_number_is_read_resumed_evaluated_and_reported(
    finished_run: Path, tmp_path: Path
) -> None:
    """As commit c2a7637 writes it: the same but for the number. It goes on bit for bit."""
    run, other = shutil.copytree(finished_run, tmp_path / "a"), shutil.copytree(finished_run, tmp_path / "b")
    as_format_2(run, "format")
    for folder in (run, other):
        assert svi.main(["--resume", str(folder), "--steps", "14"]) == 0
    states = checkpoint(run), checkpoint(other)
    assert len({state.pop("config_digest") for state in states}) == 2  # each of its own config.json
    assert same(*states) and len(lines(run)) == len(lines(other))
    assert json.loads((run / "config.json").read_text())["pixels"]
    assert "format" not in json.loads((run / "config.json").read_text())
    assert evaluate_command.main([str(run), "--particles", "1"]) == 0
    assert "iwae_1" in json.loads((run / "results.json").read_text())["test"]
    assert report.main([str(run)]) == 0
    restore(run)


@pytest.mark.parametrize("command", ["resume", "evaluate", "report"])
def test_a_run_of_a_later_format_is_refused(command: str, finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    edit(run / "config.json", format=FORMAT + 1, commit=COMMIT)
    said = refused(command, run)
    assert (
        f"format {FORMAT + 1}" in said
        and f"up to {FORMAT}" in said
        and f"Commit {COMMIT} wrote this run" in said
    )


@pytest.mark.parametrize("key", ["particles", "pixels", "eval_every", "checksum"])
@pytest.mark.parametrize("commit", [COMMIT, None, "<b>evil</b>"])
def test_a_configuration_without_a_later_key_is_of_another_version(
    key: str, commit: str | None, finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    as_format_2(run, key, "format", "compile", commit=commit)
    writer = f"Commit {COMMIT}" if commit == COMMIT else "Another version of this project"
    for command in ("resume", "evaluate", "report"):
        said = refused(command, run)
        assert repr(key) in said and f"{writer} wrote this run, and that version can read it" in said


def old_checkpoint(run: Path) -> None:
    """As commit b919792 wrote it: one generator, no `compile` in the configuration."""
    as_format_2(run, "format", "compile", commit=COMMIT)
    state = unpack(run / "checkpoint.pt")
    state["generator"] = state.pop("generators")[0]["cpu"]
    (run / "checkpoint.pt").write_bytes(pack(state))


def test_a_checkpoint_of_an_older_version_is_refused_and_still_reported(
    finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    old_checkpoint(run)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for command in ("resume", "evaluate"):
        assert f"no 'generators'. Commit {COMMIT} wrote this run" in refused(command, run)
    assert {path: path.read_bytes() for path in before} == before
    assert report.main([str(run)]) == 0
    page = (run / "report.html").read_text("utf-8")
    assert f"Commit {COMMIT} wrote this run" in page and 'id="results"' in page


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_a_configuration_without_compile_and_a_checkpoint_with_its_digest(
    command: str, finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    as_format_2(run, "format", "compile", commit=COMMIT)
    assert f"Commit {COMMIT} wrote this run" in refused(command, run)


def test_a_checkpoint_of_before_the_checksum_is_refused(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    torch.save(unpack(run / "checkpoint.pt"), run / "checkpoint.pt")
    for command in ("resume", "evaluate"):
        assert "has no checksum, so an older version" in refused(command, run)


@pytest.mark.parametrize("key", ["skipped", "seconds", "device"])
def test_results_without_a_later_key_are_of_another_version(
    key: str, finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    edit(run / "results.json", key)
    edit(run / "config.json", commit=COMMIT)
    for command in ("evaluate", "report"):
        said = refused(command, run)
        assert f"results.json has no {key!r}" in said and f"Commit {COMMIT} wrote this run" in said


def test_parameters_that_do_not_fit_the_model_are_of_another_version(
    finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    state = unpack(run / "checkpoint.pt")
    state["parameters"] = {f"old.{name}": value for name, value in state["parameters"].items()}
    (run / "checkpoint.pt").write_bytes(pack(state))
    edit(run / "config.json", commit=COMMIT)
    assert f"does not fit vae. Commit {COMMIT} wrote this run" in refused("evaluate", run)
    assert report.main([str(run)]) == 0
    assert "does not fit vae" in (run / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", "3"), ("seconds", None), ("skipped", -1), ("parameters", []), ("generators", 1)],
)
def test_a_checkpoint_with_a_value_of_another_type_is_refused(
    key: str, value: object, finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "checkpoint.pt").write_bytes(pack(unpack(run / "checkpoint.pt") | {key: value}))
    with pytest.raises(UserError, match=rf"checkpoint\.pt is damaged: {key} is "):
        svi.main(["--resume", str(run)])
