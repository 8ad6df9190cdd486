"""The command line of `inference.svi`: common options, and the model's own, read off its constructor."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from inference.data import points
from inference.data.batches import OBSERVATIONS, read_indices
from inference.data.datasets import NAMES, SMALL, Dataset
from inference.elbo.estimators import ESTIMATORS
from inference.errors import UserError, unknown
from inference.training.gradients import MODES, default_mode
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

DATA_DIR = Path("data")  # unless another is named
PRECISIONS = ("float32", "bfloat16")  # of the networks while they train
PRIORS = tuple(dict.fromkeys(prior for model in MODELS.values() for prior in model.code_priors))
COMPILE = ("auto", *MODES)
SCHEDULES = ("constant", "cosine")  # of the learning rate; cosine takes it to zero at the last step
# The least gradient norm to clip to. Adam divides by the root of its second moment plus 1e-8. With this norm
# and a million parameters a gradient's elements are about 1e-9, and a step is still a tenth of --lr; with a
# norm of 1e-11 it is 1e-6 of --lr, which float32 rounds away next to most weights.
LEAST_CLIP = 1e-6
# How training goes where neither the command line nor the model says otherwise.
TRAINING = {
    "schedule": "constant",
    "lr_warmup": 0,
    "warmup": 0,
    "clip": 0.0,
    "ema": 0.0,
    "precision": "float32",
    "validation": 0.0,
    "compile": "auto",
}


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations that raises UserError instead of exiting."""

    def __init__(self, **keywords: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    def flags(self) -> set[str]:
        """Every option that may be given."""
        return set(self._option_string_actions)

    def parse_args(self, arguments: list[str]) -> argparse.Namespace:  # type: ignore[override]
        """The options given. Raises UserError for one that is not known, with the nearest that is."""
        given, rest = self.parse_known_args(arguments)
        for argument in rest:
            name = argument.partition("=")[0]
            if name.startswith("--") and name not in self.flags():
                raise unknown("option", name, sorted(self.flags()))
        if rest:
            raise UserError(f"{rest[0]} belongs to no option; see --help")
        return given


def positive(kind: type) -> Any:
    """An argparse type: a finite number of that kind above zero."""

    def convert(text: str) -> Any:
        number = kind(text)
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
        return number

    convert.__name__ = kind.__name__
    return convert


def size(text: str) -> int:
    """An argparse type: a whole number from 1 to a million, of what a model is made of."""
    number = int(text)
    if not 1 <= number <= 10**6:
        raise argparse.ArgumentTypeError(f"{text:.20} is not a number above zero, a million at most")
    return number


def weight(text: str) -> float:
    """An argparse type: a finite number, zero or more."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number, zero or more")
    return number


def clip(text: str) -> float:
    """An argparse type: a gradient norm to clip to, zero or from `LEAST_CLIP` up."""
    number = weight(text)
    if 0 < number < LEAST_CLIP:
        raise argparse.ArgumentTypeError(
            f"with gradients as short as {text} nothing is trained; give {LEAST_CLIP:g} or more, or 0"
        )
    return number


def whole(text: str) -> int:
    """An argparse type: a whole number, zero or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, zero or more")
    return number


def share(text: str) -> float:
    """An argparse type: a number from 0 up to, and not, 1."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return number


def seed(text: str) -> int:
    """An argparse type: a whole number from 0 to 2^32 - 1."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {2**32 - 1}")
    return number


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options given: what is not given is not in the namespace, but for --model and --resume.

    Prints help and exits where asked. Raises UserError for anything that cannot be used.
    """
    name = _model_of(arguments)
    parser = _parser(name)
    elsewhere = _parser(None).flags() - parser.flags()
    for argument in arguments if name else ():
        typed = argument.partition("=")[0]
        others = [other for other, cls in MODELS.items() if typed in map(flag, cls.options())]
        if others and typed not in parser.flags():
            raise UserError(f"{typed} is an option of {', '.join(others)}, not of {name}: leave it out")
        if typed in elsewhere:
            raise UserError(f"{typed} does not apply to {name}: leave it out")
    given = parser.parse_args(arguments)
    if hasattr(given, "elbo") and name and given.elbo not in MODELS[name].estimators:
        raise unknown(f"--elbo for {name}", given.elbo, MODELS[name].estimators)
    for key, option in MODELS[name].options().items() if name else ():
        kind = get_args(option.annotation)[0]
        if get_origin(kind) is Literal and getattr(given, key, option.default) not in get_args(kind):
            raise unknown(f"--{key.replace('_', '-')} of {name}", vars(given)[key], get_args(kind))
    for key, known in (("schedule", SCHEDULES), ("precision", PRECISIONS), ("compile", COMPILE)):
        if getattr(given, key, known[0]) not in known:
            raise unknown(f"--{key}", vars(given)[key], known)
    if name is None and given.resume is None:
        raise UserError(f"no model: name one with --model, of {', '.join(MODELS)}")
    if given.resume is not None:
        extra = given.__dict__.keys() - {"model", "resume", "data_dir", "device", "steps"}
        if extra:
            raise UserError(
                f"{flag(min(extra))} cannot change on --resume, the run's config.json decides: leave it out"
            )
    if hasattr(given, "labelled"):
        if hasattr(given, "labels"):
            raise UserError("--labelled already says how many images are labelled: leave out --labels")
        if getattr(given, "validation", 0):
            raise UserError(
                "--labelled counts the images of the whole training set, and --validation takes some of them "
                "away: leave out --validation"
            )
    return given


def _model_of(arguments: list[str]) -> str | None:
    """The model whose options are given: the one that is named, or the prior of a finished run."""
    first = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for flag in ("--model", "--from", "--prior"):
        first.add_argument(flag)
    named = vars(first.parse_known_args(arguments)[0])
    model, prior = named.get("model"), named.get("prior")
    if model is not None and model not in MODELS:
        raise unknown("model", model, MODELS)
    if prior is not None and prior not in PRIORS:
        raise unknown("--prior", prior, PRIORS)
    if "from" in named:
        if prior is None or model is not None:
            raise UserError("--from takes a finished run, --prior NAME and the prior's options, no --model")
        return f"code_{prior}"
    if prior is not None and (model is None or prior not in MODELS[model].code_priors):
        having = " or ".join(key for key, cls in MODELS.items() if cls.code_priors)
        raise UserError(f"--prior goes with --model {having}, or with --from RUN_DIR: leave it out")
    return model


def _parser(name: str | None) -> Parser:
    cls = MODELS[name] if name else LatentVariableModel
    listed = "\n".join(f"  {key:10} {_title(model)}" for key, model in MODELS.items())
    parser = Parser(
        prog="python -m inference.svi",
        argument_default=argparse.SUPPRESS,
        description=f"Train {name or 'a model'} by stochastic variational inference.",
        epilog=None if name else f"models:\n{listed}\n\n--model NAME --help shows that model's own options.",
    )
    default = _defaults(cls, name)
    estimators = cls.estimators if name else tuple(ESTIMATORS)
    add = parser.add_argument
    add("--model", default=name, metavar="NAME", help="what to train" + ("" if name else ": see below"))
    add(
        "--data",
        metavar="NAME",
        help=_data_help(cls),
    )
    add("--data-dir", type=Path, metavar="DIR", help=f"where data sets are, or go (default: {DATA_DIR})")
    add("--steps", type=positive(int), metavar="N", help="training steps" + default("steps"))
    add("--batch-size", type=positive(int), metavar="N", help="images a step" + default("batch_size"))
    add("--lr", type=positive(float), metavar="RATE", help="Adam's learning rate" + default("lr"))
    add(
        "--schedule",
        metavar="NAME",
        help="of the learning rate: " + ", ".join(SCHEDULES) + default("schedule"),
    )
    at_most = "; a default is reduced to a quarter of --steps"
    about = "steps over which the learning rate climbs from zero" + at_most
    add("--lr-warmup", type=whole, metavar="N", help=about + default("lr_warmup"))
    about = "longest gradient, in the norm of all parameters' together; 0 clips none"
    add("--clip", type=clip, metavar="NORM", help=about + default("clip"))
    about = "decay of an exponential moving average of the parameters, which is what is judged; 0 takes none"
    add("--ema", type=share, metavar="DECAY", help=about + default("ema"))
    about = "of the networks while they train: " + ", ".join(PRECISIONS)
    add("--precision", metavar="NAME", help=about + default("precision"))
    about = f"how a step is taken: {', '.join(COMPILE)}; auto is what is over first"
    add("--compile", metavar="NAME", help=about + default("compile"))
    if not name or "beta" in cls.options():
        about = "steps over which beta grows from zero to what it is" + at_most
        add("--warmup", type=whole, metavar="N", help=about + default("warmup"))
    add("--elbo", metavar="NAME", help=f"estimator of the bound: {', '.join(estimators)}" + default("elbo"))
    if not name or any(ESTIMATORS[key].particles > 1 for key in estimators):
        usual = {key: ESTIMATORS[key].particles for key in estimators if ESTIMATORS[key].particles > 1}
        words = ", ".join(f"{number} with {key}" for key, number in usual.items())
        add("--particles", type=positive(int), metavar="K", help=f"samples an image (default: {words})")
    about = f"of a vqvae's codes, learned when it is trained, in a run beside: {', '.join(PRIORS)}"
    add("--prior", metavar="NAME", help=about)
    about = "learn --prior on this finished run's codes; all other options are then the prior's"
    add("--from", type=Path, metavar="RUN_DIR", help=about)
    about = "share of the training set that is kept apart for validation, drawn by --seed"
    add("--validation", type=share, metavar="SHARE", help=about + default("validation"))
    if not name or "x_labelled" in cls.inputs:
        about = "text file of the labelled images, one training index per line (default: --seed draws them)"
        add("--labelled", type=Path, metavar="FILE", help=about)
    add("--seed", type=seed, metavar="N", help="decides every random draw (default: 0)")
    add("--device", metavar="NAME", help="auto, cpu or cuda (default: auto)")
    add("--run-dir", type=Path, metavar="DIR", help="the run's folder (default: runs/<model>/<when>-<seed>)")
    add(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN_DIR",
        help="go on with a run; only --steps may differ",
    )
    if name:
        own = parser.add_argument_group(f"options of {name}", _title(cls))
        for key, option in cls.options().items():
            kind, meaning = get_args(option.annotation)[:2]
            if get_origin(kind) is Literal:
                words = ", ".join(get_args(kind))
                own.add_argument(flag(key), metavar="NAME", help=f"{meaning}: {words}" + default(key))
            else:
                convert = weight if kind is float else size
                metavar = "N" if kind is int else "WEIGHT"
                own.add_argument(flag(key), type=convert, metavar=metavar, help=meaning + default(key))
    return parser


def _data_help(cls: type[LatentVariableModel]) -> str:
    """What --data may name, for a model or for any."""
    images = f"{', '.join(NAMES)}, or a .npz file of one's own (default: mnist, else digits)"
    plane = ", ".join(points.NAMES)
    if cls is LatentVariableModel:
        return f"{images}; of points {plane}"
    return f"{plane} (default: {cls.default_dataset})" if cls.observation == "points" else images


def _title(cls: type[LatentVariableModel]) -> str:
    """What a model is, in one line: the first of its file, or of its class if the file says nothing."""
    words = getattr(sys.modules.get(cls.__module__), "__doc__", None) or cls.__doc__ or ""
    return words.strip().partition("\n")[0]


def _defaults(cls: type[LatentVariableModel], name: str | None) -> Any:
    """A function from an option's key to the words that give its default; none where no model is named."""
    usual, small = defaults(cls, (1, 28, 28)), defaults(cls, (1, 8, 8))

    def words(key: str) -> str:
        if not name:
            return ""
        other = f"; {small[key]} on images of at most 16x16" if small[key] != usual[key] else ""
        return f" (default: {usual[key]}{other})"

    return words


