"""Training steps: one at a time, or blocks of many in compiled programs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from inference.backend import distributed
from inference.backend.snapshots import RandomState, Snapshot
from inference.compiled.capture import finite
from inference.compiled.checks import one_line
from inference.data.batches import Batches
from inference.elbo.estimators import Loss
from inference.errors import TrainingAborted
from inference.rundir.config import TrainConfig
from inference.training.comparison import difference, perturb
from inference.training.gradients import Gradients, batch_norm_statistics
from inference.training.program import Program
from inference.training.schedules import KLWeight, learning_rate, make_ema

BLOCK_SECONDS = 0.25  # of steps in one call, so that a signal is soon seen and the progress bar moves


class Made(NamedTuple):
    """Steps that were made.

    Attributes:
        steps: how many, a skipped one included.
        skipped: why the last one was skipped: a line that names what is not finite; None if it was not.
        stopped: whether any process wants to stop.
    """

    steps: int
    skipped: str | None
    stopped: bool


def make_optimizer(loss: Loss, config: TrainConfig) -> torch.optim.Adam:
    """Returns Adam or AdamW over all parameters. Pyro's wrappers would create an optimiser per tensor."""
    if config.optimizer == "adamw":
        decay = config.weight_decay
        return torch.optim.AdamW(loss.parameters(), lr=config.lr, weight_decay=decay, fused=True)
    return torch.optim.Adam(loss.parameters(), lr=config.lr, fused=True)


