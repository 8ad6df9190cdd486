"""Train a model by stochastic variational inference.

python -m inference.svi --model ssvae                 the main job, on MNIST if it is available
python -m inference.svi --model ssvae --help          that model's options
python -m inference.svi --resume runs/ssvae/...       continue a run that was stopped
python -m inference.svi --model vqvae --code-prior transformer     both stages of a VQ-VAE
torchrun --nproc-per-node 2 -m inference.svi --model ssvae         on several processes or machines
torchrun --max-restarts 3 -m inference.svi --model ssvae --run-dir DIR     which torchrun may restart
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
import json
import shlex
import sys
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path

from inference.backend import distributed
from inference.cli.entry import run_command
from inference.cli.initial import initial_model
from inference.cli.models import as_typed
from inference.cli.train import configuration, parse, read_data
from inference.data.dataset import Dataset
from inference.errors import UserError
from inference.fitting import train_session
from inference.rundir.run import Run
from inference.rundir.run_config import RunConfig
from inference.training import session
from inference.training.code_prior import write_codes


def main(arguments: list[str]) -> int:
    """Trains as the arguments say. Returns the exit status: 0, 1 if writing failed, 130 if stopped."""
    given = parse(arguments)
    with distributed.process_group(device_of(given)):
        as_json = "json" in given
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            status, run = train_stages(given, arguments)
        if as_json and not status and not distributed.rank():
            print(json.dumps({"run": str(run.folder), "test": run.results()["test"]}, indent=2))
        return status


def train_stages(given: argparse.Namespace, arguments: list[str]) -> tuple[int, Run]:
    """Trains one run, or both stages of a model with a code prior. Returns the last status and run."""
    if hasattr(given, "stage1_run"):
        return train(second_stage(given, given.stage1_run), arguments)
    status, run = train(given, arguments)
    if not hasattr(given, "code_prior"):
        return status, run
    if status:
        folder = shlex.quote(str(run.folder))
        print(
            f"then train its prior: python -m inference.svi --stage1-run {folder} --code-prior "
            f"{given.code_prior}"
        )
        return status, run
    kept = {key: value for key, value in vars(given).items() if key in ("code_prior", "seed", "resume")}
    prior = argparse.Namespace(**kept, device=run.config.device)
    return train(second_stage(prior, run.folder), arguments)


def device_of(given: argparse.Namespace) -> str:
    """Returns the device that the options name, or else the one of the resumed run."""
    if given.resume and not hasattr(given, "device"):
        return Run.open(given.resume).config.device
    return getattr(given, "device", "auto")


def second_stage(given: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """Returns the options of the prior's own run; its data are the codes of the first run.

    Raises:
        UserError: the folder is not a finished run of a model with a codebook.
    """
    data_dir, device = getattr(given, "data_dir", None), getattr(given, "device", "auto")
    file, codes = distributed.broadcast_from_main(lambda: write_codes(folder, data_dir, device))
    options = {"run_dir": folder / f"prior-{given.code_prior}"} | vars(given)
    options |= {"model": f"code_{given.code_prior}", "data": str(file), "codes": codes, "stage1_run": folder}
    return argparse.Namespace(**options)


def train(given: argparse.Namespace, arguments: list[str]) -> tuple[int, Run]:
    """Trains one run, new or resumed. Returns the exit status, and the run."""
    data_dir = getattr(given, "data_dir", None)
    with ExitStack() as on_exit:
        if given.resume:
            named = Run.open(given.resume).config.model
            if given.model not in (None, named):
                raise UserError(f"{given.resume} is a run of {named}, not of {given.model}: drop --model")
            steps, device = getattr(given, "steps", None), getattr(given, "device", None)
            found = session.resume(on_exit, given.resume, steps=steps, device=device, data_dir=data_dir)
        else:
            folder = folder_of(given)
            config, data = new_run(given, arguments)
            if folder and session.was_started(folder, config):
                found = session.resume(on_exit, folder, data=data)
            else:
                model = initial_model(config, data) if config.init_from else None
                found = session.start(on_exit, config, data, folder, model)
        return train_session(found, data_dir=data_dir).status, found.run


def folder_of(given: argparse.Namespace) -> Path | None:
    """Returns the folder that the options name for a new run, if any.

    Raises:
        UserError: torchrun may restart the run, and it has no folder in which it could continue.
    """
    folder: Path | None = getattr(given, "run_dir", None)
    if folder is None and distributed.may_restart():
        raise UserError(
            "torchrun --max-restarts continues a run in a folder with a name. Give --run-dir DIR."
        )
    return folder


def new_run(given: argparse.Namespace, arguments: list[str]) -> tuple[RunConfig, Dataset]:
    """Returns the configuration and the data of a new run."""
    with distributed.local_main_first():
        data, line = read_data(given)
    if line:
        print(line)
    config = configuration(given, data)
    command = shlex.join(["python", "-m", "inference.svi", *as_typed(arguments)])
    stage1_run = str(given.stage1_run.resolve()) if hasattr(given, "stage1_run") else None
    config = replace(config, command=command, stage1_run=stage1_run)
    return config, data.with_validation(config.validation, config.seed)


if __name__ == "__main__":
    run_command(main)