def defaults(cls: type[LatentVariableModel], shape: tuple[int, ...]) -> dict[str, Any]:
    """Every training setting and model option with its default on images of that shape, by name."""
    settings = {"elbo": cls.estimators[0], **TRAINING, "seed": 0, "device": "auto", **cls.defaults}
    settings |= {key: option.default for key, option in cls.options().items()}
    return settings | (cls.small_image_defaults if math.prod(shape[1:]) <= SMALL else {})


def plain(value: Any) -> str:
    """A setting as one would type it: 0 for 0.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration read from a file, every value of it as the command line would have taken it.

    Raises UserError where the command line would refuse one, or where it is of another kind.
    """
    cls = MODELS[config["model"]]
    kinds = {"options": dict, "eval_every": int, "data": str, "data_dir": str, "checksum": str}
    for key, kind in kinds.items():
        if not isinstance(config[key], kind):
            raise UserError(f"{key} is {config[key]!r}")
    labelled = config.get("labelled", [])
    if not (isinstance(labelled, list) and all(type(index) is int for index in labelled)):
        raise UserError("labelled is not a list of whole numbers")
    if config["options"].keys() != cls.options().keys():
        raise UserError(f"options of {config['model']} are {', '.join(cls.options())}")
    names = (*TRAINING, "steps", "batch_size", "lr", "elbo", "particles", "seed", "device")
    settings = {key: config[key] for key in names if key in config} | config["options"]
    known = _parser(config["model"]).flags()
    for key, value in settings.items():
        if flag(key) not in known and value != {"particles": 1, **TRAINING}[key]:
            raise UserError(f"{key} is {value!r}, which {config['model']} does not take")
    arguments = [f"{flag(key)}={value}" for key, value in settings.items() if flag(key) in known]
    found = vars(parse(["--model", config["model"], *arguments]))
    if not found["steps"] >= config["eval_every"] >= 1:
        raise UserError(f"eval_every is {config['eval_every']}")
    config |= {key: found[key] for key in names if key in found}
    return config | {"options": {key: found[key] for key in config["options"]}}


