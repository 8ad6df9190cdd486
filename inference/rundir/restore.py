"""A run's model and data, restored from its folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from inference.data import tables, text
from inference.data.dataset import Dataset
from inference.data.load import find_dataset
from inference.errors import UserError
from inference.rundir import checkpoint
from inference.rundir.run import Run
from inference.rundir.run_config import IN_MEMORY, RunConfig
from inference.rundir.schema import other_version
from ppl_models.base import LatentVariableModel


class Restored(NamedTuple):
    """A run, its configuration, its data as the model observes them, and its model in evaluation mode."""

    run: Run
    config: RunConfig
    data: Dataset
    model: LatentVariableModel


def restore(folder: Path, data_dir: Path | None = None) -> Restored:
    """Restores a run with its data and the model that evaluation uses.

    Args:
        folder: of the run.
        data_dir: of the named data sets; by default the folder that the run used.

    Raises:
        UserError: the folder is not a run, or its parts do not belong together.
    """
    run = Run.open(folder)
    model = restore_model(run)
    data = load_data(run, data_dir).padded(run.config.model_class)
    return Restored(run, run.config, data, model)


def restore_model(run: Run) -> LatentVariableModel:
    """Returns the model of a run in evaluation mode: the moving average of its parameters if it has one.

    Raises:
        UserError: the run has no checkpoint, or it does not fit the model.
    """
    config, state = run.config, run.load_checkpoint()
    if state is None:
        raise UserError(f"{run.folder} has no checkpoint.pt yet. --resume it first.")
    parameters = checkpoint.evaluation_state(state)
    try:
        shape = config.model_class.padded(tuple(config.shape))
        with no_larger_than(parameters):
            model = config.model_class(shape, config.classes, **config.options)
        model.load_state_dict(parameters)
    except (TypeError, ValueError, RuntimeError):
        raise other_version(f"{run.folder}: checkpoint.pt does not fit {config.model}", config) from None
    return model.eval()


@contextmanager
def no_larger_than(saved: Mapping[str, Any]) -> Iterator[None]:
    """Stops the construction of a model with many more parameters than a file holds.

    A file from a stranger can name options of a model that is far too large for the memory. A module may
    register parameters that it then replaces, as Pyro's coupling transforms do.

    Args:
        saved: the parameters and buffers in the file.

    Raises:
        UserError: modules register more than twice as many parameters as there are saved.
    """
    room = 2 * sum(value.numel() for value in saved.values() if isinstance(value, Tensor))

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal room
        room -= parameter.numel()
        if room < 0:
            raise UserError(
                "the options name a larger model than the file holds. Restore the file from a copy."
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def load_data(run: Run, data_dir: Path | None = None) -> Dataset:
    """Loads the data set of a run, split as it was.

    Raises:
        UserError: the data are unavailable or have changed.
    """
    config = run.config
    if config.data == IN_MEMORY:
        raise UserError(
            f"{run.folder} was trained on data in memory. In Python, call inference.load and evaluate."
        )
    file = Path(config.data)
    if (
        file.suffix.lower() in (".npz", text.SUFFIX, *tables.SUFFIXES)
        and file.exists()
        and not file.is_file()
    ):  # a FIFO would block
        raise UserError(f"{file} is not a regular file. Name the data set that the run used.")
    data, _ = find_dataset(
        config.data,
        data_dir or Path(config.data_dir),
        config.model_class,
        label_column=config.label_column,
        image_size=config.image_size,
        vocabulary=config.tokens,
    )
    if not config.classes:  # an older version did not use labels that this one reads
        data = replace(data, y_train=None, y_test=None, class_names=None)
    if data.checksum() != config.checksum:
        raise UserError(
            f"{config.data} is not the data that the run used. Restore the data, or name the folder that "
            "holds them with --data-dir."
        )
    return data.with_validation(config.validation, config.seed)
