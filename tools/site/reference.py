"""Pages of the API reference, which Sphinx fills from the docstrings."""

import pkgutil
from collections.abc import Iterable

import ppl_models
import ppl_models.distributions
import ppl_models.nets
from ppl_models import MODELS

INTRODUCTION = """# API reference

Everything here is made from the docstrings. *[source]* next to a name shows its code.

* [inference](inference.md): train, evaluate, compare, load, sample, encode, score, diagnose.
* [Settings and callbacks](training.md): `TrainConfig`, `History`, `Callback`.
* [Data](data.md): `load_dataset`, `Dataset`, and how to add a type of file or of observation.
* [The contract of a model](model.md): `LatentVariableModel`, `ELBOTerms`, `register`, checks.
* [Models](models.md): the classes and their options.
* [Densities](densities.md): log densities and KL divergences, by hand.
* [Distributions](distributions.md) and [networks](networks.md) that the models use.
"""


def reference_pages() -> dict[str, str]:
    """Returns the pages of the API reference by their place on the site."""
    functions = ("fit", "evaluate", "compare", "load", "sample", "encode", "score", "diagnose")
    results = ("api.Metric", "elbo.comparison.Comparison", "apply.Encoded", "errors.UserError")
    suite = [cls for cls in MODELS.values() if cls.__module__.startswith("ppl_models.")]
    pages = {
        "inference": (
            "inference",
            [f"autofunction:: inference.{name}" for name in functions]
            + [f"autoclass:: inference.{name}" for name in results],
        ),
        "training": (
            "Settings and callbacks",
            [
                f"autoclass:: inference.{name}\n   :members:"
                for name in ("TrainConfig", "History", "Callback")
            ],
        ),
        "data": (
            "Data",
            [
                "autofunction:: inference.data.load_dataset",
                "autoclass:: inference.data.Dataset\n   :members:",
                "autoclass:: inference.data.DataKind\n   :members:",
                "autoclass:: inference.data.ObservationKind\n   :members:",
                "autofunction:: inference.data.register_observation",
            ],
        ),
        "model": (
            "The contract of a model",
            [
                "autoclass:: ppl_models.LatentVariableModel\n   :members:\n   :inherited-members: Module",
                "autoclass:: ppl_models.ELBOTerms\n   :members:",
                "autofunction:: ppl_models.register",
                "data:: ppl_models.MODELS\n\n   The classes of all models by name, with registered ones.",
                "autofunction:: ppl_models.from_saved",
                "autofunction:: inference.testing.check_model",
            ],
        ),
        "models": ("Models", [f"autoclass:: ppl_models.{cls.__name__}" for cls in suite]),
        "densities": ("Densities", ["automodule:: ppl_models.densities\n   :members:"]),
        "distributions": ("Distributions", _modules(ppl_models.distributions)),
        "networks": ("Networks", _modules(ppl_models.nets)),
    }
    found = {f"reference/{name}.md": _page(title, parts) for name, (title, parts) in pages.items()}
    return found | {"reference/index.md": INTRODUCTION}


def _modules(package: object) -> list[str]:
    """Returns directives for all modules of a package."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))  # type: ignore[attr-defined]
    prefix = package.__name__  # type: ignore[attr-defined]
    return [f"automodule:: {prefix}.{name}\n   :members:" for name in names]


def _page(title: str, directives: Iterable[str]) -> str:
    body = "\n\n".join(f".. {directive}" for directive in directives)
    return f"# {title}\n\n```{{eval-rst}}\n{body}\n```\n"
