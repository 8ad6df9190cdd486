"""What a checkpoint holds, and how a run takes it up again."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from inference.backend import distributed
from inference.errors import UserError
from inference.rundir.files import unpack
from inference.rundir.schema import LIST, NOT_NEGATIVE, OBJECT, TEXT, WHOLE, check, format_of, other_version

# What it must hold.
STATE = {
    **{"model": TEXT, "decisive": TEXT, "step": WHOLE, "seconds": NOT_NEGATIVE, "skipped": WHOLE},
    **{"in_a_row": WHOLE, "parameters": OBJECT, "optimizer": OBJECT, "generators": LIST},
}
# What may be otherwise when a run goes on.
MAY_DIFFER = {
    *("data", "data_dir", "steps", "eval_every", "device", "from"),
    *("command", "versions", "gpu", "platform", "threads", "processes", "commit", "format"),
}


def load(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The state in a file, read as data, not as code.

    Raises UserError if it is damaged, another model's, or of a run of another configuration.
    """
    state, model = unpack(path), config["model"]
    if not isinstance(state, dict) or "parameters" not in state:
        raise UserError(f"{path} is no checkpoint of a run. Restore it from a copy.")
    for key, kind in STATE.items():
        if key not in state:
            raise other_version(f"{path} has no {key!r}", config)
        check(state, key, kind, path, key)
    if state["model"] != model:
        raise UserError(
            f"{path} is a checkpoint of {state['model']}, not of {model}: resume the run it came from"
        )
    if state["decisive"] != config_digest(config):
        if not format_of(config):
            raise other_version(f"{path} cannot be checked against config.json", config)
        raise UserError(f"{path.parent}: config.json and checkpoint.pt do not belong together")
    return state


def generators(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators that a run on that device draws from."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {})


def restore_state(
    state: dict[str, Any],
    optimizer: torch.optim.Adam,
    averaged: AveragedModel | None,
    device: torch.device,
    seed: int,
) -> None:
    """Be where a run was: optimiser, moving average and generators.

    A process that the run did not have before draws from a seed of its own. Raises UserError where what is
    kept does not fit the model.
    """
    try:
        optimizer.load_state_dict(state["optimizer"])
        for p, kept in optimizer.state.items():
            if any(kept[name].shape != p.shape for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError("averages of another shape")
        if distributed.rank() < len(state["generators"]):
            kept = state["generators"][distributed.rank()]
            torch.set_rng_state(kept["cpu"])
            if device.type == "cuda" and "cuda" in kept:  # a run begun on the CPU has none
                torch.cuda.set_rng_state(kept["cuda"])
        else:
            torch.manual_seed(distributed.process_seed(seed, state["step"]))
        if averaged:
            averaged.load_state_dict(state["averaged"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint.pt does not fit this version of the project ({reason}). Use the commit that "
            "config.json names: that version can go on with the run."
        ) from None


def config_digest(config: dict[str, Any]) -> str:
    """A digest of all in a configuration that decides how its run goes."""
    kept = {key: value for key, value in config.items() if key not in MAY_DIFFER}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def judged(state: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a checkpoint that the run is judged by: their moving average where it has one."""
    averaged = state.get("averaged")
    if averaged is None:
        return state["parameters"]
    return {name.removeprefix("module."): value for name, value in averaged.items() if name != "n_averaged"}
