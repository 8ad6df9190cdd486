"""The whole training step as one compiled program, and blocks of many steps."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from inference.backend.device import product_library
from inference.backend.snapshots import Snapshot
from inference.compiled.capture import named_tensors, record, value_and_gradients
from inference.compiled.checks import description
from inference.compiled.compiler import Compiled, cache_path, cached_program, compiled
from inference.compiled.cuda_graph import as_cuda_graph
from inference.data.batches import Batches
from inference.elbo.estimators import Loss
from inference.rundir.config import TrainConfig
from inference.training.schedules import KLWeight, ema_decay, learning_rate

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


class Program:
    """Runs training steps, each of which is one compiled program.

    A step indexes its batch, samples the noise of the observations, computes the objective and its gradients,
    clips them, and updates the parameters by Adam or AdamW and their moving average. It changes the tensors
    of the model, of the optimiser and of the average in place. Images on disk are read before the step.

    Args:
        loss: the loss.
        batches: the batches.
        optimizer: Adam or AdamW with betas 0.9 and 0.999; its state is created where it is missing.
        average: the moving average, or None.
        config: the settings.
        kl_weight: the KL weight.
        precision: returns the context in which the loss is computed.
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
        self.run: Compiled | None = None
        self.seconds_per_step = math.inf  # of the last block

    def prepare(self, reached: list[nn.Parameter], step: int) -> None:
        """Collects the inputs of the step.

        Args:
            reached: the parameters that have a gradient.
            step: the number of a step with a full batch.
        """
        self.index, *self.data = self.batches.tensors(step)
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

    def given(self, step: int, index: Tensor) -> list[Tensor]:
        """The inputs of a step."""
        return [*self.state, *self.data, self.scalars(step, 1)[0], index]

    def scalars(self, step: int, count: int, lr_factor: float = 1.0) -> Tensor:
        """The numbers that change from step to step, (count, 3 + 2 * ages).

        They are the KL weight; the weight of the new value in the moving average; the fraction of each
        parameter that AdamW's weight decay removes; and, for each number of updates that a parameter has had
        (the same for all, unless one had no gradient at first), Adam's step size and the factor of the root
        of its second moment.
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
            rows.append(row)
        return torch.tensor(rows, dtype=torch.get_default_dtype(), device=self.index.device)

    def step(self, *given: Tensor) -> list[Tensor]:
        """One step, as a function of tensors that `record` can record. Returns the objective."""
        state, scalars, index = list(given[: len(self.state)]), given[-2], given[-1]
        parts, held = self.parts(state), dict(zip([*self.parameters, *self.buffers], state, strict=False))
        beta, weight, decay, *adam = scalars.unbind()
        if self.config.kl_warmup:
            self.loss.model.kl_weight = beta
        batch = self.batches.select(index, *given[len(self.state) : -2])
        with self.precision():
            objective, gradients = value_and_gradients(self.loss, held, batch)
        with torch.no_grad():
            scale = self._clipping(list(gradients.values()))
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
        return [objective]

    def _clipping(self, gradients: list[Tensor]) -> Tensor | None:
        """The factor that clips the gradients, as `torch.nn.utils.clip_grad_norm_` computes it."""
        if not self.config.clip:
            return None
        norm = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).norm()
        return (self.config.clip / (norm + 1e-6)).clamp(max=1.0)

    def compile(self, step: int, cached: bool) -> bool:
        """Compiles the step, or loads it from the cache.

        Args:
            step: the number of the step.
            cached: whether to load it. If False it is compiled, and written into the cache.

        Returns:
            Whether there is a program now.

        Raises:
            Exception: the step cannot be captured or compiled.
        """
        given = self.given(step, self.index)
        path = cache_path(self._key(given))
        if cached:
            return self._use(cached_program(path), given)
        weight = self.loss.model.kl_weight
        try:
            graph = record(self.step, given, split_addmm=not self.total.is_cuda)
        finally:
            if self.config.kl_warmup:
                self.loss.model.kl_weight = weight
        return self._use(compiled(graph, given, path), given)

    def _use(self, run: Compiled | None, given: list[Tensor]) -> bool:
        """Makes steps by a program from now on, on a GPU as a CUDA graph. Returns whether there is one.

        The scalars and the indices, which each step copies into the graph, get memory of their own: here they
        are parts of larger tensors.
        """
        if run and self.total.is_cuda:
            run = as_cuda_graph(run, [*given[:-2], *(value.clone() for value in given[-2:])])
        self.run = run
        return run is not None

    def _key(self, given: list[Tensor]) -> str:
        """What the program depends on: shapes, settings and constants of the model."""
        config = self.config
        settings = (config.elbo, config.particles, config.clip, config.ema > 0, config.kl_warmup > 0)
        precision = (config.precision, str(self.index.device), self.batches.observation.__name__)
        inputs = [(value.shape, value.dtype, value.stride()) for value in given]
        model = description(self.loss.model)
        return repr((model, settings, config.optimizer, precision, inputs, self.names, self.ages))

    def block(self, step: int, count: int, lr_factor: float = 1.0) -> bool:
        """Makes some steps, all of full batches.

        Args:
            step: the number of the first one.
            count: how many.
            lr_factor: factor of the learning rate.

        Returns:
            Whether all objectives and gradients are finite. If not, nothing has changed except the RNG state.
        """
        assert self.run is not None
        began, before, run = time.perf_counter(), Snapshot(self.state), self.run
        self.total.zero_()
        rows = self.scalars(step, count, lr_factor).unbind()
        with torch.no_grad(), product_library(self.largest_product):
            for i, row in enumerate(rows):
                index, *data = self.batches.tensors(step + i)
                run([*self.state, *data, row, index])
        # A gradient that is not finite stays in the mean of the gradients.
        sums = torch.stack([self.total, *(mean.sum() for mean in self.exp_avgs)])
        if not sums.isfinite().all():
            before.restore()
            return False
        for counter in self.counters():
            counter += count
        self.seconds_per_step = (time.perf_counter() - began) / count
        return True
