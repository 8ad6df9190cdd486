"""Validation of the files of a run folder: every value is checked once, when it is read.

A run folder may come from a stranger, or from another version of this project. A value of a wrong type, NaN,
infinity and deep nesting mean that the file is damaged. A missing key means that another version wrote the
run, and the message names that version.
"""

import json
import math
import re
import reprlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from inference.elbo.estimators import ESTIMATORS
from inference.errors import UserError
from inference.rundir.config import TrainConfig
from inference.rundir.kinds import (
    COUNT,
    DIMENSIONS,
    NOT_NEGATIVE,
    NUMBER,
    OBJECT,
    TEXT,
    TEXTS,
    WHOLE,
    Kind,
    one_of,
)
from inference.rundir.kinds import METRIC as METRIC_NAME
from inference.rundir.run_config import RENAMED, REQUIRED, RunConfig, upgraded
from ppl_models import MODELS

# The layout of a run folder, `format` in config.json. Commits up to c2a7637 wrote no number; a run of theirs
# counts as 1 if it has all keys of ADDED, and as 0 if it does not. Format 3 renamed keys, see `upgraded`.
FORMAT = 3
ADDED = ("compile", "validation", "particles", "pixels", "shape", "classes")
MOST_JSON, MOST_METRICS = 2**22, 2**26  # bytes that are read of a JSON file and of metrics.jsonl
DEPTH = 20  # levels of nesting
LARGEST = 1e100  # of any number
NAME = 200  # characters in the name of a metric
COMMIT = re.compile(r"[0-9a-f]{7,64}(-modified)?")

LINE = {
    "step": WHOLE,
    "split": one_of(["train", "test", "validation"]),
    "seconds": NOT_NEGATIVE,
}  # of metrics.jsonl
RESULTS = {
    **dict.fromkeys(("model", "data", "device"), TEXT),
    **dict.fromkeys(("steps", "seed", "skipped"), WHOLE),
    **{"seconds": NOT_NEGATIVE, "config": OBJECT, "test": OBJECT},
}
RESULTS_OPTIONAL = {
    **{"validation": OBJECT, "independent": OBJECT, "active_units": NUMBER, "exact": OBJECT},
    **{"best": OBJECT, "stopped_early": WHOLE, "diagnostics": OBJECT, "ais": OBJECT},
}
BEST = {"metric": METRIC_NAME, "step": WHOLE, "value": NUMBER}
EXACT = {"images": WHOLE, "how": TEXT, "test": OBJECT}
DIAGNOSTICS = {
    **dict.fromkeys(("images", "aggregate_images", "simulations"), COUNT),
    **{"how": TEXT, "test": OBJECT, "dimensions": DIMENSIONS, "undefined": TEXTS},
}
AIS = {**dict.fromkeys(("images", "temperatures", "chains"), COUNT), "test": OBJECT, "simulated": OBJECT}
METRIC = {"value": NUMBER, "se": NOT_NEGATIVE, "mc_se": NOT_NEGATIVE}
METRICS_BEFORE = {"legible": "conditional_sample_accuracy"}  # renamed by format 3


