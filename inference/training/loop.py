"""The training loop: steps, with log lines, evaluations and callbacks between them."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pyro
import torch
from torch import Tensor

from inference.backend import distributed
from inference.backend.snapshots import RandomState, generator_states
from inference.data.batches import Batches
from inference.data.held_out import HeldOut
from inference.elbo.estimators import Loss
from inference.errors import TrainingDiverged
from inference.metrics.bounds import chunk_terms, evaluate_bounds
from inference.rundir.config import TrainConfig
from inference.training.callbacks import Callback
from inference.training.compiled_terms import CompiledTerms
from inference.training.precision import precision_context
from inference.training.schedules import KLWeight
from inference.training.selection import Selection
from inference.training.state import restore_state
from inference.training.steps import Steps
from ppl_models.base import LatentVariableModel
from ppl_models.programs import sample_latents

LOG_EVERY = 100  # steps between log lines of the training batches
MIN_VALUES = 10**8  # pixels in all evaluations of a run, from which on compiling the evaluation pays off
PATIENCE = 10  # consecutive steps whose loss or gradient is not finite, before training gives up


class Loop:
    """Trains a model on batches.

    Args:
        model: the model.
        batches: the inputs of each step.
        held_out: data for evaluation by name, such as "test" and "validation"; "independent" is left to the
            end.
        config: the settings, all of them given.
        callbacks: called after steps and evaluations, and at the end.
        say: prints a line about a skipped step or an execution mode.
        stop: whether training should stop after the current step.

    Attributes:
        step: number of steps so far, skipped ones included.
        skipped: number of steps that were skipped because their loss or gradient was not finite.
        stop_requested: a callback sets it to stop training after the current step.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        batches: Batches,
        held_out: Mapping[str, HeldOut],
        config: TrainConfig,
        callbacks: Sequence[Callback] = (),
        say: Callable[[str], None] = print,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.model, self.batches, self.held_out, self.config = model, batches, held_out, config
        self.callbacks, self.say, self.stop = list(callbacks), say, stop
        self.device = batches.device
        self.loss = Loss(model, config.elbo, config.particles)
        self.kl_weight = KLWeight(model, config.kl_warmup, self.device)
        precision = precision_context(config.precision, model, self.device.type)
        self.steps = Steps(
            self.loss, batches, config, self.kl_weight, precision, self._why_not_finite, self.say
        )
        self.optimizer, self.average = self.steps.optimizer, self.steps.average
        self.selection = Selection(config)
        values = sum(map(len, held_out.values())) * math.prod(model.shape)
        values *= config.steps // config.eval_every
        compiles = config.compile == "inductor" and values >= MIN_VALUES and distributed.world_size() == 1
        self.terms = CompiledTerms(self.evaluated_model, say) if compiles else chunk_terms
        # A callback that is called after every step needs the control after every step.
        self.every_step = any(type(each).on_step_end is not Callback.on_step_end for each in self.callbacks)
        self.step = self.skipped = self.consecutive_skips = 0
        self.stop_requested = self.resumed = False
        if distributed.rank():
            torch.manual_seed(distributed.process_seed(config.seed, 0))
        self._seconds_before, self._started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all processes that resumed it."""
        return round(self._seconds_before + time.perf_counter() - self._started, 3)

    @property
    def evaluated_model(self) -> LatentVariableModel:
        """The model that evaluation uses: the moving average of the parameters if there is one."""
        return cast(LatentVariableModel, self.average.module) if self.average else self.model

    @property
    def finished(self) -> bool:
        """Whether training has reached its last step, or early stopping has ended it."""
        return self.step >= self.config.steps or self.selection.exhausted

    def final_model(self) -> LatentVariableModel:
        """Returns the model that evaluation uses at the end: with the best parameters if some are selected.

        It is a copy then: the state of training keeps the last parameters.
        """
        if not self.config.select:
            return self.evaluated_model
        model = copy.deepcopy(self.evaluated_model)
        model.load_state_dict(self.selection.parameters)
        return model

    def run(self) -> None:
        """Trains until `config.steps`, until early stopping ends it, or until a stop is requested.

        Raises:
            TrainingDiverged: too many consecutive steps or an evaluation are not finite.
        """
        with self.kl_weight, training_mode(self.model):
            if not self.resumed:
                self.evaluate()
            stopped = distributed.any_process(self._should_stop())
            while not self.finished and not stopped:
                stopped = self._make_steps()
        for callback in self.callbacks:
            callback.on_train_end(self)

    def _should_stop(self) -> bool:
        return self.stop_requested or self.stop()

    def _until_attention(self) -> int:
        """The number of steps that can be made before the loop has to do anything. A logged step is alone."""
        step, config = self.step, self.config
        to_log = min(LOG_EVERY - 1 - step % LOG_EVERY, config.steps - 1 - step)
        if self.every_step or to_log == 0:
            return 1
        to_evaluate = config.eval_every - step % config.eval_every
        return min(to_log, to_evaluate)

    def _make_steps(self) -> bool:
        """Makes some steps and calls the callbacks. Returns whether any process wants to stop."""
        logged = (self.step + 1) % LOG_EVERY == 0 or self.step + 1 == self.config.steps
        metrics = self._batch_metrics() if logged else {}
        with distributed.peer_loss_guard():  # a model may exchange values within a step
            made = self.steps.make(self.step, self._until_attention(), self._should_stop())
        self.step += made.steps
        if made.steps > bool(made.skipped):
            self.consecutive_skips = 0
        if made.skipped:
            self._skip(made.skipped)
        for callback in self.callbacks:
            callback.on_step_end(self)
            callback.on_block_end(self)
            if metrics:
                callback.on_log(self, metrics)
        if self.step % self.config.eval_every == 0 or self.step == self.config.steps:
            self.evaluate()
        return made.stopped if distributed.world_size() > 1 else self._should_stop()

    def _batch_metrics(self) -> dict[str, float]:
        """The finite terms of the bound on the batch of the next step."""
        self.kl_weight.set(self.step)
        random = RandomState(self.device)
        metrics = batch_metrics(self.model, self.batches(self.step * self.config.accumulate))
        random.restore()
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _why_not_finite(self, objective: Tensor, batch: dict[str, Tensor]) -> str:
        return describe_nonfinite(objective, self.model, batch)

    def _skip(self, reason: str) -> None:
        """Counts a step whose loss or gradient is not finite."""
        self.skipped, self.consecutive_skips = self.skipped + 1, self.consecutive_skips + 1
        if self.skipped == 1 or self.consecutive_skips == PATIENCE:
            self.say(f"step {self.step} is skipped: {reason}")
        if self.consecutive_skips == PATIENCE:
            raise TrainingDiverged(
                f"training skipped {PATIENCE} consecutive steps, up to step {self.step}. Lower the "
                "learning rate (--lr), clip the gradient (--clip 1) or add a warm-up (--lr-warmup)"
            )

    def evaluate(self) -> None:
        """Evaluates the bound and its terms on the held-out data, and calls the callbacks.

        Raises:
            TrainingDiverged: a value is not finite. The callbacks are not called then.
        """
        found = {}
        for split, part in self.held_out.items():
            if split != "independent":
                metrics = evaluate_bounds(self.evaluated_model, part, terms=self.terms)
                found[split] = {name: metric["value"] for name, metric in metrics.items()}
                for name, value in found[split].items():
                    if not math.isfinite(value):
                        raise TrainingDiverged(
                            f"{name} is {value} at step {self.step}. Lower the learning rate (--lr)"
                        )
        self._select(found)
        for callback in self.callbacks:
            callback.on_evaluate(self, found)

    def _select(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Updates what follows a metric of the validation data."""
        self.selection.update(self.step, metrics, self.evaluated_model)
        self.steps.lr_factor = self.selection.lr_factor
        if self.selection.exhausted and self.step < self.config.steps:
            self.say(
                f"{self.config.metric} is not better than at step {self.selection.step} for "
                f"{self.selection.waited} evaluations: training stops early, at step {self.step}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs to repeat the uninterrupted one bit for bit."""
        state: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "skipped": self.skipped}
        state |= {"consecutive_skips": self.consecutive_skips}
        state |= {"parameters": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"generators": distributed.all_gather(generator_states(self.device))}
        state |= {"selection": self.selection.state_dict()} if self.config.metric else {}
        return state | ({"averaged": self.average.state_dict()} if self.average else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state of `state_dict`; the model has its parameters already.

        Raises:
            UserError: the state does not fit the model.
        """
        restore_state(state, self.optimizer, self.average, self.device, self.config.seed)
        self.selection.load_state_dict(state.get("selection", {}))
        self.steps.lr_factor = self.selection.lr_factor
        self.step, self.skipped = state["step"], state["skipped"]
        self.consecutive_skips, self.resumed = state["consecutive_skips"], True
        self._seconds_before, self._started = state["seconds"], time.perf_counter()


@contextmanager
def training_mode(model: LatentVariableModel) -> Iterator[None]:
    """Puts a model into training mode, and back into its mode afterwards."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


@torch.no_grad()
def batch_metrics(model: LatentVariableModel, batch: dict[str, Tensor]) -> dict[str, float]:
    """Returns the terms of the hand-derived bound on one batch: means in nats per image.

    The model is in evaluation mode meanwhile. The RNG state and batch-norm statistics are preserved.
    """
    model.eval()
    with torch.random.fork_rng([batch["x"].device] if batch["x"].is_cuda else []):
        with pyro.validation_enabled(False):
            latents = sample_latents(model, **batch)
        report = model.bound(**batch, latents=latents, kl="closed").report()
    model.train()
    return {name: value.mean().item() for name, value in report.items()}


def describe_nonfinite(objective: Tensor, model: LatentVariableModel, batch: dict[str, Tensor]) -> str:
    """Says which terms of the bound are not finite, or else which gradients."""
    if objective.isfinite():
        names = [
            name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
        ]
        return f"the gradient of {', '.join(names)} is not finite"
    names = [name for name, value in batch_metrics(model, batch).items() if not math.isfinite(value)]
    return f"the loss is {objective.item()}" + (f", not finite are {', '.join(names)}" if names else "")
