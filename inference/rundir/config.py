"""The settings of a training: one dataclass, from which the command line and config.json are made."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from shutil import which
from typing import Any, Literal, get_args, get_origin

import torch

from inference.data.dataset import SMALL_IMAGE_PIXELS
from inference.elbo.estimators import ESTIMATORS
from inference.errors import UserError
from inference.rundir.kinds import (
    CLIP,
    COUNT,
    EARLY_STOPPING,
    FRACTION,
    METRIC,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SIZE,
    STOPPING,
    WHOLE,
    Kind,
    one_of,
)
from ppl_models.base import LatentVariableModel

MODES = ("eager", "graph", "inductor")  # of a training step, see inference.training.gradients
ADDED_OPTIONS = {"activation", "likelihood", "quantizer"}  # that older run folders do not have
MIN_STEPS = {"graph": 500, "inductor": 5_000}  # from which a mode pays off
EVALUATIONS = 20  # in a run, if `eval_every` is not given
PATIENCE = 5  # evaluations, if --early-stopping names none
WEIGHT_DECAY = 0.01  # of AdamW, as in torch


def setting(kind: Kind, default: Any, about: str, metavar: str = "N", command_line: bool = True) -> Any:
    """Declares a field of `TrainConfig`.

    Args:
        kind: the type and the range of the value.
        default: the value of models that have no default of their own.
        about: the help text.
        metavar: how the command line's help shows the value.
        command_line: whether there is a command-line option.
    """
    names = {
        "kind": kind,
        "default": default,
        "about": about,
        "metavar": metavar,
        "command_line": command_line,
    }
    return field(default=None, metadata=names)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. A setting that is not given has the model's default, or else the default in parentheses.

    Raises:
        UserError: a value has another type or is out of range.

    Attributes:
        steps: training steps.
        batch_size: images or points per step.
        lr: learning rate.
        schedule: learning-rate schedule, "constant" (default); "cosine", which decays to zero at the last
            step; "step", which falls to a tenth in 8 stages, each three times as long as the one before; or
            "plateau", which halves the rate after 2 evaluations without a better validation metric: that of
            `select`, or else the negative ELBO.
        optimizer: "adam" (default) or "adamw", which adds decoupled weight decay.
        weight_decay: weight decay of AdamW (0.01).
        accumulate: batches per step; the objective of the step is the mean of theirs (1).
        lr_warmup: steps over which the learning rate rises linearly from zero (0).
        kl_warmup: steps over which the model's KL weight beta rises linearly from zero (0).
        clip: maximum gradient norm over all parameters; 0 disables clipping (0).
        ema: decay of an exponential moving average of the parameters, which evaluation uses; 0 disables it
            (0).
        precision: of the networks in training, "float32" (default) or "bfloat16".
        compile: execution mode of a step, "eager", "graph" or "inductor"; "auto" (default) picks the mode
            with the shortest total time, compilation included.
        elbo: estimator of the bound, a name in `inference.elbo.estimators.ESTIMATORS`.
        particles: samples per image of an importance-weighted estimator.
        seed: seed of every random number (0).
        eval_every: steps between evaluations on held-out data (a twentieth of `steps`).
        select: name of a metric of the validation data, by which the best parameters are kept and used.
        early_stopping: "METRIC" or "METRIC:PATIENCE": stops training after PATIENCE evaluations without a
            better value (5), and selects by the same metric. Evaluations in a warm-up do not count.
        log: "tensorboard" writes event files into the run folder.
    """

    steps: int = setting(COUNT, 20_000, "training steps")
    batch_size: int = setting(COUNT, 97, "images or points per step")
    lr: float = setting(POSITIVE, 1e-3, "learning rate", "RATE")
    schedule: str = setting(
        one_of(["constant", "cosine", "step", "plateau"]),
        "constant",
        "learning-rate schedule: constant; cosine, which decays to zero at the last step; step, which falls "
        "to a tenth in 8 stages, each three times as long as the one before; or plateau, which halves the "
        "rate after 2 evaluations without a better validation metric",
        "NAME",
    )
    optimizer: str = setting(one_of(["adam", "adamw"]), "adam", "optimizer: adam, adamw", "NAME")
    weight_decay: float = setting(
        NOT_NEGATIVE, None, f"weight decay of adamw (default: {WEIGHT_DECAY})", "RATE"
    )
    accumulate: int = setting(COUNT, 1, "batches per step, whose mean is the objective of the step")
    lr_warmup: int = setting(WHOLE, 0, "steps over which the learning rate rises linearly from zero")
    kl_warmup: int = setting(WHOLE, 0, "steps over which beta rises linearly from zero")
    clip: float = setting(CLIP, 0.0, "maximum gradient norm over all parameters; 0 disables clipping", "NORM")
    ema: float = setting(
        FRACTION,
        0.0,
        "decay of an exponential moving average of the parameters, which evaluation uses; 0 disables it",
        "DECAY",
    )
    precision: str = setting(
        one_of(["float32", "bfloat16"]),
        "float32",
        "precision of the networks in training: float32, bfloat16",
        "NAME",
    )
    compile: str = setting(
        one_of(["auto", *MODES]),
        "auto",
        "execution mode of a step: eager, graph or inductor; auto picks the mode with the shortest total "
        "time, compilation included",
        "MODE",
    )
    elbo: str = setting(one_of(list(ESTIMATORS)), None, "estimator of the bound", "NAME")
    particles: int = setting(COUNT, None, "samples per image of an importance-weighted estimator", "K")
    seed: int = setting(SEED, 0, "seed of every random number")
    eval_every: int = setting(COUNT, None, "steps between evaluations on held-out data", command_line=False)
    select: str = setting(
        METRIC,
        None,
        "keep the parameters with the best value of this metric on the validation data",
        "METRIC",
    )
    early_stopping: str = setting(
        EARLY_STOPPING,
        None,
        "stop after PATIENCE evaluations without a better value on the validation data, and select by the "
        f"same metric (default of PATIENCE: {PATIENCE})",
        "METRIC[:PATIENCE]",
    )
    log: str = setting(one_of(["tensorboard"]), None, "also write the metrics for tensorboard", "NAME")

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is not None and spec.metadata:
                spec.metadata["kind"].check(spec.name, value)
                if spec.metadata["kind"].type is float:
                    object.__setattr__(self, spec.name, float(value))

    @property
    def metric(self) -> str:
        """The metric of the validation data that training follows, or "" if it follows none."""
        stopping = STOPPING.fullmatch(self.early_stopping or "")
        default = "negative_elbo" if self.schedule == "plateau" else ""
        return self.select or (stopping["metric"] if stopping else default)

    @property
    def patience(self) -> int:
        """Evaluations without a better value after which training stops; 0 if it never does."""
        stopping = STOPPING.fullmatch(self.early_stopping or "")
        return int(stopping["patience"] or PATIENCE) if stopping else 0

    def resolved(self, model: type[LatentVariableModel], shape: tuple[int, ...]) -> "TrainConfig":
        """Replaces every None by the default for a model and data of a shape, and checks the combination.

        A model's default warm-ups are reduced to a quarter of the steps.

        Args:
            model: the class of the model.
            shape: of an image or a point.

        Raises:
            UserError: the settings do not go together.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        settings = defaults(model, shape) | given
        found = {spec.name: settings[spec.name] for spec in fields(TrainConfig)}
        if found["elbo"] not in model.estimators:
            raise UserError(
                f"elbo is {found['elbo']!r}, which {model.__name__} does not support. "
                f"Choose from {', '.join(model.estimators)}."
            )
        estimator = ESTIMATORS[found["elbo"]]
        found["particles"] = found["particles"] or estimator.particles
        if estimator.particles == 1 and found["particles"] > 1:
            raise UserError(
                f"{found['elbo']} supports one sample per image. Leave out particles or choose iwae."
            )
        for name in ("lr_warmup", "kl_warmup"):
            if name not in given:
                found[name] = min(found[name], found["steps"] // 4)
        if estimator.particles > 1 and "kl_warmup" not in given:
            found["kl_warmup"] = 0
        if found["kl_warmup"] and not model.has_kl_weight:
            raise UserError(f"{model.__name__} has no KL weight. Leave out kl_warmup.")
        if found["compile"] == "auto":
            found["compile"] = default_mode(found["steps"])
        found["eval_every"] = min(
            found["eval_every"] or max(found["steps"] // EVALUATIONS, 1), found["steps"]
        )
        config = TrainConfig(**found | _optimization(found))
        config.check_warmup()
        return config

    def check_warmup(self) -> None:
        """Raises UserError if a run ends before its learning rate or its beta reaches the full value."""
        # The learning rate reaches it in the warm-up's last step, beta in the step after the warm-up.
        last = {"lr_warmup": self.lr_warmup, "kl_warmup": self.kl_warmup and self.kl_warmup + 1}
        for name, steps in last.items():
            if steps and self.steps and self.steps < steps:
                raise UserError(
                    f"{flag(name)} {getattr(self, name)} does not end within {self.steps} steps. "
                    f"Give --steps {steps} or more, or a shorter {flag(name)}."
                )


def _optimization(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weight decay and the metric to select by.

    Raises:
        UserError: settings contradict each other.
    """
    decay, select, stopping = found["weight_decay"], found["select"], found["early_stopping"]
    if found["optimizer"] == "adamw":
        decay = WEIGHT_DECAY if decay is None else decay
    elif decay is not None:
        raise UserError(f"weight_decay is {decay:g}, and only adamw has one. Give --optimizer adamw.")
    named = stopping and stopping.partition(":")[0]
    if select and named and select != named:
        raise UserError(f"select is {select}, and early_stopping follows {named}. Give one metric.")
    return {"weight_decay": decay, "select": select or named}


