"""checkpoint.pt: what it must hold, and the digest that ties it to its configuration."""

import hashlib
import json
from pathlib import Path
from typing import Any

from inference.backend.files import unpack
from inference.errors import UserError
from inference.rundir.kinds import LIST, METRIC, NOT_NEGATIVE, NUMBER, OBJECT, TEXT, WHOLE
from inference.rundir.run_config import RunConfig
from inference.rundir.schema import check, other_version

STATE = {  # of checkpoint.pt
    **{"model": TEXT, "config_digest": TEXT, "step": WHOLE, "seconds": NOT_NEGATIVE, "skipped": WHOLE},
    **{"consecutive_skips": WHOLE, "parameters": OBJECT, "optimizer": OBJECT, "generators": LIST},
}
SELECTION = {  # of `selection` in a run that follows a metric
    **{"metric": METRIC, "step": WHOLE, "value": NUMBER, "waited": WHOLE},
    **{"since_halving": WHOLE, "halvings": WHOLE},
}
STATE_BEFORE = {"decisive": "config_digest", "in_a_row": "consecutive_skips"}  # renamed by format 3


def load(path: Path, config: RunConfig) -> dict[str, Any]:
    """Reads checkpoint.pt as data, not as code.

    Args:
        path: of the file.
        config: of the run.

    Returns:
        The state, with the names of this version.

    Raises:
        UserError: the file is damaged, or belongs to another model or configuration.
    """
    state = unpack(path)
    if not isinstance(state, dict) or "parameters" not in state:
        raise UserError(f"{path} is not a checkpoint of a run. Restore it from a copy.")
    state = {STATE_BEFORE.get(key, key): value for key, value in state.items()}
    for key, kind in STATE.items():
        if key not in state:
            raise other_version(f"{path} has no {key!r}", config)
        check(state, key, kind, path, key)
    if config.metric or "selection" in state:
        _check_selection(state, path, config)
    if state["model"] != config.model:
        raise UserError(
            f"{path} is a checkpoint of {state['model']}, not of {config.model}. Restore the run's own "
            "checkpoint."
        )
    if state["config_digest"] != config_digest(config):
        if not config.format:
            raise other_version(f"{path} cannot be checked against config.json", config)
        raise UserError(
            f"{path.parent}: config.json and checkpoint.pt do not belong together. Restore both from a copy, "
            "or train the run again in another folder."
        )
    for part in ("parameters", "averaged"):  # format 3 renamed a buffer of the codebook
        if part in state:
            state[part] = {
                name.replace("book.begun", "book.initialized"): v for name, v in state[part].items()
            }
    return state


def _check_selection(state: dict[str, Any], path: Path, config: RunConfig) -> None:
    """Raises UserError if the state has no valid `selection`."""
    found = state.get("selection")
    if not isinstance(found, dict):
        raise other_version(f"{path} has no 'selection'", config)
    kinds = SELECTION | ({"parameters": OBJECT} if config.select or "parameters" in found else {})
    for key, kind in kinds.items():
        if key not in found:
            raise other_version(f"{path}: selection has no {key!r}", config)
        check(found, key, kind, path, f"selection.{key}")


# What may differ when a run is resumed, by the names of every format.
NOT_IN_DIGEST = {
    *("data", "data_dir", "steps", "eval_every", "device", "from", "stage1_run", "init_from", "log"),
    *("command", "versions", "gpu", "platform", "threads", "processes", "commit", "format"),
}


def config_digest(config: RunConfig) -> str:
    """A digest of the part of a configuration that determines the run."""
    kept = {key: value for key, value in config.to_json().items() if key not in NOT_IN_DIGEST}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def evaluation_state(state: dict[str, Any]) -> dict[str, Any]:
    """The parameters that evaluation uses.

    They are the best ones by the metric that the run selects by, if there is one; else the moving average if
    there is one; else the last ones.
    """
    best = state.get("selection", {}).get("parameters")
    if best is not None:
        return best
    averaged = state.get("averaged")
    if averaged is None:
        return state["parameters"]
    return {name.removeprefix("module."): value for name, value in averaged.items() if name != "n_averaged"}
