"""What follows a metric of the validation data: the best parameters, early stopping, the plateau schedule."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.errors import UserError
from inference.metrics.bounds import evaluate_bounds
from inference.rundir.config import TrainConfig
from ppl_models.base import LatentVariableModel

HIGHER_IS_BETTER = ("accuracy", "usage", "perplexity")  # of all other metrics smaller values are better
COUNTERS = ("step", "value", "waited", "since_halving", "halvings")  # which a checkpoint holds
PLATEAU = 2  # evaluations without a better value, after which the learning rate is halved


class Selection:
    """Follows a metric of the validation data through training.

    A value is better only if it beats all earlier ones. Evaluations during a warm-up of the learning rate or
    of the KL weight can be the best, but do not count as evaluations without a better value.

    Args:
        config: the settings, all of them given.

    Attributes:
        step: of the best evaluation.
        value: of the metric there.
        parameters: the parameters and buffers that were evaluated there, if the settings select by a metric.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.step, self.value, self.parameters = 0, math.nan, dict[str, Tensor]()
        self.waited = self.since_halving = self.halvings = 0

    @property
    def exhausted(self) -> bool:
        """Whether early stopping ends training."""
        return 0 < self.config.patience <= self.waited

    @property
    def lr_factor(self) -> float:
        """The factor of the learning rate: half for each plateau."""
        return 0.5**self.halvings

    def update(
        self, step: int, metrics: Mapping[str, Mapping[str, float]], model: LatentVariableModel
    ) -> None:
        """Takes an evaluation into account.

        Args:
            step: the number of steps before it.
            metrics: by split and by name.
            model: the model that was evaluated.
        """
        if not self.config.metric:
            return
        value = metrics["validation"][self.config.metric]
        sign = -1 if self.config.metric in HIGHER_IS_BETTER else 1
        if math.isnan(self.value) or sign * value < sign * self.value:
            self.step, self.value, self.waited, self.since_halving = step, value, 0, 0
            if self.config.select:
                self.parameters = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        elif step >= max(self.config.lr_warmup, self.config.kl_warmup):
            self.waited, self.since_halving = self.waited + 1, self.since_halving + 1
            if self.config.schedule == "plateau" and self.since_halving == PLATEAU:
                self.halvings, self.since_halving = self.halvings + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The content of `selection` in checkpoint.pt."""
        state = {"metric": self.config.metric} | {name: getattr(self, name) for name in COUNTERS}
        return state | ({"parameters": self.parameters} if self.config.select else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state of `state_dict`."""
        if self.config.metric:
            for name in (*COUNTERS, *(["parameters"] if self.config.select else [])):
                setattr(self, name, state[name])

    def best(self) -> dict[str, Any]:
        """The content of `best` in results.json."""
        return {"metric": self.config.metric, "step": self.step, "value": self.value}


def check_metric(
    config: TrainConfig, model: LatentVariableModel, data: Dataset, device: torch.device
) -> None:
    """Checks that the metric that training follows exists in the evaluation of the validation data.

    Args:
        config: the settings, all of them given.
        model: the model.
        data: the data set, as the model observes it.
        device: where the model is.

    Raises:
        UserError: there are no validation data, or the model has no such metric on them.
    """
    if not config.metric:
        return
    option = "--early-stopping" if config.early_stopping else "--select" if config.select else ""
    option = option or "--schedule plateau"
    if data.x_valid is None or not len(data.x_valid):
        raise UserError(
            f"{option} follows a metric of validation data, and there are none. Selecting by the test set "
            "would bias its results. Give --validation 0.1."
        )
    y = None if data.y_valid is None else data.y_valid[:2]
    few = HeldOut(replace(data, x_test=data.x_valid[:2], y_test=y, x_valid=None), type(model), device)
    names = list(evaluate_bounds(model, few))
    if config.metric not in names:
        raise UserError(
            f"{option}: {type(model).__name__} has no metric {config.metric!r} on the validation data. "
            f"Choose from {', '.join(names)}."
        )
