"""The run folder: configuration, metrics, checkpoint and results, each readable by itself."""

import errno
import itertools
import json
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from inference.data import datasets
from inference.data.datasets import Dataset
from inference.errors import UserError
from inference.rundir import schema
from inference.rundir.files import open_append, pack, read_regular, remove_temporaries, write_whole
from inference.training.checkpoint import judged, load
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel


class Run:
    """A folder that holds everything of one training run.

    config.json    everything needed to repeat the run; versions, commit and `format` of the folder included
    metrics.jsonl  one line a measurement: step, split, seconds, terms in nats per image
    checkpoint.pt  parameters, optimiser, generator states and step; plain data, and its own checksum
    results.json   the figures on the test set at the end
    figures/       pictures
    lock           held by the one command that writes here

    Each file but the metrics is written whole or not at all, and each line of these in one write. `log` and
    `save` take a folder that cannot be written to for what may pass: they say so once, keep in memory what
    they were given, and write it when they can. `last_write_error` is why they could not, the last time.

    A folder may come from a stranger: what is read is checked (`inference.rundir.schema`), and neither
    reading nor writing follows a link inside the folder.
    """

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.folder, self.config = folder, config
        self.figures = folder / "figures"
        self.lines: list[str] = []  # of the metrics
        self.written = 0  # of these lines, in the file
        self.last_write_error = ""
        self.place: tuple[int, int] | None = None  # which folder it is, by the system's numbers
        self.lock = FileLock(folder / "lock", timeout=0)

    @classmethod
    def create(cls, folder: Path | None, config: dict[str, Any]) -> "Run":
        """Make the folder, `runs/<model>/<when>-<seed>` unless named, and hold it.

        Adds its `format` to `config`. Raises UserError, and leaves nothing behind, if it is in use or cannot
        be written to.
        """
        config["format"] = schema.FORMAT
        named = folder or Path("runs") / config["model"]
        made = [path for path in (named, *named.parents) if not path.exists()]
        run = cls(named, config)
        try:
            if folder is None:
                folder = _fresh(named, f"{time.strftime('%Y%m%d-%H%M%S')}-{config['seed']}")
                made.insert(0, folder)
                run = cls(folder, config)
            folder.mkdir(parents=True, exist_ok=True)
            if not used(folder):
                run.acquire()
            if used(folder):  # from before, or from who held it a moment ago
                run.release()
                raise UserError(
                    f"{folder} exists and is not empty: name another with --run-dir, or --resume it"
                )
            run.write("config.json", config)
        except OSError as error:
            if run.lock.is_locked:
                run.release()
                (run.folder / "lock").unlink(missing_ok=True)
            with suppress(OSError):
                for path in made:
                    path.rmdir()
            raise UserError(
                f"cannot write to {run.folder} ({error.strerror or error}): name another with --run-dir"
            ) from None
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """An existing run, with its configuration. Raises UserError if there is none that can be read."""
        path = folder / "config.json"
        try:
            content = read_regular(path, schema.MOST_JSON)
        except OSError:
            raise UserError(f"{folder} is no run: it has no config.json that can be read") from None
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
        """Be the only one that writes here, until `release`. Raises UserError where another command is."""
        if self.lock.is_locked:
            return
        try:
            self._acquire()
            self.place = _place(self.folder)
        except Timeout:
            raise UserError(
                f"{self.folder} is in use by another command: wait for its end, or name another folder"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write to {self.folder} ({error.strerror or error})") from None
        remove_temporaries(self.folder)

    def _acquire(self) -> None:
        """Take the lock. Raises Timeout if another process has it, OSError if `lock` is no regular file."""
        path = self.folder / "lock"
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):  # FileLock would open a link, and empty its target
                raise OSError(errno.EINVAL, "lock is not a regular file")
        self.lock.acquire()

    def release(self) -> None:
        """Let other commands write here."""
        self.lock.release(force=True)

    def results(self) -> dict[str, Any]:
        """The results so far. Raises UserError if the run has not come to its end, or they cannot be read."""
        path = self.folder / "results.json"
        try:
            content = read_regular(path, schema.MOST_JSON)
        except OSError:
            raise UserError(f"{self.folder} has no results.json yet: --resume it to its end first") from None
        results = schema.results(content, path, self.config)
        if results["steps"] != self.config["steps"]:  # it is to be trained longer
            raise UserError(f"{self.folder} has no results.json yet: --resume it to its end first")
        return results

    def data(self, data_dir: Path | None = None) -> Dataset:
        """The data set that the run began with, split as it was.

        Raises UserError where it cannot be had, or has changed.
        """
        config = self.config
        file, cls = Path(config["data"]), MODELS[config["model"]]
        if file.suffix.lower() == ".npz" and file.exists() and not file.is_file():  # a FIFO would never end
            raise UserError(f"{file} is not a regular file. Name the data set that the run began with.")
        data, _ = datasets.load(config["data"], data_dir or Path(config["data_dir"]), cls)
        if data.checksum() != config["checksum"]:
            raise UserError(f"{config['data']} is not the data that the run began with: see --data-dir")
        return data.with_validation(config["validation"], config["seed"])

    @classmethod
    def restore(
        cls, folder: Path, data_dir: Path | None = None
    ) -> tuple["Run", dict[str, Any], Dataset, LatentVariableModel]:
        """A run, its configuration, its data as the model takes them, the model as saved, in eval mode.

        Raises UserError where the folder is no run, or its parts do not belong together.
        """
        run = cls.open(folder)
        config, state = run.config, run.load_checkpoint()
        model_class = MODELS[config["model"]]
        if state is None:
            raise UserError(f"{folder} has no checkpoint.pt yet: --resume it first")
        data = run.data(data_dir).padded(model_class.image_size)
        try:
            model = model_class(data.shape, data.classes, **config["options"])
            model.load_state_dict(judged(state))
        except (TypeError, ValueError, RuntimeError):
            words = f"{folder}: checkpoint.pt does not fit {config['model']}"
            raise schema.other_version(words, config) from None
        return run, config, data, model.eval()

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file whole or not at all. Raises OSError where that cannot be."""
        write_whole(self.folder / name, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def log(self, **measurement: Any) -> None:
        """Append one line to metrics.jsonl, in one write."""
        self.lines.append(json.dumps(measurement, allow_nan=False) + "\n")
        self._attempt(self._append)

    def save(self, write: Callable[[], None]) -> bool:
        """Do what writes into the folder, after the metrics still in memory; whether that could be done."""
        done = self._attempt(lambda: self._append(flush=True)) and self._attempt(write)
        if done and self.last_write_error:
            print(f"{self.folder} can be written to again", file=sys.stderr)
            self.last_write_error = ""
        return done

    def save_checkpoint(self, state: dict[str, Any]) -> bool:
        """Write checkpoint.pt; the one before it stays until this one has been read back."""
        return self.save(lambda: write_whole(self.folder / "checkpoint.pt", pack(state)))

    def _attempt(self, write: Callable[[], None]) -> bool:
        try:
            if _place(self.folder) != self.place:
                self._settle()
            write()
        except OSError as error:
            if not self.last_write_error:
                print(
                    f"warning: cannot write to {self.folder} ({error.strerror or error}): training goes on, "
                    "and what there is to save is kept in memory until it can be",
                    file=sys.stderr,
                )
            self.last_write_error = error.strerror or str(error)
            return False
        return True

    def _settle(self) -> None:
        """Make the folder anew where it has gone, or take it again where it is back; never another run's."""
        self.release()
        self.folder.mkdir(exist_ok=True)
        self.lock = FileLock(self.folder / "lock", timeout=0)
        self._acquire()  # Timeout is an OSError too
        path = self.folder / "config.json"
        if not used(self.folder):
            self.write("config.json", self.config)
        else:
            try:
                kept = schema.parse(read_regular(path, schema.MOST_JSON), path)
            except (UserError, FileNotFoundError):
                kept = None
            if kept != json.loads(json.dumps(self.config)):
                raise OSError("it holds something else now")
        write_whole(self.folder / "metrics.jsonl", "".join(self.lines).encode())
        self.written = len(self.lines)
        self.place = _place(self.folder)

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
        """Every measurement of this run so far."""
        return [json.loads(line) for line in self.lines]

    def truncate_metrics_after(self, step: int) -> None:
        """Read the metrics up to the checkpoint which a resumed run goes on from, and drop what came after.

        Raises UserError where they are damaged, or the folder cannot be written to.
        """
        self.lines = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        try:
            write_whole(self.folder / "metrics.jsonl", "".join(self.lines).encode())
        except OSError as error:
            raise UserError(f"cannot write to {self.folder} ({error.strerror or error})") from None
        self.written = len(self.lines)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last one that a crash left half written is none.

        Raises UserError if they cannot be read.
        """
        path = self.folder / "metrics.jsonl"
        try:
            content = read_regular(path, schema.MOST_METRICS)
        except FileNotFoundError:
            return []
        return schema.metrics(content, path, self.config)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The state saved last, read as data, not as code; None where the run had not come so far.

        Raises UserError if it is damaged, another model's, or gone.
        """
        path = self.folder / "checkpoint.pt"
        if not os.path.lexists(path):
            if any(line["step"] for line in self.read_metrics()) or (self.folder / "results.json").exists():
                raise UserError(
                    f"{self.folder} has lost its checkpoint.pt. Restore it from a copy, or train the run "
                    "again in another folder."
                )
            return None
        return load(path, self.config)


class ReadOnlyRun(Run):
    """A run that another process writes, as a process beside it sees it: it reads, and leaves no trace."""

    def acquire(self) -> None:
        """The one that writes holds the folder."""

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Nothing."""

    def log(self, **measurement: Any) -> None:
        """Nothing."""

    def save(self, write: Callable[[], None]) -> bool:
        """Nothing, which is always done."""
        return True

    def truncate_metrics_after(self, step: int) -> None:
        """Nothing."""


def used(folder: Path) -> bool:
    """Whether a folder holds more than what a run killed before it began may leave."""
    return any(path.name != "lock" and path.suffix != ".tmp" for path in folder.iterdir())


def _place(folder: Path) -> tuple[int, int] | None:
    """Which folder it is, by the numbers of the device and of the folder on it; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _fresh(parent: Path, name: str) -> Path:
    """A new folder of that name, or the next that is free: two runs begun in one second do not share it."""
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in itertools.chain([""], (f".{n}" for n in itertools.count(2))):
        try:
            (parent / (name + suffix)).mkdir()
            return parent / (name + suffix)
        except FileExistsError:
            continue
    raise AssertionError  # there is always a next number
