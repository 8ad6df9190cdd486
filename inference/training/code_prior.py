"""The second stage of a VQ-VAE: the codes of a finished run, and images from codes that a prior samples."""

import io
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from inference.backend.device import choose_device
from inference.backend.files import write_whole
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.data.stored import Data
from inference.errors import UserError
from inference.rundir.restore import restore, restore_model
from inference.rundir.run import Run
from ppl_models import VQVAE
from ppl_models.base import LatentVariableModel

CHUNK = 500  # images of at most 32 x 32 encoded at a time


def write_codes(folder: Path, data_dir: Path | None = None, device: str = "auto") -> tuple[Path, int]:
    """Encodes the data of a finished run and writes the codes into its folder, as codes-of-DATA.npz.

    Args:
        folder: of a run of a model with a codebook.
        data_dir: of named data sets, if it moved.
        device: where to encode.

    Returns:
        The file, and the number of codes.

    Raises:
        UserError: the folder is not a finished run of such a model.
    """
    run, data, model = _first_stage(folder, data_dir)
    model = model.to(choose_device(device))
    codes = len(model.codebook.entries)
    parts = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
    arrays: dict[str, Any] = {f"x_{part}": _codes(model, data, x) for part, (x, _) in parts.items()}
    arrays |= {"codes": codes}
    arrays |= {f"y_{part}": y.numpy() for part, (_, y) in parts.items() if y is not None}
    file = folder / f"codes-of-{Path(data.name).stem.replace(':', '-')}.npz"
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    with run:
        write_whole(file, content.getvalue())
    return file, codes


class Sampled(NamedTuple):
    """Images from codes that a prior sampled, and the model that decoded them."""

    images: Tensor  # mean images, (n, *shape), on the scale of the model's observations
    model: LatentVariableModel


@torch.no_grad()
def sample_images(prior_run: Path, first_run: Path, n: int, data_dir: Path | None = None) -> Sampled:
    """Samples codes from a trained prior and decodes them by the first stage.

    Args:
        prior_run: folder of the prior's run.
        first_run: folder of the first stage's run.
        n: number of images.
        data_dir: of named data sets, if it moved.
    """
    _, config, _, prior = restore(prior_run)
    model = _first_stage(first_run, data_dir)[2]
    device = choose_device(config.device)
    prior, model = prior.to(device), model.to(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        index = prior.sample(n)[:, 0].long()
    return Sampled(model.decode_codes(index), model)


def first_stage(run: Run) -> LatentVariableModel:
    """Returns the model of the first stage of a prior's run, from where it was or from the folder above.

    Args:
        run: of the prior.

    Raises:
        UserError: there is no such run, or it has another codebook.
    """
    named = Path(run.config.stage1_run or "")
    for folder in (named, run.folder.resolve().parent):
        if (folder / "config.json").is_file():
            model = restore_model(Run.open(folder))
            if isinstance(model, VQVAE) and len(model.codebook.entries) == run.config.options["codes"]:
                return model
    raise UserError(
        f"{named}, whose codes {run.folder} generates, is not a run with such a codebook. Move it back, or "
        "move the run of the prior into its folder."
    )


def decode_codes(model: LatentVariableModel, index: Tensor) -> Tensor:
    """Returns the mean images (n, *shape) of codes (n, height, width), decoded in parts."""
    return torch.cat([cast(VQVAE, model).decode_codes(part.long()) for part in index.split(CHUNK)])


def _first_stage(folder: Path, data_dir: Path | None) -> tuple[Run, Dataset, VQVAE]:
    run, config, data, model = restore(folder, data_dir)
    if not isinstance(model, VQVAE):
        raise UserError(f"{folder} is a run of {config.model}, which has no codebook: name one of vqvae")
    run.results()  # raises UserError if the run is not finished
    return run, data, model


def _codes(model: VQVAE, data: Dataset, x: Data) -> np.ndarray:
    """The codes of raw images, (n, height, width), uint8."""
    levels = Dataset(data.name, data.x_train, None, x, None)
    images = HeldOut(levels, type(model), next(model.parameters()).device)
    chunks = images.chunks(images.chunk_size(CHUNK))
    return torch.cat([model.codes(**inputs).to(torch.uint8).cpu() for inputs, _, _ in chunks]).numpy()