class Steps:
    """Makes training steps.

    The mode "inductor" makes steps of full batches by `Program`, many per call. All other steps compute the
    gradients by `Gradients` and update the parameters by torch's Adam or AdamW. Both change the same tensors.
    With `accumulate` batches per step, step n has the batches from n * accumulate on. Several processes sum
    their gradients once per step.

    Args:
        loss: the loss.
        batches: the batches.
        config: the settings, all of them given.
        kl_weight: the KL weight.
        precision: returns the context in which the loss is computed.
        describe: says which terms of the loss or which gradients of a batch are not finite.
        say: prints a line.

    Attributes:
        optimizer: Adam or AdamW, with its state.
        average: the moving average of the parameters, or None.
        lr_factor: factor of the learning rate, which a plateau of the validation metric lowers.
    """

    def __init__(
        self,
        loss: Loss,
        batches: Batches,
        config: TrainConfig,
        kl_weight: KLWeight,
        precision: Callable[[], AbstractContextManager],
        describe: Callable[[Tensor, dict[str, Tensor]], str],
        say: Callable[[str], None],
    ):
        self.loss, self.batches, self.config, self.kl_weight = loss, batches, config, kl_weight
        self.precision, self.describe, self.say = precision, describe, say
        self.optimizer = make_optimizer(loss, config)
        self.lr_factor = 1.0
        self.average = make_ema(loss.model, config.ema)
        self.statistics = batch_norm_statistics(loss)
        mode = "graph" if config.compile == "graph" else "eager"
        self.gradients = Gradients(loss, mode, batches.images, precision, say)
        self.program: Program | None = None
        if config.compile == "inductor":
            self.program = Program(loss, batches, self.optimizer, self.average, config, kl_weight, precision)

    def make(self, step: int, count: int, stop: bool) -> Made:
        """Makes at most `count` steps, and at least one.

        Args:
            step: the number of the first one.
            count: the largest number of steps. Fewer are made before a batch of another size, or if one is
                skipped.
            stop: whether this process wants to stop.
        """
        # Pyro validates model and guide in the first step only.
        if self.program and step > 0 and self._full(step):
            if not self.program.runs and not self._start(step):
                return self._single(step, stop)
            most, full = min(count, int(BLOCK_SECONDS / self.program.seconds_per_step)), 1
            while full < most and self._full(step + full):
                full += 1
            return self._block(step, full, stop)
        return self._single(step, stop)

    def _full(self, step: int) -> bool:
        """Whether all batches of a step are full."""
        count = self.config.accumulate
        return all(self.batches.full(number) for number in range(step * count, (step + 1) * count))

    def _single(self, step: int, stop: bool) -> Made:
        """Makes one step."""
        buffers = Snapshot(list(self.loss.buffers()))
        objective, batch, good, stopped = self._gradients(step, stop)
        reason = None
        if good:
            self._update(step)
        else:
            reason = self.describe(objective, batch)
            buffers.restore()
        self.optimizer.zero_grad(set_to_none=True)
        return Made(1, reason, stopped)

    def _gradients(self, step: int, stop: bool) -> tuple[Tensor, dict[str, Tensor], bool, bool]:
        """Returns the objective, the batch, whether all is finite, and whether any process wants to stop.

        The objective and the gradients are the means over the batches of the step and over the processes. The
        batch is the first one of this process that is not finite, or else the last one.
        """
        self.kl_weight.set(step)
        count, processes = self.config.accumulate, distributed.world_size()
        total, share, sums = torch.zeros(()), 1.0, dict[torch.nn.Parameter, Tensor]()
        bad: dict[str, Tensor] = {}
        for number in range(step * count, (step + 1) * count):
            batch = self.batches(number)
            objective, good = self.gradients(batch, check=step == 0)
            if count == processes == 1:
                return objective, batch, bool(good), stop
            share = self.batches.share(number)
            total = total.to(objective) + objective * (share / count)
            for p in self.loss.parameters():
                if p.grad is not None:
                    gradient, p.grad = p.grad.mul_(share / count), None
                    sums[p] = gradient if p not in sums else sums[p].add_(gradient)
            bad = bad or ({} if good else batch)
            if bad and processes == 1:  # other processes wait for the exchanges within a model's batches
                break
        for p, gradient in sums.items():
            p.grad = gradient
        if processes > 1:
            total, stop = self._sum_over_processes(total, share, stop)
        return total, bad or batch, bool(finite(total, self.gradients.found())), stop

    def _sum_over_processes(self, objective: Tensor, share: float, stop: bool) -> tuple[Tensor, bool]:
        """Sums the objective and the gradients over the processes, and averages batch norm's statistics.

        Args:
            objective: of this process, weighted, as the gradients are.
            share: fraction of the joint batch that this process has.
            stop: whether this process wants to stop.
        """
        reached = [p for p in self.loss.parameters() if p.grad is not None]
        values = [objective, *self.gradients.found(), *(value * share for value in self.statistics)]
        (total, *sums), stopped = distributed.sum_over_processes(values, stop)
        for p, gradient in zip(reached, sums, strict=False):
            p.grad = gradient
        for value, mean in zip(self.statistics, sums[len(reached) :], strict=True):
            value.copy_(mean)
        return total, stopped

    def _update(self, step: int) -> None:
        """Updates the parameters and their moving average by the gradients."""
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.loss.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_factor * learning_rate(step, self.config)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.loss.model)

    def _block(self, step: int, count: int, stop: bool) -> Made:
        """Makes steps by the program. If one is not finite, it is found by making them one at a time."""
        assert self.program is not None
        before = RandomState(self.batches.device)
        if self.program.block(step, count, self.lr_factor, stop):
            return Made(count, None, self.program.stopped)
        if count > 1:
            before.restore()
            for made in range(count):
                single = self._block(step + made, 1, stop)
                if single.skipped:
                    return Made(made + 1, single.skipped, single.stopped)
            return Made(count, None, self.program.stopped)
        after, buffers = RandomState(self.batches.device), Snapshot(list(self.loss.buffers()))
        before.restore()
        objective, batch, _, stopped = self._gradients(step, stop)
        reason = self.describe(objective, batch)
        buffers.restore()
        self.optimizer.zero_grad(set_to_none=True)
        after.restore()
        return Made(1, reason, stopped)

    def _start(self, step: int) -> bool:
        """Loads or compiles the program, and compares a step of it with the eager step.

        Nothing changes. If the two differ, or if the step cannot be captured or compiled, all further steps
        are eager, and `say` prints one line with the reason. If the tolerances are exceeded, the effect of
        rounding on the eager step is measured, see `difference`. If a program of the cache differs by more,
        the step is compiled again. All processes come to the same decision.

        Returns:
            Whether the program can be used for this step. It cannot if the eager step is not finite: then the
            next one is compared.
        """
        program, random = self.program, RandomState(self.batches.device)
        assert program is not None
        buffers = Snapshot(list(self.loss.buffers()))
        objective, _, good, _ = self._gradients(step, False)
        reached = [p for p in self.loss.parameters() if p.grad is not None]
        self.optimizer.zero_grad(set_to_none=True)
        buffers.restore()
        random.restore()
        if not good:
            return False
        program.prepare(reached, step)
        before = Snapshot(program.state + program.counters())
        self._single(step, False)
        expected, rounded, problem = Snapshot(program.state), None, ""
        compare = partial(self._difference, step, objective, before, expected)
        for cached in (True, False):
            before.restore()
            random.restore()
            problem = _problem(partial(program.compile, step, cached))
            if problem:
                continue
            problem = _problem(compare)
            if problem:
                rounded = rounded or self._rounded(step, before, random)
                before.restore()
                random.restore()
                problem = _problem(partial(compare, rounded))
            if not problem:
                break
        before.restore()
        random.restore()
        if problem:
            self.say(f"--compile inductor cannot be used, steps are eager: {problem}")
            self.program = None
        return not problem

    def _rounded(self, step: int, before: Snapshot, random: RandomState) -> Snapshot:
        """Makes the eager step from perturbed parameters, and returns the state after it."""
        program = self.program
        assert program is not None
        before.restore()
        random.restore()
        perturb(list(program.parameters.values()))
        self._single(step, False)
        return Snapshot(program.state)

    def _difference(
        self,
        step: int,
        objective: Tensor,
        before: Snapshot,
        expected: Snapshot,
        rounded: Snapshot | None = None,
    ) -> str:
        """Makes a step by the program, and says how it differs from the eager one, see `difference`."""
        program = self.program
        assert program is not None
        program.block(step, 1, self.lr_factor)
        dtype = torch.bfloat16 if self.config.precision == "bfloat16" else objective.dtype
        return difference(program, objective, before, expected, rounded, dtype)


def _problem(action: Callable[[], str]) -> str:
    """Returns the problem that an action names or fails with, in any process, or "" if there is none."""
    try:
        problem = action()
    except TrainingAborted:
        raise
    except Exception as error:
        problem = one_line(error)
    return next(filter(None, distributed.all_gather(problem)), "")
