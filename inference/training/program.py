"""Blocks of training steps, which are compiled programs."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.backend import distributed
from inference.backend.device import product_library
from inference.backend.snapshots import Snapshot
from inference.compiled.capture import record
from inference.compiled.checks import description
from inference.compiled.compiler import Compiled, cache_path, cached_program, compiled
from inference.compiled.cuda_graph import as_cuda_graph
from inference.training.functional import FunctionalStep


class Part(NamedTuple):
    """A part of a step that is compiled by itself.

    Attributes:
        function: a function of tensors, which it may change in place.
        given: its inputs.
        changing: how many of the last inputs are other tensors in each step.
    """

    function: Callable[..., list[Tensor]]
    given: list[Tensor]
    changing: int


class Program(FunctionalStep):
    """Runs training steps, which are compiled: one program per step, or two if a step is split.

    Images on disk are read before the step.

    Args:
        settings: those of `FunctionalStep`.

    Attributes:
        runs: the compiled parts; none before `compile`.
        seconds_per_step: of the last block, the mean over the processes.
        stopped: whether any process wanted to stop at the start of the last block.
    """

    def __init__(self, *settings: Any):
        super().__init__(*settings)
        self.runs: list[Compiled] = []
        self.seconds_per_step = math.inf
        self.stopped = False

    def compiled_parts(self, step: int) -> list[Part]:
        """The parts of a step that are compiled."""
        row = self.scalars(step, 1)[0]
        if not self.split:
            return [Part(self.step, [*self.state, *self.data, row, self.index], 2)]
        held = [*self.parameters.values(), *self.buffers.values()]
        before = [self.zeros] if self.config.accumulate > 1 else []
        last = [*before, row, self.index]
        return [
            Part(self.gradients, [*held, *self.data, *last], len(last)),
            Part(self.update, [*self.state, self.zeros, row], 2),
        ]

    def compile(self, step: int, cached: bool) -> str:
        """Compiles the step, or loads it from the cache.

        Args:
            step: the number of the step.
            cached: whether to load it. If False it is compiled, and written into the cache.

        Returns:
            "", or why there is no program.

        Raises:
            Exception: the step cannot be captured or compiled.
        """
        runs = []
        for part in self.compiled_parts(step):
            path = cache_path(self._key(part))
            run = cached_program(path) if cached else self._compiled(part, path)
            if run is None:
                return "there is no program in the cache"
            if self.total.is_cuda:  # inputs that change are parts of larger tensors: the graph gets copies
                fixed, changing = part.given[: -part.changing], part.given[-part.changing :]
                run = as_cuda_graph(run, [*fixed, *(value.clone() for value in changing)])
            runs.append(run)
        self.runs = runs
        return ""

    def _compiled(self, part: Part, path: Path) -> Compiled:
        """Compiles a part, and keeps it in a file."""
        weight = self.loss.model.kl_weight
        try:
            graph = record(part.function, part.given, split_addmm=not self.total.is_cuda)
        finally:
            if self.config.kl_warmup:
                self.loss.model.kl_weight = weight
        return compiled(graph, part.given, path)

    def _key(self, part: Part) -> str:
        """What a part depends on: shapes, settings and constants of the model."""
        config = self.config
        settings = (config.elbo, config.particles, config.clip, config.ema > 0, config.kl_warmup > 0)
        main = distributed.rank() == 0 and self.loss.model.has_codebook  # it sends the entries to the others
        processes = (distributed.world_size(), main)
        joint = (part.function.__name__, config.accumulate, self.batches.full_size, processes)
        precision = (config.precision, str(self.index.device), self.batches.observation.__name__)
        inputs = [(value.shape, value.dtype, value.stride()) for value in part.given]
        model = description(self.loss.model)
        return repr((model, settings, joint, config.optimizer, precision, inputs, self.names, self.ages))

    def block(self, step: int, count: int, lr_factor: float = 1.0, stop: bool = False) -> bool:
        """Makes some steps, all of full batches.

        Args:
            step: the number of the first one.
            count: how many.
            lr_factor: factor of the learning rate.
            stop: whether this process wants to stop.

        Returns:
            Whether all objectives and gradients are finite. If not, nothing has changed except the RNG state.
        """
        began, before = time.perf_counter(), Snapshot(self.state)
        self.total.zero_()
        rows = self.scalars(step, count, lr_factor, stop).unbind()
        with torch.no_grad(), product_library(self.largest_product):
            sums = [self._make(step + i, row) for i, row in enumerate(rows)][-1]
        self.stopped = stop if sums is None else bool(sums[0])
        # A gradient that is not finite stays in the mean of the gradients.
        means = torch.stack([self.total, *(mean.sum() for mean in self.exp_avgs)])
        if not means.isfinite().all():
            before.restore()
            return False
        for counter in self.counters():
            counter += count
        self.measured = (time.perf_counter() - began) / count
        of_all = None if sums is None else sums[1].item()
        self.seconds_per_step = self.measured if of_all is None else of_all / distributed.world_size()
        return True

    def _make(self, step: int, row: Tensor) -> Tensor | None:
        """Makes a step. In several processes, returns the first two numbers of the sum of their vectors."""
        if not self.split:
            index, *data = self.batches.tensors(step)
            self.runs[0]([*self.state, *data, row, index])
            return None
        held, flat = [*self.parameters.values(), *self.buffers.values()], self.zeros
        count = self.config.accumulate
        for number in range(step * count, (step + 1) * count):
            index, *data = self.batches.tensors(number)
            before = [flat] if count > 1 else []
            (flat,) = self.runs[0]([*held, *data, *before, row, index])
        distributed.sum_in_place(flat)
        self.runs[1]([*self.state, flat, row])
        return flat[:2] if distributed.world_size() > 1 else None
