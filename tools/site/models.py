"""Pages of the models: docstring, diagram, trained sample, results next to references, and options."""

import inspect
from pathlib import Path
from typing import Any, get_args

import yaml

from inference.html.results import Results
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from ppl_models.registry import description
from tools import table

Links = dict[str, list[tuple[str, str]]]  # by source file: place and title of the pages that link to it


def model_pages(root: Path, links: Links) -> dict[str, str]:
    """Returns the page of each model of the suite, and their index, by their place on the site.

    Args:
        root: the repository.
        links: by source file, the pages that link to it.
    """
    about = yaml.safe_load((root / "docs" / "models.yaml").read_text("utf-8"))
    published = table.published(root / "runs" / "published")
    suite = {name: cls for name, cls in MODELS.items() if cls.__module__.startswith("ppl_models.")}
    lines = [
        "# Models\n",
        "Each model is one file with the generative process, the guide and the bound derived by hand. A page",
        "per model has its factorisation, its plate diagram, samples after training, results and options.\n",
        "| model | description |\n|---|---|",
    ]
    lines += [f"| [`{name}`]({name}.md) | {description(cls)} |" for name, cls in suite.items()]
    lines.append("\nAll [plate diagrams](../diagrams/index.md) on one page.\n")
    found = {"models/index.md": "\n".join(lines)}
    for name, cls in suite.items():
        runs = [run for run in published if run["model"] == name]
        found[f"models/{name}.md"] = model_page(name, cls, about[name], runs, links, root)
    return found


def model_page(
    name: str,
    cls: type[LatentVariableModel],
    about: dict[str, str],
    runs: list[Results],
    links: Links,
    root: Path,
) -> str:
    """Returns the page of a model in Markdown."""
    source = cls.__module__.replace(".", "/") + ".py"
    pages = [f"* [{title}](../{place})" for place, title in links.get(source, [])]
    parts = [
        f"# `{name}`\n\n{description(cls)}",
        f"Source: [`{cls.__name__}`](source:{source}#{cls.__name__}).",
        f"## What it is good for\n\n{about['good_for']}",
        f"## Factorisation\n\n```text\n{inspect.cleandoc(cls.__doc__ or '')}\n```",
        f"## Plate diagrams\n\n![Plate diagrams of {name}: model and guide](../diagrams/{name}.png)",
        f"## A trained sample\n\n{_sample(name, about, root)}",
        f"## Results\n\n{table.table(runs)}",
        "Means over seeds ± their standard deviation. [Results](../results.md) says how each is measured.",
        f"## Options\n\n{options(cls)}",
        "## Read on\n\n" + "\n".join([*pages, "* [API of all models](../reference/models.md)"]),
    ]
    return "\n\n".join(parts) + "\n"


def _sample(name: str, about: dict[str, str], root: Path) -> str:
    """Returns the picture or the text that a trained model sampled, and the command that trained it."""
    shown = f"![Samples of {name}](../{about['sample']})"
    if about["sample"].endswith(".txt"):
        shown = f"```text\n{(root / 'docs' / about['sample']).read_text('utf-8')}```"
    return f"{shown}\n\n{about['caption']}\n\n```\n{about['command']}\n```"


def options(cls: type[LatentVariableModel]) -> str:
    """Returns the table of a model's options: of the constructor, and the defaults of its training."""
    lines = ["| in Python | command line | default | |", "|---|---|---|---|"]
    for name, option in cls.options().items():
        flag = "--" + name.replace("_", "-")
        lines.append(f"| `{name}` | `{flag}` | `{option.default}` | {_help(option)} |")
    training = ", ".join(
        f"`{key}={value}`" for key, value in (LatentVariableModel.defaults | cls.defaults).items()
    )
    text = "\n".join(lines) if cls.options() else "The model has no options of its own."
    text += f"\n\nDefaults of training: {training}."
    if cls.small_image_defaults:
        small = ", ".join(f"`{key}={value}`" for key, value in cls.small_image_defaults.items())
        text += f" On images of at most 16 x 16 pixels: {small}."
    return text


def _help(option: inspect.Parameter) -> str:
    text: Any = get_args(option.annotation)[1]
    return str(text)
