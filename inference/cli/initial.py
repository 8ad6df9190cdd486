"""`--init-from`: a new run that starts from the weights of another run or of a saved model."""

import hashlib
from pathlib import Path

import pyro

from inference.api import load
from inference.data.dataset import Dataset
from inference.errors import UserError
from inference.rundir.run_config import RunConfig
from ppl_models.base import LatentVariableModel


def weights_checksum(model: LatentVariableModel) -> str:
    """Returns a digest of the names and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def initial_model(config: RunConfig, data: Dataset) -> LatentVariableModel:
    """Returns the model of a new run with the weights that evaluation of its source uses.

    Args:
        config: of the new run, with `init_from`.
        data: its data.

    Raises:
        UserError: the source cannot be read, or is of another class or other shapes.
    """
    path, cls = Path(config.init_from or ""), config.model_class
    source = load(path)
    if type(source) is not cls:
        named = source.registered_name or type(source).__name__
        raise UserError(f"{path} is of {named}, not of {config.model}. Name another with --init-from.")
    pyro.set_rng_seed(config.seed)
    try:
        model = cls(cls.padded(data.shape), data.classes, **config.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot build {config.model}: {str(error).splitlines()[0]}") from None
    old, new = source.state_dict(), model.state_dict()
    for name in [*new, *(name for name in old if name not in new)]:
        shapes = [f"{tuple(state[name].shape)}" if name in state else "missing" for state in (old, new)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{name} is {shapes[0]} in {path} and {shapes[1]} in this run. Give the options and data of "
                "that model."
            )
    model.load_state_dict(old)
    return model
