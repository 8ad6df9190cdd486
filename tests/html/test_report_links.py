"""Run folders from strangers: no command writes through a planted link or waits for a FIFO."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import inference.evaluate as evaluate_command
from inference import exact, report, svi
from inference.errors import UserError

SECRET = b"content of the victim's file"
# Files that commands write into a run folder without reading them first.
WRITTEN = ["report.html", "posterior.nc", *(f"figures/{name}.png" for name in ("k_hat", "curves", "samples"))]
READ = ["config.json", "metrics.jsonl", "checkpoint.pt", "results.json", "lock"]
COMMANDS: dict[str, Callable[[Path], int]] = {
    "report": lambda run: report.main([str(run)]),
    "resume": lambda run: svi.main(["--resume", str(run), "--steps", "12"]),
    "evaluate": lambda run: evaluate_command.main([str(run), "--particles", "1"]),
    "exact": lambda run: exact.main([str(run), "--images", "2"]),
}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the victim with a file in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "file").write_bytes(SECRET)
    return folder


def plant(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def untouched(victim: Path) -> bool:
    return os.listdir(victim) == ["file"] and (victim / "file").read_bytes() == SECRET


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_written_through_a_link(
    command: str, finished_run: Path, tmp_path: Path, victim: Path, with_report: None
) -> None:
    """Links at every name that is written, and at its former temporary name; the command succeeds."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    for name in WRITTEN:
        plant(run / name, victim / "file")
    for name in [*WRITTEN, *READ]:
        plant(run / f"{name}.tmp", victim / "file")
    if command in ("report", "exact"):  # a figure that is a link is not read either
        shutil.rmtree(run / "figures")
    assert COMMANDS[command](run) == 0
    assert untouched(victim)
    report_page = run / "report.html"
    assert report_page.exists() and not (command == "report" and report_page.is_symlink())


@pytest.mark.parametrize("command", ["report", "resume", "evaluate"])
@pytest.mark.parametrize("name", [*READ, "figures"])
def test_a_link_that_would_be_read_is_refused(
    name: str, command: str, finished_run: Path, tmp_path: Path, victim: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    if name == "figures":
        shutil.rmtree(run / "figures")
    target = victim if name == "figures" else victim / "file"
    if name != "lock" and name != "figures":  # a valid copy of the file, which stays unchanged
        shutil.copy(run / name, target)
    before = (victim / "file").read_bytes()
    plant(run / name, target)
    if (name, command) in {("checkpoint.pt", "report")}:
        assert COMMANDS[command](run) == 0  # it reports the readable part, and why the rest is missing
        assert "checkpoint.pt is not a regular file" in (run / "report.html").read_text("utf-8")
    elif (name, command) in {("results.json", "resume"), ("metrics.jsonl", "evaluate")}:
        assert COMMANDS[command](run) == 0  # this command does not read it
    else:
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            COMMANDS[command](run)
    assert (victim / "file").read_bytes() == before and os.listdir(victim) == ["file"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoint.pt", "results.json"])
def test_a_fifo_stops_a_command_instead_of_blocking_it(name: str, finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / name).unlink()
    os.mkfifo(run / name)
    command = "evaluate" if name != "metrics.jsonl" else "report"
    with pytest.raises(UserError, match=r"is not a regular file"):
        COMMANDS[command](run)


def test_a_prior_behind_a_link_is_left_unchanged(finished_run: Path, tmp_path: Path) -> None:
    """The other folder is a run of somebody else: no report is written there."""
    run, other = (
        shutil.copytree(finished_run, tmp_path / "run"),
        shutil.copytree(finished_run, tmp_path / "other"),
    )
    (other / "report.html").write_bytes(SECRET)
    (run / "prior").symlink_to(other)
    assert report.main([str(run)]) == 0
    assert (other / "report.html").read_bytes() == SECRET


def test_temporary_files_of_a_killed_process_are_removed(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / ".checkpoint.pt.0123456789abcdef.tmp").write_bytes(b"half")
    (run / "notes.tmp").write_bytes(b"file of the user")
    assert report.main([str(run)]) == 0
    assert sorted(path.name for path in run.iterdir() if path.suffix == ".tmp") == ["notes.tmp"]
