"""The command line of `inference.svi`: generated from `TrainConfig` and from the models' constructors."""

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from inference.api import load
from inference.cli.config_file import arguments_of
from inference.cli.initial import weights_checksum
from inference.cli.parser import DATA_DIR, Parser
from inference.data import points
from inference.data.dataset import Dataset
from inference.data.labelled import choose_labelled, read_indices
from inference.data.load import IMAGE_SETS, find_dataset
from inference.data.observations import IMAGES, OBSERVATIONS, POINTS
from inference.elbo.estimators import ESTIMATORS
from inference.errors import UserError, unknown
from inference.rundir.config import TrainConfig, as_text, defaults, flag, option_kind
from inference.rundir.kinds import FRACTION, SIZE
from inference.rundir.run_config import RunConfig
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from ppl_models.registry import description

RENAMED = {"--warmup": "--kl-warmup", "--from": "--stage1-run", "--prior": "--code-prior"}
RENAMED_MODES = {"plain": "eager", "kernels": "inductor"}
ON_RESUME = ("model", "resume", "data_dir", "device", "steps", "json")  # options that go with --resume


def code_priors() -> list[str]:
    """Returns the priors that can be learned on the codes of a model, by name."""
    return list(dict.fromkeys(prior for model in MODELS.values() for prior in model.code_priors))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the options of `inference.svi`.

    An option that is not given is not in the namespace, except `model` and `resume`. --help prints and exits.

    Raises:
        UserError: an option is unknown, has a wrong value or does not go together with the others.
    """
    arguments = arguments_of(arguments)
    _refuse_renamed(arguments)
    name = _model_of(arguments)
    parser = build_parser(name)
    elsewhere = build_parser(None).flags() - parser.flags()
    for argument in arguments if name else ():
        typed = argument.partition("=")[0]
        others = [other for other, cls in MODELS.items() if typed in map(flag, cls.options())]
        if others and typed not in parser.flags():
            raise UserError(f"{typed} is an option of {', '.join(others)}, not of {name}: leave it out")
        if typed in elsewhere:
            raise UserError(f"{typed} does not apply to {name}: leave it out")
    given = parser.parse_args(arguments)
    if name:
        _check_choices(given, name)
    elif given.resume is None:
        raise UserError(f"no model is given. Name one with --model: {', '.join(MODELS)}")
    _check_combination(given)
    return given


def _refuse_renamed(arguments: list[str]) -> None:
    """Raises UserError for an option or a mode of an older version, with its new name."""
    for i, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in RENAMED:
            raise UserError(f"{option} is now {RENAMED[option]}")
        if option == "--compile":
            value = value or "".join(arguments[i + 1 : i + 2])
            if value in RENAMED_MODES:
                raise UserError(f"--compile {value} is now --compile {RENAMED_MODES[value]}")


def _check_choices(given: argparse.Namespace, name: str) -> None:
    """Raises UserError if the value of an option is not one of its names."""
    cls = MODELS[name]
    if hasattr(given, "elbo") and given.elbo not in cls.estimators:
        raise unknown(f"--elbo for {name}", given.elbo, cls.estimators)
    for key, option in cls.options().items():
        choices = option_kind(option.annotation)[0].choices
        if choices and getattr(given, key, option.default) not in choices:
            raise unknown(f"{flag(key)} of {name}", vars(given)[key], choices)
    for spec in fields(TrainConfig):
        choices = spec.metadata["kind"].choices
        if choices and spec.name != "elbo" and getattr(given, spec.name, choices[0]) not in choices:
            raise unknown(flag(spec.name), vars(given)[spec.name], choices)


def _check_combination(given: argparse.Namespace) -> None:
    """Raises UserError if options do not go together."""
    extra = vars(given).keys() - set(ON_RESUME)
    if given.resume is not None and extra:
        raise UserError(
            f"{flag(min(extra))} cannot change on --resume: config.json of the run decides. Leave it out."
        )
    if hasattr(given, "labelled"):
        if hasattr(given, "labels"):
            raise UserError("--labelled already says how many images are labelled: leave out --labels")
        if getattr(given, "validation", 0):
            raise UserError(
                "--labelled counts the images of the whole training set, and --validation takes some of them "
                "away: leave out --validation"
            )


def _model_of(arguments: list[str]) -> str | None:
    """The model whose options are given: the one that is named, or the prior of a finished run."""
    first = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for option in ("--model", "--stage1-run", "--code-prior"):
        first.add_argument(option)
    named = vars(first.parse_known_args(arguments)[0])
    model, prior = named.get("model"), named.get("code_prior")
    if model is not None and model not in MODELS:
        raise unknown("model", model, MODELS)
    if prior is not None and prior not in code_priors():
        raise unknown("--code-prior", prior, code_priors())
    if "stage1_run" in named:
        if prior is None or model is not None:
            raise UserError("--stage1-run needs --code-prior NAME and the prior's options, without --model")
        return f"code_{prior}"
    if prior is not None and (model is None or prior not in MODELS[model].code_priors):
        having = " or ".join(key for key, cls in MODELS.items() if cls.code_priors)
        raise UserError(f"--code-prior goes with --model {having} or with --stage1-run: leave it out")
    return model


def build_parser(name: str | None) -> Parser:
    """Builds the parser for a model, or for any model if the name is None."""
    cls = MODELS[name] if name else LatentVariableModel
    listed = "\n".join(f"  {key:10} {description(model)}" for key, model in MODELS.items())
    parser = Parser(
        prog="python -m inference.svi",
        argument_default=argparse.SUPPRESS,
        description=f"Train {name or 'a model'} by stochastic variational inference.",
        epilog=None if name else f"models:\n{listed}\n\n--model NAME --help shows that model's own options.",
    )
    about = "a model, or a class of your own as FILE.py:CLASS"
    parser.add_argument("--model", default=name, metavar="NAME", help=about)
    _add_data(parser, cls, bool(name))
    _add_settings(parser, cls, bool(name))
    _add_run(parser)
    if name:
        own, default = parser.add_argument_group(f"options of {name}", description(cls)), _default_of(cls)
        for key, option in cls.options().items():
            kind, about = option_kind(option.annotation)
            if kind.choices:
                words = f"{about}: {', '.join(kind.choices)}"
                own.add_argument(flag(key), metavar="NAME", help=words + default(key))
            else:
                metavar = "N" if kind.type is int else "WEIGHT"
                own.add_argument(flag(key), type=kind.parse, metavar=metavar, help=about + default(key))
    return parser


def _add_data(parser: Parser, cls: type[LatentVariableModel], named: bool) -> None:
    images = f"{', '.join(IMAGE_SETS)}, torchvision:NAME, a file (.npz, .npy, .csv, .tsv, .parquet, .txt), "
    images += "or a folder of images (default: mnist, else digits)"
    names = ", ".join(points.NAMES)
    kind = OBSERVATIONS[cls.observation].data
    about = images if kind is IMAGES else f"a file, as in {kind.default}"
    about = f"{names}, or a file (default: {cls.default_dataset})" if kind is POINTS else about
    about += "" if named else f"; points: {names}"
    add = parser.add_argument
    add("--data", metavar="NAME", help=about)
    add("--data-dir", type=Path, metavar="DIR", help=f"folder of data sets (default: {DATA_DIR})")
    about = "column of the labels in a table or a data set of Hugging Face"
    add("--label-column", metavar="NAME", help=about)
    about = "height and width to which the images of a folder are resized and cropped"
    add("--image-size", type=SIZE.parse, metavar="N", help=about)
    add("--tokens", metavar="UNIT", help="unit of the tokens in a .txt file: words (default), characters")
    about = "largest number of tokens of a line in a .txt file; longer lines are cut (default: 30 words, 100 "
    add("--max-length", type=SIZE.parse, metavar="N", help=about + "characters)")
    about = "fraction of the training set to hold out for validation, chosen by --seed"
    about += _default_of(cls)("validation") if named else ""
    add("--validation", type=FRACTION.parse, metavar="FRACTION", help=about)
    if not named or "x_labelled" in cls.inputs:
        about = "text file of the labelled images, one training index per line (default: chosen by --seed)"
        add("--labelled", type=Path, metavar="FILE", help=about)


def _add_settings(parser: Parser, cls: type[LatentVariableModel], named: bool) -> None:
    """Adds an option for each field of `TrainConfig` that applies to the model."""
    default = _default_of(cls) if named else lambda key: ""
    estimators = cls.estimators if named else tuple(ESTIMATORS)
    weighted = {key: ESTIMATORS[key].particles for key in estimators if ESTIMATORS[key].particles > 1}
    for spec in fields(TrainConfig):
        kind, about = spec.metadata["kind"], spec.metadata["about"] + default(spec.name)
        if not spec.metadata["command_line"] or (
            named
            and (
                (spec.name == "kl_warmup" and not cls.has_kl_weight)
                or (spec.name == "particles" and not weighted)
            )
        ):
            continue
        if spec.name == "elbo":
            about = f"estimator of the bound: {', '.join(estimators)}{default('elbo')}"
        if spec.name == "particles":
            usual = ", ".join(f"{number} with {key}" for key, number in weighted.items())
            about = f"samples per image (default: {usual})"
        if spec.name in ("lr_warmup", "kl_warmup"):
            about += "; a default is at most a quarter of --steps"
        convert = str if kind.choices else kind.parse
        parser.add_argument(flag(spec.name), type=convert, metavar=spec.metadata["metavar"], help=about)


def _add_run(parser: Parser) -> None:
    add = parser.add_argument
    add("--device", metavar="NAME", help="auto, cpu or cuda (default: auto)")
    add("--run-dir", type=Path, metavar="DIR", help="folder of the run (default: runs/<model>/<time>-<seed>)")
    about = "start from the weights of this run or saved model, of the same class and shapes, at step 0"
    add("--init-from", type=Path, metavar="RUN", help=about)
    add("--json", action="store_true", help="print the results as JSON; other output goes to stderr")
    about = "continue a run; only --steps, --device and --data-dir may change"
    add("--resume", type=Path, default=None, metavar="RUN_DIR", help=about)
    about = "settings from a run's config.json or from a YAML or TOML file; options on the command line win"
    add("--config", type=Path, metavar="FILE", help=about)
    about = f"train this prior of a vqvae's codes as well, in a run of its own: {', '.join(code_priors())}"
    add("--code-prior", metavar="NAME", help=about)
    about = "train --code-prior on the codes of this finished run; the other options are the prior's"
    add("--stage1-run", type=Path, metavar="RUN_DIR", help=about)


def _default_of(cls: type[LatentVariableModel]) -> Any:
    """Returns a function from a setting to the words that give its default."""
    usual, small = defaults(cls, (1, 28, 28)), defaults(cls, (1, 8, 8))

    def words(key: str) -> str:
        if usual[key] is None:
            return ""
        other = f"; {as_text(small[key])} on images of at most 16x16" if small[key] != usual[key] else ""
        return f" (default: {as_text(usual[key])}{other})"

    return words


def read_data(given: argparse.Namespace) -> tuple[Dataset, str | None]:
    """Loads the data set that the options name, see `find_dataset`.

    Raises:
        UserError: it cannot be read, or none is named and the model has no default.
    """
    cls, options = MODELS[given.model], vars(given)
    kind, name = OBSERVATIONS[cls.observation].data, options.get("data", cls.default_dataset)
    if name is None and kind is not IMAGES:
        message = f"{given.model} observes {kind.name} and has no default data set. Give {kind.default}."
        raise UserError(message)
    reading = {key: options.get(key) for key in ("label_column", "image_size", "tokens", "max_length")}
    return find_dataset(name, options.get("data_dir", DATA_DIR), cls, **reading)


def configuration(given: argparse.Namespace, data: Dataset) -> RunConfig:
    """Returns the configuration of a new run: the given options, and defaults that suit the data.

    Raises:
        UserError: the settings do not go together.
    """
    cls, options = MODELS[given.model], vars(given)
    settings = {spec.name: options[spec.name] for spec in fields(TrainConfig) if spec.name in options}
    train = TrainConfig(**settings).resolved(cls, data.shape)
    usual = defaults(cls, data.shape)
    if cls.values_option and data.vocabulary:
        usual |= {cls.values_option: len(data.vocabulary)}
    own = {key: options.get(key, usual[key]) for key in cls.options()}
    indices = read_indices(given.labelled) if "labelled" in options else None
    if indices is not None:
        own["labels"] = len(choose_labelled(data, len(indices), train.seed, indices))
    init = options.get("init_from")
    return RunConfig(
        **{spec.name: getattr(train, spec.name) for spec in fields(TrainConfig)},
        model=given.model,
        options=own,
        data=data.name,
        data_dir=str(options.get("data_dir", DATA_DIR).resolve()),
        checksum=data.checksum(),
        shape=list(data.shape),
        classes=data.classes,
        scale=data.scale,
        columns=asdict(data.columns) if data.columns else None,
        vocabulary=asdict(data.vocabulary) if data.vocabulary else None,
        label_column=options.get("label_column"),
        image_size=options.get("image_size"),
        class_names=data.names,
        observation=OBSERVATIONS[cls.observation_of(data.shape)].label,
        device=options.get("device", "auto"),
        validation=options.get("validation", usual["validation"]),
        init_from=str(init.resolve()) if init else None,
        init_checksum=weights_checksum(load(init)) if init else None,
        labelled=indices,
        labelled_file=given.labelled.name if indices is not None else None,
    )
