"""`--config FILE`: settings from a run's config.json, or from a YAML or TOML file."""

import json
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inference.backend.files import read_regular
from inference.errors import UserError, unknown
from inference.rundir.config import TrainConfig, flag
from inference.rundir.run_config import RunConfig, upgraded
from inference.rundir.schema import MOST_JSON
from ppl_models import MODELS

# What config.json records, and what a new run finds out by itself.
RECORDED = {spec.name for spec in fields(RunConfig)} - {spec.name for spec in fields(TrainConfig)}
RECORDED |= {"eval_every"}
RECORDED -= {"model", "options", "data", "data_dir", "device", "validation", "init_from"}


def arguments_of(arguments: list[str]) -> list[str]:
    """Replaces --config FILE by the options that the file gives, before the other options.

    Args:
        arguments: of the command line. Later options win, so that they override the file's.

    Raises:
        UserError: the file cannot be read, or has an unknown setting.
    """
    rest, files = [], []
    values = iter(arguments)
    for argument in values:
        option, equals, value = argument.partition("=")
        if option == "--config":
            files.append(Path(value if equals else next(values, "")))
        else:
            rest.append(argument)
    if not files:
        return arguments
    if len(files) > 1:
        raise UserError("--config is given twice: give one file")
    return [*_options(_read(files[0]), files[0], rest), *rest]


def _options(settings: dict[str, Any], path: Path, rest: list[str]) -> list[str]:
    """The command-line options of the settings in a file."""
    settings = upgraded(settings)
    text = settings.get("vocabulary")
    if isinstance(text, dict) and not any(argument.partition("=")[0] == "--data" for argument in rest):
        settings |= {"tokens": text.get("unit"), "max_length": text.get("length")}
    settings |= settings.pop("options", None) or {}
    given = _given_model(rest)
    model = given or settings.get("model")
    known = {spec.name for spec in fields(TrainConfig) if spec.metadata["command_line"]}
    known |= {"model", "data", "data_dir", "device", "validation", "init_from", "tokens", "max_length"}
    known |= set(MODELS[model].options()) if model in MODELS else set()
    neutral = {"particles": 1, "kl_warmup": 0}  # config.json has them also if they do not apply
    found = []
    for key, value in settings.items():
        if key in RECORDED or value is None or value == neutral.get(key) or (key == "model" and given):
            continue
        if key not in known:
            raise unknown(f"setting in {path}", key, sorted(known))
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise UserError(f"{path}: {key} is {value!r:.50}. Give a number or text.")
        found.append(f"{flag(key)}={value}")
    return found


def _given_model(arguments: list[str]) -> str | None:
    """The value of --model on the command line."""
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--model":
            return value if equals else "".join(arguments[i + 1 : i + 2])
    return None


def _read(path: Path) -> dict[str, Any]:
    """The settings in a JSON, YAML or TOML file."""
    try:
        text = read_regular(path, MOST_JSON).decode()
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror or error}). Name another with --config."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text. Name a JSON, YAML or TOML file.") from None
    try:
        content = _parse(text, path.suffix.lower())
    except ValueError as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"{path} cannot be parsed: {reason:.200}. Correct the file.") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} is not a table of settings. Write one `name: value` per line.")
    return content


def _parse(text: str, suffix: str) -> Any:
    """Raises ValueError if the text is not valid."""
    if suffix == ".json":
        return json.loads(text)
    if suffix == ".toml":
        if not find_spec("tomllib"):
            raise ValueError("Python 3.10 has no TOML parser, use YAML or JSON")
        return import_module("tomllib").loads(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