def config(content: bytes, path: Path) -> RunConfig:
    """Parses config.json.

    Settings that the version that wrote the run did not have get the default that they have now.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        UserError: a value is wrong, or another version wrote the run and this version cannot read it.
    """
    written = parse(content, path)
    if not isinstance(written, dict) or not isinstance(written.get("model"), str):
        raise damaged(path, "it is not the configuration of a run")
    found, kinds = upgraded(written), _kinds()
    for key in kinds.keys() & found.keys():
        if not kinds[key].choices:
            check(found, key, kinds[key], path, key)
    layout = found.get("format", int(all(key in written for key in ADDED)))
    if layout > FORMAT:
        raise UserError(
            f"{path} has format {layout}, and this version reads formats up to {FORMAT}. {_advice(found)}"
        )
    older = {new: old for old, new in RENAMED.items()} if layout < 3 else {}
    for key in REQUIRED:
        if key not in found:
            raise other_version(f"{path} has no {older.get(key, key)!r}", found)
    if found["model"] not in MODELS:
        raise UserError(
            f"{path}: the model {found['model']!r:.50} is not registered. Name its class with "
            f"--model FILE.py:CLASS, or call ppl_models.register. For a model of the suite: {_advice(found)}"
        )
    usual = {spec.name: spec.metadata["default"] for spec in fields(TrainConfig)}
    lacks_option = bool(MODELS[found["model"]].options().keys() - found["options"].keys())
    lacks_setting = any(usual[key] is not None for key in usual.keys() - found.keys())
    older_writer = layout < 3 or lacks_setting or lacks_option
    known = {key: value for key, value in found.items() if key in kinds}
    try:
        return _checked(
            RunConfig(**{**usual, **known, "format": layout, "source": written if older_writer else None})
        )
    except UserError as error:
        raise other_version(f"{path} does not fit: {error!s:.300}", found) from None


def _kinds() -> dict[str, Kind]:
    return {spec.name: spec.metadata["kind"] for spec in fields(RunConfig) if spec.metadata}


def _checked(config: RunConfig) -> RunConfig:
    """Raises UserError if no command line gives such a configuration."""
    if config.elbo not in config.model_class.estimators:
        raise UserError(f"elbo is {config.elbo!r}")
    if config.kl_warmup and not config.model_class.has_kl_weight:
        raise UserError(f"kl_warmup is {config.kl_warmup}, and {config.model} has no KL weight")
    if ESTIMATORS[config.elbo].particles == 1 and config.particles != 1:
        raise UserError(f"particles is {config.particles}, and {config.elbo} supports one")
    if not (config.steps and config.eval_every and config.eval_every <= config.steps):
        raise UserError(f"eval_every is {config.eval_every}")
    return config


def metrics(content: bytes, path: Path, config: RunConfig) -> list[dict[str, Any]]:
    """Parses metrics.jsonl. A last line that a crash left half written is dropped.

    Args:
        content: of the file.
        path: of the file, for messages.
        config: of the run.

    Raises:
        UserError: a value is wrong; the message names the file, the line and the key.
    """
    lines = []
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        found, where = parse(line, path), f"line {number}"
        if not isinstance(found, dict):
            raise damaged(path, f"{where} is not an object")
        for key, kind in LINE.items():
            if key not in found:
                raise other_version(f"{path}: {where} has no {key!r}", config)
            check(found, key, kind, path, f"{where}, {key}")
        for key in found.keys() - LINE.keys():
            if len(key) > NAME:
                raise damaged(path, f"{where} has a name of {len(key)} characters")
            check(found, key, NUMBER, path, f"{where}, {key!r}")
        lines.append(found)
    return lines


def results(content: bytes, path: Path, config: RunConfig) -> dict[str, Any]:
    """Parses results.json.

    Args:
        content: of the file.
        path: of the file, for messages.
        config: of the run.

    Raises:
        UserError: a value is wrong; the message names the file and the key.
    """
    found = parse(content, path)
    if not isinstance(found, dict):
        raise damaged(path, "it is not an object")
    for key, kind in RESULTS.items():
        if key not in found:
            raise other_version(f"{path} has no {key!r}", config)
        check(found, key, kind, path, key)
    for key in RESULTS_OPTIONAL.keys() & found.keys():
        check(found, key, RESULTS_OPTIONAL[key], path, key)
    if found["model"] != config.model:
        raise damaged(path, f"model is {found['model']!r:.50}, and config.json has {config.model}")
    for part in ("test", "validation", "independent"):
        _check_metrics(found.get(part, {}), path, part)
    parts = {"exact": EXACT, "best": BEST, "diagnostics": DIAGNOSTICS, "ais": AIS}
    for part, keys in parts.items():
        for key, kind in keys.items() if part in found else ():
            if key not in found[part]:
                raise other_version(f"{path}: {part} has no {key!r}", config)
            check(found[part], key, kind, path, f"{part}.{key}")
    if "exact" in found:
        _check_metrics(found["exact"]["test"], path, "exact.test")
        _check_metrics(found["exact"].get("mean_field", {}), path, "exact.mean_field")
    if "diagnostics" in found:
        _check_metrics(found["diagnostics"]["test"], path, "diagnostics.test")
    if "ais" in found:
        _check_metrics(found["ais"]["test"], path, "ais.test")
        _check_metrics(found["ais"]["simulated"], path, "ais.simulated")
    return upgraded_results(found)


