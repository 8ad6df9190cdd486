"""The second stage of a system trained in two: an autoregressive prior of a finished run's codes."""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.backend.device import choose_device
from inference.data.batches import HeldOut
from inference.data.datasets import Dataset
from inference.errors import UserError
from inference.plots.images import save_images
from inference.rundir.files import write_whole
from inference.rundir.run import Run
from ppl_models import VQVAE

CHUNK = 500  # images encoded at a time
SAMPLES = 100


def second_stage(given: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The options of the prior's own run, in `folder/prior-NAME` unless named: its data are the codes.

    These are written into the first run's folder, codes-of-DATA.npz, as any data set of one's own is. Raises
    UserError where the folder is no finished run of a model with codes.
    """
    run, model, data = _first(folder, getattr(given, "data_dir", None))
    model = model.to(choose_device(getattr(given, "device", "auto")))
    parts = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
    codes = len(model.codebook.entries)
    arrays: dict[str, Any] = {f"x_{part}": _codes(model, data, x) for part, (x, _) in parts.items()}
    arrays |= {"codes": codes}
    arrays |= {f"y_{part}": y.numpy() for part, (_, y) in parts.items() if y is not None}
    file = folder / f"codes-of-{Path(data.name).stem}.npz"
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    with run:
        write_whole(file, content.getvalue())
    own = {"run_dir": folder / f"prior-{given.prior}"} | vars(given)
    own |= {"model": f"code_{given.prior}", "data": str(file), "codes": codes}
    return argparse.Namespace(**(own | {"from": folder}))


def draw(second: Path, first: Path, data_dir: Path | None = None) -> None:
    """Codes drawn from the prior and decoded by the first stage, as samples.png of the prior's run."""
    run, config, _, prior = Run.restore(second)
    _, model, _ = _first(first, data_dir)
    device = choose_device(config["device"])
    prior, model = prior.to(device), model.to(device)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        index = prior.sample(SAMPLES)[:, 0].long()
    title = f"{SAMPLES} samples: codes of the prior, and the mean images they are decoded to"
    save_images(model, model.decode_codes(index), 10, run.figures / "samples.png", title)


def _first(folder: Path, data_dir: Path | None) -> tuple[Run, VQVAE, Dataset]:
    run, config, data, model = Run.restore(folder, data_dir)
    if not isinstance(model, VQVAE):
        raise UserError(f"{folder} is a run of {config['model']}, which has no codes: name one of vqvae")
    run.results()  # refuses a run that has not come to its end
    return run, model, data


def _codes(model: VQVAE, data: Dataset, x: Tensor) -> np.ndarray:
    """The codes of images as levels, (n, 8, 8), uint8."""
    levels = Dataset(data.name, data.x_train, None, x, None)
    chunks = HeldOut(levels, type(model), next(model.parameters()).device).chunks(CHUNK)
    return torch.cat([model.codes(**inputs).to(torch.uint8).cpu() for inputs, _, _ in chunks]).numpy()
