"""The run folder: configuration, metrics, checkpoint and results, each readable by itself."""

import itertools
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

from inference import datasets
from inference.datasets import Dataset
from inference.errors import BadInput
from inference.options import TRAINING
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

# What a run's config.json must name for the run to go on.
NEEDED = {
    *("model", "data", "data_dir", "checksum", "pixels", "options", "eval_every"),
    *("steps", "batch_size", "lr", "elbo", "seed", "device"),
}


class Run:
    """A folder that holds everything of one training run.

    config.json    everything needed to repeat the run; versions and commit included
    metrics.jsonl  one line a measurement: step, split, seconds, terms in nats per image
    checkpoint.pt  parameters, optimiser, generator states and step; plain data only
    results.json   the figures on the test set at the end
    figures/       pictures
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.figures = folder / "figures"

    @classmethod
    def create(cls, folder: Path | None, config: dict[str, Any]) -> "Run":
        """Make the folder, `runs/<model>/<when>-<seed>` unless named. Raises BadInput where it is in use."""
        try:
            if folder is None:
                folder = _fresh(
                    Path("runs") / config["model"], f"{time.strftime('%Y%m%d-%H%M%S')}-{config['seed']}"
                )
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise BadInput(
                    f"{folder} exists and is not empty: name another with --run-dir, or --resume it"
                )
        except OSError as error:
            raise BadInput(
                f"cannot write to {folder} ({error.strerror}): name another with --run-dir"
            ) from None
        run = cls(folder)
        run.write("config.json", config)
        return run

    @classmethod
    def open(cls, folder: Path) -> tuple["Run", dict[str, Any]]:
        """An existing run and its configuration. Raises BadInput where there is none."""
        try:
            config = json.loads((folder / "config.json").read_text())
        except OSError:
            raise BadInput(f"{folder} is no run: it has no config.json that can be read") from None
        except ValueError:
            config = {}
        if not isinstance(config, dict) or not config.keys() >= NEEDED or config["model"] not in MODELS:
            raise BadInput(f"{folder / 'config.json'} is damaged: the run cannot go on from it")
        return cls(folder), TRAINING | config

    def results(self) -> dict[str, Any]:
        """The results so far. Raises BadInput where the run has not come to its end."""
        try:
            results = json.loads((self.folder / "results.json").read_text())
            results["test"].items()
        except OSError:
            raise BadInput(f"{self.folder} has no results.json yet: --resume it to its end first") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(
                f"{self.folder / 'results.json'} is damaged: --resume the run to have it again"
            ) from None
        return results

    def data(self, config: dict[str, Any], data_dir: Path | None = None) -> Dataset:
        """The data set that the run began with, split as it was.

        Raises BadInput where it cannot be had, or has changed.
        """
        data, _ = datasets.load(config["data"], data_dir or Path(config["data_dir"]))
        if data.checksum() != config["checksum"]:
            raise BadInput(f"{config['data']} is not the data that the run began with: see --data-dir")
        return data.with_validation(config["validation"], config["seed"])

    @classmethod
    def restore(
        cls, folder: Path, data_dir: Path | None = None
    ) -> tuple["Run", dict[str, Any], Dataset, LatentVariableModel]:
        """A run, its configuration, its data as the model takes them, the model as saved, in eval mode.

        Raises BadInput where the folder is no run, or its parts do not belong together.
        """
        run, config = cls.open(folder)
        state, model_class = run.load_checkpoint(config["model"]), MODELS[config["model"]]
        data = run.data(config, data_dir).padded(model_class.side)
        try:
            model = model_class(data.shape, data.classes, **config["options"])
            model.load_state_dict(judged(state))
        except (TypeError, ValueError, RuntimeError):
            raise BadInput(f"{folder}: config.json and checkpoint.pt do not belong together") from None
        return run, config, data, model.eval()

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        temporary = self.folder / f"{name}.tmp"
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        os.replace(temporary, self.folder / name)

    def log(self, **measurement: Any) -> None:
        """Append one line to metrics.jsonl, in one write."""
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(measurement, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every measurement so far; a last line that a crash left half written is not one."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def forget_after(self, step: int) -> None:
        """Drop the metrics that came after the checkpoint which a resumed run goes on from."""
        kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
        temporary = self.folder / "metrics.jsonl.tmp"
        temporary.write_text("".join(kept))
        os.replace(temporary, self.folder / "metrics.jsonl")

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write checkpoint.pt whole or not at all: to a temporary file, flushed to the disk, then renamed."""
        temporary = self.folder / "checkpoint.pt.tmp"
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / "checkpoint.pt")

    def load_checkpoint(self, model: str) -> dict[str, Any]:
        """The state saved last, read as data, not as code. Raises BadInput if damaged or another model's."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            raise BadInput(f"{self.folder} has no checkpoint.pt: nothing to go on from, start the run anew")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            found, *_ = (
                state[key] for key in ("model", "step", "seconds", "parameters", "optimizer", "generator")
            )
        except Exception as error:  # torch raises many kinds for a damaged file
            reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
            raise BadInput(f"{path} is corrupt or no checkpoint ({reason}): start the run anew") from None
        if found != model:
            raise BadInput(
                f"{path} is a checkpoint of {found}, not of {model}: resume the run that it came from"
            )
        return state


def judged(state: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a checkpoint that the run is judged by: their moving average where it has one."""
    averaged = state.get("averaged")
    if averaged is None:
        return state["parameters"]
    return {name.removeprefix("module."): value for name, value in averaged.items() if name != "n_averaged"}


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


def provenance() -> dict[str, Any]:
    """The versions, the machine's kind and the commit that a run is made with."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "numpy": np.__version__,
        },
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the code that runs, marked where files differ from it; None outside a checkout."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # installed inside somebody else's checkout
        changed = git("status", "--porcelain", "--", "ppl_models", "inference")
        return git("rev-parse", "HEAD") + ("-modified" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
