"""The run folder: configuration, metrics, checkpoint and results, each readable by itself."""

import errno
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from inference.backend.files import open_append, pack, read_regular, remove_temporaries, write_whole
from inference.errors import UserError
from inference.rundir import checkpoint, schema
from inference.rundir.folders import acquire_lock, folder_id, is_used, new_folder, unwritable
from inference.rundir.run_config import RunConfig


class Run:
    """A folder that holds everything of one training run.

    | file | content |
    |---|---|
    | config.json | everything that is needed to repeat the run; versions, commit, the folder's `format` |
    | metrics.jsonl | one line per measurement: step, split, seconds, terms in nats per image |
    | checkpoint.pt | last and best parameters, optimiser, RNG states, step: plain data with a checksum |
    | results.json | the metrics on the test set at the end |
    | figures/ | pictures |
    | lock | held by the one command that writes into the folder |

    Every file but metrics.jsonl is written whole or not at all, and each line of metrics.jsonl in one write.
    If the folder cannot be written to, `log` and `save` print one warning and keep the content in memory
    until it can; `last_write_error` holds the reason. A folder may come from a stranger:
    `inference.rundir.schema` checks what is read, and no link inside the folder is followed.

    Attributes:
        folder: the folder.
        config: the configuration of the run.
        figures: the folder of pictures.
        last_write_error: why the last write failed; empty if it succeeded.
    """

    def __init__(self, folder: Path, config: RunConfig):
        self.folder, self.config = folder, config
        self.figures = folder / "figures"
        self.lines: list[str] = []  # of the metrics
        self.written = 0  # how many of these lines the file has
        self.last_write_error = ""
        self.folder_id: tuple[int, int] | None = None
        self.lock = FileLock(folder / "lock", timeout=0)

    @classmethod
    def create(cls, folder: Path | None, config: RunConfig) -> "Run":
        """Creates the folder of a new run and acquires its lock.

        Args:
            folder: the folder; by default runs/<model>/<time>-<seed>.
            config: the configuration, to which the current `format` is added.

        Raises:
            UserError: the folder is in use, not empty or cannot be written to. Nothing is left behind.
        """
        config = replace(config, format=schema.FORMAT)
        named = folder or Path("runs") / config.model
        made = [path for path in (named, *named.parents) if not path.exists()]
        run = cls(named, config)
        try:
            if folder is None:
                folder = new_folder(named, f"{time.strftime('%Y%m%d-%H%M%S')}-{config.seed}")
                made.insert(0, folder)
                run = cls(folder, config)
            folder.mkdir(parents=True, exist_ok=True)
            if not is_used(folder):
                run.acquire()
            if is_used(folder):  # from before, or by the process that held the lock a moment ago
                run.release()
                raise UserError(
                    f"{folder} exists and is not empty. Name another with --run-dir, or --resume it."
                )
            run.write("config.json", config.to_json())
        except OSError as error:
            if run.lock.is_locked:
                run.release()
                (run.folder / "lock").unlink(missing_ok=True)
            with suppress(OSError):
                for path in made:
                    path.rmdir()
            raise UserError(
                f"cannot write to {run.folder} ({error.strerror or error}). Name another with --run-dir."
            ) from None
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Opens an existing run.

        Raises:
            UserError: the folder is not a run, or its config.json cannot be read.
        """
        path = folder / "config.json"
        try:
            content = read_regular(path, schema.MOST_JSON)
        except OSError:
            raise UserError(
                f"{folder} is not a run: it has no readable config.json. Name a folder that a training wrote."
            ) from None
        run = cls(folder, schema.config(content, path))
        if run.figures.is_symlink() or (run.figures.exists() and not run.figures.is_dir()):
            raise UserError(f"{run.figures} is not a folder. Move it away, and the run makes one.")
        return run

    def __enter__(self) -> "Run":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Acquires the lock of the folder, which it keeps until `release`.

        Raises:
            UserError: another process holds the lock, or the folder cannot be written to.
        """
        if self.lock.is_locked:
            return
        try:
            acquire_lock(self.lock, self.folder)
            self.folder_id = folder_id(self.folder)
        except Timeout:
            raise UserError(
                f"{self.folder} is in use by another command. Wait until it ends, or name another folder."
            ) from None
        except OSError as error:
            raise unwritable(self.folder, error) from None
        remove_temporaries(self.folder)

    def release(self) -> None:
        """Releases the lock of the folder."""
        self.lock.release(force=True)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Writes a JSON file whole or not at all. Raises OSError if it cannot be written."""
        write_whole(self.folder / name, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def log(self, **measurement: Any) -> None:
        """Appends one line to metrics.jsonl, in one write."""
        self.lines.append(json.dumps(measurement, allow_nan=False) + "\n")
        self._attempt(self._append)

    def save(self, write: Callable[[], None]) -> bool:
        """Calls a function that writes into the folder, after the metrics that are still in memory.

        Returns:
            Whether everything could be written.
        """
        done = self._attempt(lambda: self._append(flush=True)) and self._attempt(write)
        if done and self.last_write_error:
            print(f"{self.folder} can be written to again", file=sys.stderr)
            self.last_write_error = ""
        return done

    def save_checkpoint(self, state: dict[str, Any]) -> bool:
        """Writes checkpoint.pt and keeps the old one until the new one has been read back.

        Returns:
            Whether it could be written.
        """
        return self.save(lambda: write_whole(self.folder / "checkpoint.pt", pack(state)))

    def _attempt(self, write: Callable[[], None]) -> bool:
        try:
            if folder_id(self.folder) != self.folder_id:
                self._reattach()
            write()
        except OSError as error:
            if not self.last_write_error:
                print(
                    f"warning: cannot write to {self.folder} ({error.strerror or error}). Training "
                    "continues, and unsaved data stay in memory until the folder can be written to.",
                    file=sys.stderr,
                )
            self.last_write_error = error.strerror or str(error)
            return False
        return True

    def _reattach(self) -> None:
        """Creates the folder again if it is gone, or acquires it if it is back; never another run's."""
        self.release()
        self.folder.mkdir(exist_ok=True)
        self.lock = FileLock(self.folder / "lock", timeout=0)
        acquire_lock(self.lock, self.folder)  # Timeout is an OSError too
        path, content = self.folder / "config.json", json.loads(json.dumps(self.config.to_json()))
        if not is_used(self.folder):
            self.write("config.json", content)
        else:
            try:
                kept = schema.parse(read_regular(path, schema.MOST_JSON), path)
            except (UserError, FileNotFoundError):
                kept = None
            if kept != content:
                raise OSError("it holds something else now")
        write_whole(self.folder / "metrics.jsonl", "".join(self.lines).encode())
        self.written = len(self.lines)
        self.folder_id = folder_id(self.folder)

    def _append(self, flush: bool = False) -> None:
        file = open_append(self.folder / "metrics.jsonl")
        try:
            end = os.fstat(file).st_size
            lines = self.lines[self.written if end else 0 :]
            text = "".join(lines).encode()
            if os.write(file, text) < len(text):
                os.ftruncate(file, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.written = len(self.lines)
            if flush:
                os.fsync(file)
        finally:
            os.close(file)

    def metrics(self) -> list[dict[str, Any]]:
        """Returns every measurement of this process, and those before a resumed step."""
        return [json.loads(line) for line in self.lines]

    def truncate_metrics_after(self, step: int) -> None:
        """Reads metrics.jsonl up to the step of the checkpoint, and drops later lines.

        Raises:
            UserError: the lines are damaged, or the folder cannot be written to.
        """
        self.lines = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        try:
            write_whole(self.folder / "metrics.jsonl", "".join(self.lines).encode())
        except OSError as error:
            raise unwritable(self.folder, error) from None
        self.written = len(self.lines)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Reads metrics.jsonl, without a last line that a crash left half written.

        Raises:
            UserError: the lines cannot be read.
        """
        path = self.folder / "metrics.jsonl"
        try:
            content = read_regular(path, schema.MOST_METRICS)
        except FileNotFoundError:
            return []
        return schema.metrics(content, path, self.config)

    def results(self) -> dict[str, Any]:
        """Reads results.json.

        Raises:
            UserError: the run is not finished, or the file cannot be read.
        """
        path = self.folder / "results.json"
        try:
            results = schema.results(read_regular(path, schema.MOST_JSON), path, self.config)
        except OSError:
            results = None
        if results is None or results["steps"] != self.config.steps:  # the run continues to more steps
            raise UserError(f"{self.folder} has no results.json yet. --resume it first.")
        return results

    def finished(self, step: int) -> bool:
        """Whether a run whose last measurement is of a step has results: at its end, or stopped early."""
        if not os.path.lexists(self.folder / "results.json"):
            return False
        if step >= self.config.steps or not self.config.early_stopping:
            return step >= self.config.steps
        try:
            return self.results().get("stopped_early") == step
        except UserError:  # the run continues to more steps
            return False

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Reads the last saved state as data, not as code.

        Returns:
            The state, or None if the run has not saved one yet.

        Raises:
            UserError: the checkpoint is damaged, missing or belongs to another model.
        """
        path = self.folder / "checkpoint.pt"
        if not os.path.lexists(path):
            if any(line["step"] for line in self.read_metrics()) or (self.folder / "results.json").exists():
                raise UserError(
                    f"{self.folder} has lost its checkpoint.pt. Restore it from a copy, or train the run "
                    "again in another folder."
                )
            return None
        return checkpoint.load(path, self.config)
