"""States of the RNGs, and copies of tensors, to which they can be restored."""

from collections.abc import Sequence

import torch
from torch import Tensor


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's RNGs that a training on a device uses."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {})


class RandomState:
    """The state of torch's RNGs that a training on a device uses, to which they can be restored."""

    def __init__(self, device: torch.device):
        self.device, self.states = device, generator_states(device)

    def restore(self) -> None:
        """Restores the state."""
        torch.set_rng_state(self.states["cpu"])
        if "cuda" in self.states:
            torch.cuda.set_rng_state(self.states["cuda"], self.device)


class Snapshot:
    """Copies of tensors, to which they can be restored."""

    def __init__(self, tensors: Sequence[Tensor]):
        self.tensors, self.copies = tensors, [value.clone() for value in tensors]

    def restore(self) -> None:
        """Restores the tensors in place."""
        for value, copy in zip(self.tensors, self.copies, strict=True):
            value.copy_(copy)
