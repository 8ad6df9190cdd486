"""The training step as functions of tensors, which can be recorded and compiled."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from inference.backend import distributed
from inference.compiled.capture import named_tensors, value_and_gradients
from inference.data.batches import Batches
from inference.elbo.estimators import Loss
from inference.rundir.config import TrainConfig
from inference.training.gradients import batch_norm_statistics
from inference.training.schedules import KLWeight, ema_decay, learning_rate

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


class FunctionalStep:
    """A training step as functions of tensors: `step`, or `gradients` and `update`.

    A step indexes its batch, samples the noise of the observations, computes the objective and its gradients,
    clips them, and updates the parameters by Adam or AdamW and their moving average. It changes the tensors
    of the model, of the optimiser and of the average in place.

    In one process, with one batch per step, it is `step`. In several processes, or with several batches, it
    is split. `gradients` writes the objective and the gradients of a batch into one flat vector, weighted by
    the share of its images, and adds those of the batches before. The vector is summed over the processes.
    `update` makes the step from the sum. The vector also holds what the processes have to agree on: requests
    to stop, seconds per step, and the running averages of batch norm.

    Args:
        loss: the loss.
        batches: the batches.
        optimizer: Adam or AdamW with betas 0.9 and 0.999; its state is created where it is missing.
        average: the moving average, or None.
        config: the settings.
        kl_weight: the KL weight.
        precision: returns the context in which the loss is computed.

    Attributes:
        split: whether a step is `gradients` and `update`.
        measured: seconds per step of this process, in the last block.
        state: the tensors that a step changes.
    """

    def __init__(
        self,
        loss: Loss,
        batches: Batches,
        optimizer: torch.optim.Adam,
        average: AveragedModel | None,
        config: TrainConfig,
        kl_weight: KLWeight,
        precision: Callable[[], AbstractContextManager],
    ):
        self.loss, self.batches, self.config, self.kl_weight = loss, batches, config, kl_weight
        self.optimizer, self.average, self.precision = optimizer, average, precision
        self.split = distributed.world_size() > 1 or config.accumulate > 1
        self.measured = math.inf

    def prepare(self, reached: list[nn.Parameter], step: int) -> None:
        """Collects the inputs of the step.

        Args:
            reached: the parameters that have a gradient.
            step: the number of a step with full batches.
        """
        self.index, *self.data = self.batches.tensors(step * self.config.accumulate)
        for p in reached:
            if not self.optimizer.state[p]:
                zeros = [torch.zeros_like(p, memory_format=torch.preserve_format) for _ in range(2)]
                count = torch.zeros((), dtype=torch.float32, device=p.device)
                self.optimizer.state[p] = {"step": count, "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
        self.reached = reached
        self.parameters, self.buffers = named_tensors(self.loss)
        places = {p.data_ptr(): name for name, p in self.parameters.items()}
        self.names = [places[p.data_ptr()] for p in reached]
        self.exp_avgs = [self.optimizer.state[p]["exp_avg"] for p in reached]
        self.exp_avg_sqs = [self.optimizer.state[p]["exp_avg_sq"] for p in reached]
        ages = [int(self.optimizer.state[p]["step"]) for p in reached]
        self.ages = [sorted(set(ages)).index(age) for age in ages]
        self.averages: list[Tensor] = []
        if self.average:
            module = self.average.module
            self.averages = [value.detach() for value in chain(module.parameters(), module.buffers())]
        self.total = torch.zeros((), device=self.index.device)  # of the objectives of a block
        self.state = [*self.parameters.values(), *self.buffers.values()]
        self.state += [*self.exp_avgs, *self.exp_avg_sqs, *self.averages, self.total]
        weights = [p.numel() for p in reached if p.dim() > 1]
        self.largest_product = max(weights, default=0) * len(self.index) * self.config.particles
        if self.split:
            self._prepare_exchange()

    def _prepare_exchange(self) -> None:
        """Lays out the flat vector of `gradients`."""
        differ = batch_norm_statistics(self.loss) if distributed.world_size() > 1 else []
        places = {id(value) for value in differ}
        self.statistics = [name for name, value in self.buffers.items() if id(value) in places]
        parts = [*self.reached, *(self.buffers[name] for name in self.statistics)]
        self.sizes = [1, 1, 1, *(value.numel() for value in parts)]
        self.zeros = torch.zeros(sum(self.sizes), device=self.index.device)

    def counters(self) -> list[Tensor]:
        """How many steps the optimiser and the average have made. The program does not change these."""
        steps = [self.optimizer.state[p]["step"] for p in self.reached]
        return [*steps, *([self.average.n_averaged] if self.average else [])]

    def parts(self, state: list[Tensor]) -> dict[str, list[Tensor]]:
        """Splits the values of `state` by kind: parameters, buffers, moments, averages, sum of objectives."""
        values = iter(state)
        sizes = {"parameters": self.parameters, "buffers": self.buffers, "exp_avgs": self.exp_avgs}
        sizes |= {"exp_avg_sqs": self.exp_avg_sqs, "averages": self.averages, "total": [self.total]}
        return {kind: [next(values) for _ in tensors] for kind, tensors in sizes.items()}

    def scalars(self, step: int, count: int, lr_factor: float = 1.0, stop: bool = False) -> Tensor:
        """The numbers that change from step to step, (count, 3 + 2 * ages), or 2 more if a step is split.

        They are the KL weight; the weight of the new value in the moving average; the fraction of each
        parameter that AdamW's weight decay removes; and, for each number of updates that a parameter has had
        (the same for all, unless one had no gradient at first), Adam's step size and the factor of the root
        of its second moment. In a split step, the last two are whether this process requests a stop, and its
        seconds per step.
        """
        ages = sorted({int(self.optimizer.state[p]["step"]) for p in self.reached})
        averaged = int(self.average.n_averaged) if self.average else 0
        rows = []
        for i in range(count):
            n, lr = averaged + i, lr_factor * learning_rate(step + i, self.config)
            row = [self.kl_weight.at(step + i), 1 - (ema_decay(n, self.config.ema) if n else 0.0)]
            row += [lr * (self.config.weight_decay or 0.0)]
            for age in ages:
                t = age + i + 1
                row += [lr / (1 - BETA1**t), 1 / math.sqrt(1 - BETA2**t)]
            rows.append([*row, stop, self.measured] if self.split else row)
        return torch.tensor(rows, dtype=torch.get_default_dtype(), device=self.index.device)

    def step(self, *given: Tensor) -> list[Tensor]:
        """One step, as a function of tensors that `record` can record. Returns the objective."""
        state, data, row = given[: len(self.state)], given[len(self.state) : -2], given[-2]
        held = dict(zip([*self.parameters, *self.buffers], state, strict=False))
        objective, gradients = self._value_and_gradients(held, data, row, given[-1])
        self._apply(list(state), objective, gradients, row)
        return [objective]

    def gradients(self, *given: Tensor) -> list[Tensor]:
        """The gradients of one batch, as a function of tensors that `record` can record.

        Returns:
            One vector (sum(sizes),): requests to stop, seconds per step, the objective, the gradients, and
            the running averages of batch norm. Its sum over the processes has the values of the joint batch.
        """
        names = [*self.parameters, *self.buffers]
        held = dict(zip(names, given, strict=False))
        more = self.config.accumulate > 1
        data, row, index = given[len(names) : -2 - more], given[-2], given[-1]
        objective, gradients = self._value_and_gradients(held, data, row, index)
        share = len(index) / self.batches.full_size
        with torch.no_grad():
            values = [objective, *(gradients[name] for name in self.names)]
            weight = share / self.config.accumulate
            parts = [row[-2:] / self.config.accumulate, *(value.flatten() * weight for value in values)]
            if more:
                sizes = [2, *self.sizes[2:]]
                parts = [a + b for a, b in zip(parts, given[-3].split(sizes), strict=False)]
            return [torch.cat([*parts, *(held[name].flatten() * share for name in self.statistics)])]

    def update(self, *given: Tensor) -> list[Tensor]:
        """The update by the sum of the vectors of `gradients`, as a function that `record` can record."""
        state, flat, row = list(given[:-2]), given[-2], given[-1]
        held = dict(zip([*self.parameters, *self.buffers], state, strict=False))
        _, _, objective, *values = flat.split(self.sizes)
        gradients = {name: g.view_as(held[name]) for name, g in zip(self.names, values, strict=False)}
        with torch.no_grad():
            for name, mean in zip(self.statistics, values[len(self.names) :], strict=True):
                held[name].copy_(mean.view_as(held[name]))
        self._apply(state, objective.reshape(()), gradients, row)
        return [objective.clone()]

    def _value_and_gradients(
        self, held: dict[str, Tensor], data: tuple[Tensor, ...], row: Tensor, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of a batch and its gradients, with the KL weight of the step."""
        if self.config.kl_warmup:
            self.loss.model.kl_weight = row[0]
        batch = self.batches.select(index, *data)
        with self.precision():
            return value_and_gradients(self.loss, held, batch)

    def _apply(
        self, state: list[Tensor], objective: Tensor, gradients: dict[str, Tensor], row: Tensor
    ) -> None:
        """Clips the gradients and changes the state by Adam or AdamW."""
        parts, held = self.parts(state), dict(zip([*self.parameters, *self.buffers], state, strict=False))
        _, weight, decay, *adam = row.unbind()
        with torch.no_grad():
            scale = self._clipping([gradients[name] for name in self.names])
            for name, mean, square, age in zip(
                self.names, parts["exp_avgs"], parts["exp_avg_sqs"], self.ages, strict=True
            ):
                size, factor = adam[2 * age : 2 * age + 2]
                g = gradients[name] if scale is None else gradients[name] * scale
                mean.copy_(torch.lerp(mean, g, 1 - BETA1))
                square.copy_(BETA2 * square + (1 - BETA2) * g * g)
                value = held[name]
                if self.config.optimizer == "adamw":
                    value = value - decay * value
                held[name].copy_(value - size * mean / (square.sqrt() * factor + EPSILON))
            for average, value in zip(parts["averages"], held.values(), strict=bool(self.averages)):
                average.copy_(torch.lerp(average, value, weight) if average.is_floating_point() else value)
            parts["total"][0].add_(objective)

    def _clipping(self, gradients: list[Tensor]) -> Tensor | None:
        """The factor that clips the gradients, as `torch.nn.utils.clip_grad_norm_` computes it."""
        if not self.config.clip:
            return None
        norm = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).norm()
        return (self.config.clip / (norm + 1e-6)).clamp(max=1.0)