def upgraded_results(found: dict[str, Any]) -> dict[str, Any]:
    """Renames the keys of results that format 2 or an older one wrote."""
    parts = {"config": upgraded(found["config"])}
    for part in ("test", "validation"):
        if part in found:
            parts[part] = {METRICS_BEFORE.get(name, name): metric for name, metric in found[part].items()}
    return upgraded(found) | parts


def _check_metrics(metrics: Any, path: Path, where: str) -> None:
    if not isinstance(metrics, dict):
        raise damaged(path, f"{where} is not an object")
    for name, metric in metrics.items():
        if len(name) > NAME or not isinstance(metric, dict) or "value" not in metric:
            raise damaged(path, f"{where}.{name!r:.50} is not a metric with a value")
        for key in metric:
            if key not in METRIC:
                raise damaged(path, f"{where}.{name!r:.50} has {key!r:.50}, which is not part of a metric")
            check(metric, key, METRIC[key], path, f"{where}.{name!r:.50}.{key}")


def parse(content: bytes, path: Path) -> Any:
    """Parses JSON. Raises UserError if invalid, deeply nested, or has NaN, infinity or huge numbers."""
    try:
        found = json.loads(
            content.decode(), parse_constant=_not_finite, parse_float=_float, parse_int=_whole_number
        )
    except RecursionError:
        raise damaged(path, "it is nested too deeply") from None
    except ValueError as error:
        raise damaged(path, str(error)[:100] or "it is not JSON") from None
    level = [found]
    for _ in range(DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise damaged(path, "it is nested too deeply")
    return found


def _not_finite(text: str) -> float:
    raise ValueError(f"it holds {text}, which is not JSON")


def _float(text: str) -> float:
    if not math.isfinite(float(text)) or abs(float(text)) > LARGEST:
        raise ValueError(f"{text[:20]} is too large a number")
    return float(text)


def _whole_number(text: str) -> int:
    if len(text) > 17:  # more digits than a float holds
        raise ValueError(f"{text[:20]} is too large a number")
    return int(text)


def check(of: dict[str, Any], key: str, kind: Kind, path: Path, where: str) -> None:
    """Raises UserError with the file and `where` in it if a value is not of its kind."""
    if not kind.fits(of[key]):
        raise damaged(path, f"{where:.150} is {reprlib.repr(of[key])}, not {kind.words}")


def damaged(path: Path, why: str) -> UserError:
    """The UserError for a file that no version of this project can have written."""
    return UserError(f"{path} is damaged: {why}. Restore the file from a copy.")


def other_version(what: str, config: RunConfig | dict[str, Any]) -> UserError:
    """The UserError for a run that this version cannot read; it names the version that can."""
    return UserError(f"{what}. {_advice(config)}")


def _advice(config: RunConfig | dict[str, Any]) -> str:
    commit = config.get("commit") if isinstance(config, dict) else config.commit
    if isinstance(commit, str) and COMMIT.fullmatch(commit):
        return f"Commit {commit} wrote this run, and that version can read it: keep the run, check it out."
    return "Another version of this project wrote this run, and that version can read it: keep the run."