def flag(key: str) -> str:
    """An option as one types it, from its name."""
    return "--" + key.replace("_", "-")


def eval_every(steps: int) -> int:
    """Steps between two measurements on the whole test set: twenty in a run."""
    return max(steps // 20, 1)


def check_warmup(config: dict[str, Any]) -> None:
    """Raise UserError if a run ends before its learning rate or its beta reaches the value asked for."""
    # The rate reaches it in the warm-up's last step, and beta in the step after the warm-up.
    least = {"lr_warmup": config["lr_warmup"], "warmup": config["warmup"] and config["warmup"] + 1}
    for key, steps in least.items():
        if config["steps"] < steps:
            found = f"{flag(key)} {config[key]} does not end within {config['steps']} steps"
            raise UserError(f"{found}: give --steps {steps} or more, or a shorter {flag(key)}")


def configuration(given: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """The whole configuration of a new run: what was given, and defaults that suit the data.

    A model's default warm-ups are reduced to a quarter of the steps. Raises UserError if a given warm-up
    does not end within the steps.
    """
    cls = MODELS[given.model]
    settings = defaults(cls, data.shape)
    settings |= {key: value for key, value in vars(given).items() if key in settings}
    for key in ("lr_warmup", "warmup"):
        if not hasattr(given, key):
            settings[key] = min(settings[key], settings["steps"] // 4)
    settings["particles"] = getattr(given, "particles", ESTIMATORS[settings["elbo"]].particles)
    if settings["compile"] == "auto":  # decided here once, and recorded
        settings["compile"] = default_mode(settings["steps"])
    if ESTIMATORS[settings["elbo"]].particles > 1 and not hasattr(given, "warmup"):
        settings["warmup"] = 0  # which takes no weights
    check_warmup(settings)
    labelled: dict[str, Any] = {"labelled_file": None} if "x_labelled" in cls.inputs else {}
    if hasattr(given, "labelled"):
        indices = read_indices(given.labelled)
        settings["labels"] = len(indices)
        labelled = {"labelled_file": given.labelled.name, "labelled": indices}
    return {
        "model": given.model,
        "data": data.name,
        "data_dir": str(getattr(given, "data_dir", DATA_DIR).resolve()),
        "checksum": data.checksum(),
        "shape": list(data.shape),
        "classes": data.classes,
        "scale": data.scale,
        "pixels": OBSERVATIONS[cls.observation_of(data.shape)].label,
        "options": {key: settings.pop(key) for key in cls.options()},
        **settings,
        **labelled,
        "eval_every": eval_every(settings["steps"]),
    }
