"""Training, evaluation and comparison of the models of `ppl_models`: the public API.

    >>> from inference import TrainConfig, compare, evaluate, fit, load

`fit` trains a model, `evaluate` measures it, `compare` checks its hand-derived bound against Pyro, and `load`
reads a saved model or a run folder. `sample`, `encode` and `score` give samples of a trained model, the
latents of data and a bound per data point, and `diagnose` measures the guide. Each command
`python -m inference.NAME` calls these functions.
"""

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.api import compare, evaluate, load
    from inference.apply import diagnose, encode, sample, score
    from inference.fitting import fit
    from inference.rundir.config import TrainConfig
    from inference.training.callbacks import Callback, History

__all__ = [
    "Callback",
    "History",
    "TrainConfig",
    "compare",
    "diagnose",
    "encode",
    "evaluate",
    "fit",
    "load",
    "sample",
    "score",
]

_MODULES = {"Callback": "inference.training.callbacks", "History": "inference.training.callbacks"}
_MODULES |= dict.fromkeys(("diagnose", "encode", "sample", "score"), "inference.apply")
_MODULES |= {"TrainConfig": "inference.rundir.config", "fit": "inference.fitting"}


def _warn_of_namesakes(folder: Path) -> None:
    """Warns of other distributions in a folder that have a package `inference` too."""
    for found in sorted(folder.glob("inference*-*.dist-info")):
        name, _, _ = found.name.partition("-")
        files = found / "RECORD"
        if not files.is_file() or "\ninference/" not in "\n" + files.read_text(encoding="utf-8"):
            continue
        warnings.warn(
            f"the distribution {name} has a package `inference` too, and one replaces files of the other. "
            "Install ppl-models in an environment without it.",
            RuntimeWarning,
            stacklevel=2,
        )


_warn_of_namesakes(Path(__file__).parents[1])


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: a command can install its Ctrl-C handler before torch."""
    if name not in __all__:
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "inference.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
