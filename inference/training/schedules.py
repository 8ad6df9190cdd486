"""Schedules: the learning rate, the KL weight, and the moving average of the parameters."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference.rundir.config import TrainConfig
from ppl_models.base import LatentVariableModel


def learning_rate(step: int, config: TrainConfig) -> float:
    """Returns the learning rate of a step: a rise over the first `lr_warmup` steps, then the schedule."""
    fraction = min((step + 1) / max(config.lr_warmup, 1), 1.0)
    if config.schedule == "cosine":
        fraction *= (1 + math.cos(math.pi * step / config.steps)) / 2
    if config.schedule == "step":
        fraction *= 10 ** (-stage(step, config.steps) / 7)
    return config.lr * fraction


def stage(step: int, steps: int) -> int:
    """Returns the stage of the "step" schedule, 0 to 7: stage i has 3^i of 3280 equal parts of the steps.

    Burda, Grosse and Salakhutdinov 2016, Importance Weighted Autoencoders (arXiv 1509.00519), train 3^i
    epochs with the rate 0.001 * 10^(-i / 7).
    """
    return sum(step * 3280 >= steps * (3**i // 2) for i in range(1, 8))


class KLWeight:
    """KL warm-up: the model's `beta` rises linearly from zero to its value over the first `warmup` steps.

    Within a `with` statement `set` puts the weight of a step into the model. On exit the model has its own
    `beta` again.
    """

    def __init__(self, model: LatentVariableModel, warmup: int, device: torch.device):
        self.model, self.warmup = model, warmup
        self.beta = model.kl_weight
        self.tensor = torch.zeros((), device=device)  # an input of captured steps, whose value may change

    def __enter__(self) -> "KLWeight":
        return self

    def __exit__(self, *_: object) -> None:
        if self.warmup:
            self.model.kl_weight = self.beta

    def at(self, step: int) -> float:
        """Returns the KL weight of a step."""
        return float(self.beta) * (min(step / self.warmup, 1.0) if self.warmup else 1.0)

    def set(self, step: int) -> None:
        """Sets the KL weight of a step, as a float at step 0: Pyro refuses a tensor of zero as a scale."""
        if self.warmup:
            weight = self.at(step)
            self.model.kl_weight = weight if step == 0 else self.tensor.fill_(weight)


def ema_decay(updates: int, decay: float) -> float:
    """Returns the decay of the moving average after some updates: less at first, to forget the start."""
    return min(decay, (1 + updates) / (10 + updates))


def make_ema(model: LatentVariableModel, decay: float) -> AveragedModel | None:
    """Returns an exponential moving average of all parameters and buffers, or None if the decay is 0.

    After n steps the decay is at most (1 + n) / (10 + n), so that the initial values are soon forgotten.
    Integer and boolean buffers are copied.
    """
    if not decay:
        return None

    def average(averages: Any, current: Any, _: Tensor | int) -> None:
        if averages[0].is_floating_point():
            n = int(averaged.n_averaged)  # on the CPU: this does not wait for a GPU
            get_ema_multi_avg_fn(ema_decay(n, decay))(averages, current, n)
        else:
            for kept, value in zip(averages, current, strict=True):
                kept.copy_(value)

    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    return averaged
