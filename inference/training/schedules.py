"""What changes from step to step: learning rate, KL weight and moving average of the parameters."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ppl_models.base import LatentVariableModel


def rate(step: int, config: dict[str, Any]) -> float:
    """The learning rate of a step: it rises over the first `lr_warmup` steps and follows the schedule."""
    share = min((step + 1) / max(config["lr_warmup"], 1), 1.0)
    if config["schedule"] == "cosine":
        share *= (1 + math.cos(math.pi * step / config["steps"])) / 2
    return config["lr"] * share


class KLWeight:
    """The model's KL weight, which rises linearly from zero to `model.beta` over the first `warmup` steps.

    Within a `with` statement `set` puts the weight of a step into the model; afterwards the model has its own
    again.
    """

    def __init__(self, model: LatentVariableModel, warmup: int, device: torch.device):
        self.model, self.warmup = model, warmup
        self.beta: float = getattr(model, "beta", 1.0)
        self.tensor = torch.zeros((), device=device)  # an input of captured steps, whose value may change

    def __enter__(self) -> "KLWeight":
        return self

    def __exit__(self, *_: object) -> None:
        if self.warmup:
            vars(self.model)["beta"] = self.beta

    def set(self, step: int) -> None:
        """Sets the KL weight of a step, as a number at step 0: Pyro refuses a tensor of zero as a scale."""
        if self.warmup:
            weight = self.beta * min(step / self.warmup, 1.0)
            vars(self.model)["beta"] = weight if step == 0 else self.tensor.fill_(weight)


def make_ema(model: LatentVariableModel, decay: float) -> AveragedModel | None:
    """An exponential moving average of all parameters and buffers over the steps; None if the decay is 0.

    After n steps the decay is at most (1 + n) / (10 + n), so that the initial values are soon forgotten.
    Whole numbers and flags are copied.
    """
    if not decay:
        return None

    def average(averages: Any, current: Any, _: Tensor | int) -> None:
        if averages[0].is_floating_point():
            n = int(averaged.n_averaged)  # on the CPU: this does not wait for a GPU
            get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, current, n)
        else:
            for kept, value in zip(averages, current, strict=True):
                kept.copy_(value)

    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    return averaged
