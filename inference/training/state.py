"""The state of the RNGs and of the optimiser, which a resumed training restores."""

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from inference.backend import distributed
from inference.errors import UserError


def restore_state(
    state: dict[str, Any],
    optimizer: torch.optim.Adam,
    average: AveragedModel | None,
    device: torch.device,
    seed: int,
) -> None:
    """Restores optimiser, moving average and RNG state from a checkpoint.

    A process that the run did not have before uses a seed of its own.

    Raises:
        UserError: the checkpoint does not fit the model.
    """
    try:
        optimizer.load_state_dict(state["optimizer"])
        for p, kept in optimizer.state.items():
            if any(kept[name].shape != p.shape for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError("averages of another shape")
        if distributed.rank() < len(state["generators"]):
            kept = state["generators"][distributed.rank()]
            torch.set_rng_state(kept["cpu"])
            if device.type == "cuda" and "cuda" in kept:  # a run that started on the CPU has none
                torch.cuda.set_rng_state(kept["cuda"])
        else:
            torch.manual_seed(distributed.process_seed(seed, state["step"]))
        if average:
            average.load_state_dict(state["averaged"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint.pt does not fit this version of the project ({reason}). Use the commit that "
            "config.json names: that version can resume the run."
        ) from None
