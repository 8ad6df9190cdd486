"""What the files of a run folder must hold: every value is checked once, here, when it is read.

A run folder may come from a stranger, or from another version of this project. A value of a wrong type, NaN,
Infinity and deep nesting are damage. A missing key means that another version wrote the run, and the message
says which one.
"""

import json
import math
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from inference.cli.options import TRAINING, checked
from inference.errors import UserError
from ppl_models import MODELS

# The layout of a run folder, `format` in config.json. Commits up to c2a7637 wrote no number; a run of theirs
# counts as 1 if it has all keys of ADDED, and as 0 if it does not.
FORMAT = 2
ADDED = ("compile", "validation", "particles", "pixels", "shape", "classes")
MOST_JSON, MOST_METRICS = 2**22, 2**26  # bytes that are read of a JSON file and of metrics.jsonl
DEPTH = 20  # levels of nesting
LARGEST = 1e100  # of any number
NAME = 200  # characters in the name of a metric
SPLITS = ("train", "test", "validation")  # of the lines of metrics.jsonl
COMMIT = re.compile(r"[0-9a-f]{7,64}(-modified)?")


class Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


TEXT = Kind("text", lambda value: isinstance(value, str))
TEXT_OR_NONE = Kind("text or null", lambda value: value is None or isinstance(value, str))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
NUMBER = Kind("a number", _is_number)
NOT_NEGATIVE = Kind("a number, zero or more", lambda value: _is_number(value) and value >= 0)
POSITIVE = Kind("a number above zero", lambda value: _is_number(value) and value > 0)
WHOLE = Kind("a whole number, zero or more", _is_whole)
WHOLE_OR_NONE = Kind("a whole number or null", lambda value: value is None or _is_whole(value))
ONE_OR_MORE = Kind("a whole number above zero", lambda value: _is_whole(value, 1))
SPLIT = Kind(f"one of {', '.join(SPLITS)}", lambda value: isinstance(value, str) and value in SPLITS)
CLASSES = Kind("a whole number up to 100000", lambda value: _is_whole(value) and value <= 100_000)
SHAPE = Kind(
    "one to three whole numbers above zero",
    lambda value: isinstance(value, list) and 1 <= len(value) <= 3 and all(_is_whole(n, 1) for n in value),
)
INDICES = Kind(
    "a list of whole numbers",
    lambda value: isinstance(value, list) and all(_is_whole(index) for index in value),
)
TEXTS = Kind(
    "an object of texts",
    lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
)

CONFIG = {
    **dict.fromkeys(("model", "data", "data_dir", "checksum", "pixels", "elbo", "device"), TEXT),
    **dict.fromkeys(("eval_every", "steps", "batch_size", "particles"), ONE_OR_MORE),
    **{"options": OBJECT, "lr": POSITIVE, "seed": WHOLE},
}
CONFIG_OPTIONAL = {
    **{"format": WHOLE, "shape": SHAPE, "classes": CLASSES, "labelled": INDICES, "versions": TEXTS},
    **dict.fromkeys(("lr_warmup", "warmup", "threads", "processes"), WHOLE),
    **dict.fromkeys(("clip", "ema", "validation"), NOT_NEGATIVE),
    **dict.fromkeys(("schedule", "precision", "compile", "command", "platform", "from"), TEXT),
    **dict.fromkeys(("gpu", "commit", "labelled_file"), TEXT_OR_NONE),
    **{"scale": WHOLE_OR_NONE},
}
LINE = {"step": WHOLE, "split": SPLIT, "seconds": NOT_NEGATIVE}
RESULTS = {
    **dict.fromkeys(("model", "data", "pixels", "device"), TEXT),
    **dict.fromkeys(("steps", "seed", "skipped"), WHOLE),
    **{"seconds": NOT_NEGATIVE, "config": OBJECT, "test": OBJECT},
}
RESULTS_OPTIONAL = {"validation": OBJECT, "independent": OBJECT, "active_units": NUMBER, "exact": OBJECT}
EXACT = {"images": WHOLE, "how": TEXT, "test": OBJECT}
FIGURE, FIGURE_OPTIONAL = {"value": NUMBER}, {"se": NOT_NEGATIVE, "mc_se": NOT_NEGATIVE}