def default_mode(steps: int) -> str:
    """Returns the execution mode with the shortest total time for a number of steps, compilation included."""
    compilers = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name and which(name)]
    if steps >= MIN_STEPS["inductor"] and (compilers or torch.cuda.is_available()):
        return "inductor"
    return "graph" if steps >= MIN_STEPS["graph"] else "eager"


def defaults(model: type[LatentVariableModel], shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the default of every setting and every option of a model on data of a shape, by name."""
    settings = {spec.name: spec.metadata["default"] for spec in fields(TrainConfig)}
    settings |= {"elbo": model.estimators[0], "validation": 0.0} | model.defaults
    settings |= {name: option.default for name, option in model.options().items()}
    small = math.prod(shape[1:]) <= SMALL_IMAGE_PIXELS
    return settings | (model.small_image_defaults if small else {})


def option_kind(annotation: Any) -> tuple[Kind, str]:
    """The kind and the help text of a model's option, from its `Annotated` type."""
    kind, about = get_args(annotation)[:2]
    if get_origin(kind) is Literal:
        return one_of(get_args(kind)), about
    return (NOT_NEGATIVE if kind is float else SIZE), about


def check_options(model: type[LatentVariableModel], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a model with floats as floats, and `ADDED_OPTIONS` with their defaults.

    Raises:
        UserError: an option is missing or unknown, or its value does not fit.
    """
    known = model.options()
    options = {key: known[key].default for key in known.keys() & ADDED_OPTIONS} | dict(options)
    if options.keys() != known.keys():
        raise UserError(f"options of {name} are {', '.join(known)}, not {', '.join(options)}")
    found = {}
    for key, parameter in known.items():
        kind, _ = option_kind(parameter.annotation)
        kind.check(key, options[key])
        found[key] = float(options[key]) if kind.type is float else options[key]
    return found


def flag(name: str) -> str:
    """The command-line option of a setting."""
    return "--" + name.replace("_", "-")


def as_text(value: Any) -> str:
    """A setting as a user types it: 0 for 0.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
