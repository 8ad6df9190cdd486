"""The training loop: steps, with log lines, evaluations and callbacks between them."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import pyro
import torch
from torch import Tensor

from inference.backend import distributed
from inference.data.batches import Batches
from inference.data.held_out import HeldOut
from inference.elbo.estimators import Loss
from inference.errors import TrainingDiverged
from inference.metrics.bounds import evaluate_bounds
from inference.rundir.config import TrainConfig
from inference.training.callbacks import Callback
from inference.training.gradients import Gradients
from inference.training.precision import bfloat16_networks
from inference.training.schedules import KLWeight, learning_rate, make_ema
from inference.training.state import generator_states, restore_state
from ppl_models.base import LatentVariableModel
from ppl_models.programs import sample_latents

LOG_EVERY = 100  # steps between log lines of the training batches
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
        self.device = batches.x.device
        self.loss = Loss(model, config.elbo, config.particles)
        # One fused optimiser over all parameters: Pyro's wrappers would create one per tensor.
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=config.lr, fused=True)
        self.average = make_ema(model, config.ema)
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

    def run(self) -> None:
        """Trains until `config.steps`, or until a stop is requested.

        Raises:
            TrainingDiverged: too many consecutive steps or an evaluation are not finite.
        """
        kl_weight = KLWeight(self.model, self.config.kl_warmup, self.device)
        with kl_weight, training_mode(self.model):
            gradients = Gradients(
                self.loss, self.config.compile, self.batches.images, self._precision(), self.say
            )
            if not self.resumed:
                self.evaluate()
            stopped = distributed.any_process(self._should_stop())
            while self.step < self.config.steps and not stopped:
                stopped = self._train_step(gradients, kl_weight)
        for callback in self.callbacks:
            callback.on_train_end(self)

    def _precision(self) -> Callable[[], AbstractContextManager]:
        """The context of the loss. Densities and evaluation are in float32, whatever the networks are in."""
        if self.config.precision == "bfloat16":
            return partial(bfloat16_networks, self.model, self.device.type)
        return nullcontext

    def _should_stop(self) -> bool:
        return self.stop_requested or self.stop()

    def _train_step(self, gradients: Gradients, kl_weight: KLWeight) -> bool:
        """Makes one step and calls the callbacks. Returns whether any process wants to stop."""
        batch = self.batches(self.step)
        kl_weight.set(self.step)
        # Pyro validates model and guide in the first step only.
        objective, finite, stopped = gradients(batch, check=self.step == 0, stop=self._should_stop())
        logged = (self.step + 1) % LOG_EVERY == 0 or self.step + 1 == self.config.steps
        metrics = batch_metrics(self.model, batch) if logged else {}
        if finite:
            self._update()
        else:
            self._skip(objective, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        for callback in self.callbacks:
            callback.on_step_end(self, metrics)
        if self.step % self.config.eval_every == 0 or self.step == self.config.steps:
            self.evaluate()
        return stopped

    def _update(self) -> None:
        """Updates the parameters and their moving average by the gradients."""
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.loss.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.consecutive_skips = 0

    def _skip(self, objective: Tensor, batch: dict[str, Tensor]) -> None:
        """Counts a step whose loss or gradient is not finite."""
        self.skipped, self.consecutive_skips = self.skipped + 1, self.consecutive_skips + 1
        if self.skipped == 1 or self.consecutive_skips == PATIENCE:
            self.say(f"step {self.step + 1} is skipped: {describe_nonfinite(objective, self.model, batch)}")
        if self.consecutive_skips == PATIENCE:
            raise TrainingDiverged(
                f"training skipped {PATIENCE} consecutive steps, up to step {self.step + 1}. Lower the "
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
                metrics = evaluate_bounds(self.evaluated_model, part)
                found[split] = {name: metric["value"] for name, metric in metrics.items()}
                for name, value in found[split].items():
                    if not math.isfinite(value):
                        raise TrainingDiverged(
                            f"{name} is {value} at step {self.step}. Lower the learning rate (--lr)"
                        )
        for callback in self.callbacks:
            callback.on_evaluate(self, found)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs to repeat the uninterrupted one bit for bit."""
        state: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "skipped": self.skipped}
        state |= {"consecutive_skips": self.consecutive_skips}
        state |= {"parameters": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"generators": distributed.all_gather(generator_states(self.device))}
        return state | ({"averaged": self.average.state_dict()} if self.average else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state of `state_dict`; the model has its parameters already.

        Raises:
            UserError: the state does not fit the model.
        """
        restore_state(state, self.optimizer, self.average, self.device, self.config.seed)
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