def config(content: bytes, path: Path) -> dict[str, Any]:
    """The configuration in config.json, with the defaults of settings that older versions did not have.

    Raises UserError with the file and the key if a value is wrong, or if a version wrote it whose runs this
    version cannot read.
    """
    found = parse(content, path)
    if not isinstance(found, dict) or "model" not in found:
        raise damaged(path, "it is not the configuration of a run")
    known = CONFIG | CONFIG_OPTIONAL
    for key in known.keys() & found.keys():
        check(found, key, known[key], path, key)
    if found.get("format", 1) > FORMAT:
        raise UserError(
            f"{path} has format {found['format']}, and this version reads formats up to {FORMAT}. "
            f"{_advice(found)}"
        )
    for key in CONFIG:
        if key not in found:
            raise other_version(f"{path} has no {key!r}", found)
    if found["model"] not in MODELS:
        raise other_version(f"{path}: there is no model {found['model']!r:.50} here", found)
    cls = MODELS[found["model"]]
    if found["options"].keys() != cls.options().keys():
        raise other_version(
            f"{path} does not fit: options of {found['model']} are {', '.join(cls.options())}", found
        )
    layout = format_of(found)
    try:
        found = checked(TRAINING | found)
    except UserError as error:
        raise other_version(f"{path} does not fit: {error!s:.300}", found) from None
    return found if layout else found | {"format": 0}


def format_of(config: dict[str, Any]) -> int:
    """The layout of a run folder: its `format`, or what the keys of its configuration say."""
    return config.get("format", int(all(key in config for key in ADDED)))


def metrics(content: bytes, path: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a crash left half written is left out.

    Raises UserError with the file, the line and the key if a value is wrong.
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


def results(content: bytes, path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The figures in results.json. Raises UserError with the file and the key if a value is wrong."""
    found = parse(content, path)
    if not isinstance(found, dict):
        raise damaged(path, "it is not an object")
    for key, kind in RESULTS.items():
        if key not in found:
            raise other_version(f"{path} has no {key!r}", config)
        check(found, key, kind, path, key)
    for key in RESULTS_OPTIONAL.keys() & found.keys():
        check(found, key, RESULTS_OPTIONAL[key], path, key)
    if found["model"] != config["model"]:
        raise damaged(path, f"model is {found['model']!r:.50}, and config.json says {config['model']}")
    for part in ("test", "validation", "independent"):
        _figures(found.get(part, {}), path, part)
    if "exact" in found:
        for key, kind in EXACT.items():
            if key not in found["exact"]:
                raise other_version(f"{path}: exact has no {key!r}", config)
            check(found["exact"], key, kind, path, f"exact.{key}")
        _figures(found["exact"]["test"], path, "exact.test")
        _figures(found["exact"].get("mean_field", {}), path, "exact.mean_field")
    return found


def _figures(figures: Any, path: Path, where: str) -> None:
    if not isinstance(figures, dict):
        raise damaged(path, f"{where} is not an object")
    for name, figure in figures.items():
        if len(name) > NAME or not isinstance(figure, dict) or "value" not in figure:
            raise damaged(path, f"{where}.{name!r:.50} is not a figure with a value")
        for key in figure:
            kind = (FIGURE | FIGURE_OPTIONAL).get(key)
            if kind is None:
                raise damaged(path, f"{where}.{name!r:.50} has {key!r:.50}, which is not part of a figure")
            check(figure, key, kind, path, f"{where}.{name!r:.50}.{key}")


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
    """Raise UserError with the file and `where` in it, if a value is not of its kind."""
    if not kind.fits(of[key]):
        raise damaged(path, f"{where:.150} is {reprlib.repr(of[key])}, not {kind.words}")


def damaged(path: Path, why: str) -> UserError:
    """The UserError for a file that no version of this project wrote so."""
    return UserError(f"{path} is damaged: {why}. Restore the file from a copy.")


def other_version(what: str, config: dict[str, Any]) -> UserError:
    """The UserError for a run that this version cannot read, and which version can."""
    return UserError(f"{what}. {_advice(config)}")


def _advice(config: dict[str, Any]) -> str:
    commit = config.get("commit")
    if isinstance(commit, str) and COMMIT.fullmatch(commit):
        return f"Commit {commit} wrote this run, and that version can read it: keep the run, check it out."
    return "Another version of this project wrote this run, and that version can read it: keep the run."
