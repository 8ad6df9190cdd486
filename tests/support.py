"""Helpers of several test files: documented models, options of small runs, reading and comparing runs."""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from inference import fitting, svi
from inference.html import report
from inference.metrics.importance import sample_pool
from inference.plots import run_figures
from ppl_models import af_vae, vqvae
from ppl_models.base import LatentVariableModel
from ppl_models.nets import gated, residual
from tools import table

# The models in README's table of systems. The docs must cover these; a newly registered model needs no docs.
_, _SYSTEMS = table.README.read_text().split(table.SYSTEMS_MARKS[0])
DOCUMENTED = re.findall(r"^\| `(\w+)` \|", _SYSTEMS.partition(table.SYSTEMS_MARKS[1])[0], re.MULTILINE)

# Options of a run that takes less than a second, and of one with more steps.
TINY = ["--steps", "10", "--batch-size", "20", "--hidden", "16", "--z-dim", "2"]
LONGER = [*TINY, "--steps", "40"]
SSVAE = ["--model", "ssvae", *TINY, "--labels", "6"]

# Constants of networks, and the numbers with which tests of identities are fast.
NARROW_NETWORKS = ((residual, "WIDTH", 8), (vqvae, "WIDTH", 8), (af_vae, "WIDTH", 8), (gated, "BLOCKS", 1))


_UPDATE = report.update  # fixtures.py replaces it


@contextmanager
def drawn() -> Iterator[None]:
    """Within it, runs draw their pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "draw_all", run_figures.draw_all)
        yield


@contextmanager
def reported() -> Iterator[None]:
    """Within it, commands write the report of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "update", _UPDATE)
        yield


@contextmanager
def narrowed() -> Iterator[None]:
    """Within it, networks have few channels and blocks, and the picture of a code prior has few samples."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, number in NARROW_NETWORKS:
            patch.setattr(module, name, number)
        patch.setattr(fitting, "CODE_SAMPLES", 10)
        yield


def shortened(every: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """Parameters of a test: all values, of which only those in `kept` are tested outside of .ci/full."""
    return [pytest.param(value, marks=() if value in kept else pytest.mark.full) for value in every]


def lines(run: Path) -> list[dict]:
    """Reads metrics.jsonl of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict]:
    """Reads metrics.jsonl of a run, without timings."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(run)]


def same(a: object, b: object) -> bool:
    """Returns whether two checkpoints are equal bit for bit, except for timings."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


def checkpoint(run: Path) -> dict:
    """Reads the checkpoint of a run."""
    return torch.load(run / "checkpoint.pt", weights_only=True)


def bounds(
    model: LatentVariableModel, x: Tensor, particles: tuple[int, ...], samples: int
) -> tuple[Tensor, Tensor]:
    """Estimates importance-weighted bounds, as means over the images.

    Args:
        model: A trained model.
        x: Images, (images, *shape).
        particles: Numbers of particles; each divides `samples`.
        samples: Importance samples per image.

    Returns:
        The bound for each number of particles in nats per image, and its Monte Carlo error.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        log_w = sample_pool(model, {"x": x}, samples, 2_000).log_weights
    means, errors = [], []
    for m in particles:
        groups = log_w.unflatten(0, (-1, m)).logsumexp(1).mean(-1) - math.log(
            m
        )  # (groups,), mean over images
        means.append(groups.mean())
        errors.append(groups.std() / len(groups) ** 0.5)
    return torch.stack(means), torch.stack(errors)


def every_kind(folder: Path) -> Path:
    """Trains a short run of each kind of model in a folder, and a code prior next to its first stage.

    The networks of the two stages are narrow: their checkpoints fit no model that is built elsewhere.
    Pictures have few pixels, and many points are evaluated at once.
    """
    colours = folder / "colours.npz"
    x = np.random.RandomState(0).randint(256, size=(24, 32, 32, 3), dtype=np.uint8)
    np.savez(colours, x_train=x[:16], x_test=x[16:])
    digits = ["--data", "digits", "--steps", "40", "--batch-size", "20"]
    two = ["--steps", "2", "--batch-size", "8"]
    kinds = {
        "ssvae": ["--hidden", "16", "--z-dim", "2", "--labels", "20", "--validation", "0.1", *digits],
        "made": ["--hidden", "16", *digits],
        "ppca": ["--z-dim", "2", *digits],
        "ae": ["--z-dim", "3", "--data", "digits", *two],
        "vae2d": ["--data", "gauss-full-1", "--steps", "4", "--batch-size", "20"],
        "vqvae": ["--data", str(colours), "--codes", "9", *two],
    }
    savefig = Figure.savefig
    with drawn(), reported(), narrowed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *to, **how: savefig(self, *to, **how | {"dpi": 75}))
        patch.setattr("inference.metrics.bounds.CHUNK", 5_000)
        for model, options in kinds.items():
            assert svi.main(["--model", model, *options, "--run-dir", str(folder / model)]) == 0
        stage2 = ["--stage1-run", str(folder / "vqvae"), "--code-prior", "pixelcnn", "--width", "32"]
        assert svi.main([*stage2, *two]) == 0
    return folder
