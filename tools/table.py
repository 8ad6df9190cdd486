"""The tables of results, made from runs/published: one results.json a run, each under its own name.

python -m tools.table              print them
python -m tools.table --write      put them into README.md and docs/results.md, between their marks
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from inference.cli.options import TRAINING, Parser, defaults, plain
from inference.elbo.estimators import ESTIMATORS
from inference.errors import UserError, run_command
from inference.rundir.files import write_whole
from ppl_models import MODELS
from tools.references import REFERENCES

HERE = Path(__file__).parent.parent
ROOT = HERE if (HERE / "runs" / "published").is_dir() else Path()  # installed: the current directory
README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
SYSTEMS_MARKS = "<!-- systems: made by python -m tools.table --write -->", "<!-- end of systems -->"
MARKS = "<!-- results: made by python -m tools.table --write -->", "<!-- end of results -->"
LIKELIHOOD_MARKS = (
    "<!-- likelihoods: made by python -m tools.table --write -->",
    "<!-- end of likelihoods -->",
)


class Column(NamedTuple):
    """A figure of results.json, and how it is printed: times `factor`, with so many digits and a unit."""

    figure: str
    digits: int = 2
    factor: float = 1.0
    unit: str = ""


def percent(figure: str) -> Column:
    """A share, as a percentage."""
    return Column(figure, factor=100, unit=" %")


BOUNDS = {
    "-ELBO": Column("negative_elbo"),
    "reconstruction": Column("reconstruction"),
    "KL": Column("kl"),
    **{f"-IWAE-{m}": Column(f"iwae_{m}") for m in (1, 10, 100, 1000)},
    "k-hat above 0.7": percent("k_hat_above_0.7"),
    "-log p(x)": Column("negative_log_p"),
}
POINTS = {
    "-ELBO": Column("negative_elbo", 4),
    "reconstruction": Column("reconstruction", 4),
    "KL": Column("kl", 4),
    "-log p(x)": Column("negative_log_p", 4),
    "bits per dimension": Column("bits_per_dim", 4),
    "-ELBO, independent points": Column("independent_negative_elbo", 4),
    "active units": Column("active_units", 1),
}
ERRORS = {
    "mean squared error": Column("mean_squared_error", 4),
    "squared error": Column("squared_error"),
    "KL": Column("kl"),
    "of z1": Column("kl_z1"),
    "of z2": Column("kl_z2"),
    "squared error + KL": Column("squared_error_and_kl"),
    "-ELBO": Column("negative_elbo"),
}
DENSITIES = {
    "-ELBO": Column("negative_elbo"),
    "reconstruction": Column("reconstruction"),
    "KL": Column("kl"),
    "bits per dimension": Column("bits_per_dim", 3),
    "bits per dimension, validation": Column("validation_bits_per_dim", 3),
}
CODES = {
    "mean squared error": Column("mean_squared_error", 4),
    "loss": Column("loss", 4),
    "codes used": percent("usage"),
    "perplexity": Column("perplexity", 1),
    "nats per code": Column("nats_per_code", 3),
}
LABELS = {
    "accuracy": percent("accuracy"),
    **{f"probe, {n} labels": percent(f"probe_{n}") for n in (10, 100, 1000)},
    "generated images read as their class": percent("legible"),
    "classifier, real images": percent("classifier_accuracy"),
}
# What a system's one line in the README shows of its columns.
HEADLINES = {
    "Bounds": ("-ELBO", "-log p(x)"),
    "Squared errors": ("mean squared error", "squared error + KL"),
    "Densities": ("bits per dimension",),
    "Codes": ("loss", "nats per code"),
    "Points": ("-ELBO", "-log p(x)"),
    "Labels": ("accuracy", "generated images read as their class", "classifier, real images"),
}

Groups = dict[tuple[str, str], list[dict[str, Any]]]  # by system and data: its seeds


def main(arguments: list[str]) -> int:
    """Print the tables, or write them where they belong."""
    parser = Parser(prog="python -m tools.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write them into README.md and docs/results.md")
    results = published()
    if parser.parse_args(arguments).write:
        write_between(README, SYSTEMS_MARKS, systems(results))
        write_between(PAGE, MARKS, table(results))
        write_between(PAGE, LIKELIHOOD_MARKS, likelihoods(results))
    else:
        print(systems(results), table(results), likelihoods(results), sep="\n\n")
    return 0


def published(folder: Path = ROOT / "runs" / "published") -> list[dict[str, Any]]:
    """All published results. Raises UserError where there are none."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise UserError(
            f"no results in {folder}: run this in the project's folder, or copy a run's results.json to "
            f"{folder} under a name of its own"
        )
    return results


def system(result: dict[str, Any]) -> str:
    """What was trained: the model, and each option and setting that is not its default."""
    config = result["config"]
    usual = defaults(MODELS[config["model"]], tuple(config["shape"]))
    settings = {key: config[key] for key in ("elbo", "steps", "batch_size", "lr")}
    training = {key: usually for key, usually in TRAINING.items() if key != "compile"}  # how, and not what
    settings |= {key: config.get(key, usually) for key, usually in training.items()}
    if ESTIMATORS[config["elbo"]].particles > 1:
        settings |= {"particles": config["particles"]}
    settings |= config["options"]
    changed = [f"{key}={plain(value)}" for key, value in settings.items() if value != usual.get(key)]
    if config.get("labelled_file"):
        changed.append(f"labelled={config['labelled_file']}")
    return " ".join([config["model"], *changed])


def parts(results: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Column], Groups]]:
    """What is measured alike: a title, the columns, and the runs that have one of them, seeds together."""

    def seen(result: dict[str, Any]) -> str:
        return MODELS[result["model"]].observation_of(tuple(result["config"]["shape"]))

    binary = [result for result in results if seen(result) == "binary"]
    coded = [result for result in results if {"usage", "nats_per_code"} & result["test"].keys()]
    errors = [result for result in results if {"mean_squared_error", "squared_error"} & result["test"].keys()]
    grey = [result for result in errors if result not in coded]
    plane = [result for result in results if seen(result) == "points"]
    dense = [result for result in results if result not in [*binary, *grey, *coded, *plane]]
    found = [("Bounds", BOUNDS, binary), ("Squared errors", ERRORS, grey)]
    found += [("Densities", DENSITIES, dense), ("Codes", CODES, coded)]
    found += [("Points", POINTS, plane), ("Labels", LABELS, results)]
    for title, columns, runs in found:
        groups: Groups = defaultdict(list)
        for run in sorted(runs, key=lambda run: (list(MODELS).index(run["model"]), system(run))):
            if any(column.figure in run["test"] for column in columns.values()):
                groups[system(run), run["data"]].append(run)
        if groups:
            yield title, columns, groups


def table(results: list[dict[str, Any]]) -> str:
    """All tables, in Markdown: bounds, squared errors and densities of images, codes, points, and labels."""
    return "\n\n".join(rows(*part) for part in parts(results))


def systems(results: list[dict[str, Any]]) -> str:
    """One line a model, in Markdown: what it is, and its first run that has something to stand beside.

    Where no run of it has, its last: that is of what it is for.
    """
    shown: dict[str, tuple[str, str, str, str]] = {}
    for title, columns, groups in parts(results):
        for (name, data), runs in groups.items():
            model, beside = runs[0]["model"], REFERENCES.get(title, {}).get((name, data), "")
            cells = {column: _cell(runs, columns[column]) for column in HEADLINES[title]}
            measured = ", ".join(f"{column} {cell}" for column, cell in cells.items() if cell != "-")
            exact = runs[0].get("exact")
            if exact and exact["how"] == "closed form" and not beside:
                value, truth = (exact["test"][figure]["value"] for figure in ("iwae_1", "negative_log_p"))
                measured = f"-ELBO {value:.4f}, of {exact['images']} images"
                beside = f"-log p(x) of these, in closed form: {truth:.4f}"
            if measured and not (model in shown and shown[model][3]):
                shown[model] = name, data, measured, beside
    lines = ["| system | what it is | trained on | measured here | beside it |", "|---" * 5 + "|"]
    for model, cls in MODELS.items():
        if model in shown:
            what = (sys.modules[cls.__module__].__doc__ or "").splitlines()[0]
            name, data, *others = shown[model]
            data += f", `{name.partition(' ')[2]}`" if " " in name else ""
            lines.append(f"| `{model}` | {what.removesuffix('.')} | {data} | {' | '.join(others)} |")
    return "\n".join(lines)


def figures(run: dict[str, Any]) -> dict[str, float]:
    """Every figure of a run by name: of its test set, `validation_...`, `independent_...`, `active_units`."""
    found = {name: figure["value"] for name, figure in run["test"].items()}
    for part in ("validation", "independent"):
        found |= {f"{part}_{name}": figure["value"] for name, figure in run.get(part, {}).items()}
    return found | ({"active_units": run["active_units"]} if "active_units" in run else {})


def rows(title: str, columns: dict[str, Column], groups: Groups) -> str:
    """One table: a line a system, means over seeds ± their deviation; no column that none fills."""
    filled = {
        name: column
        for name, column in columns.items()
        if any(column.figure in figures(run) for runs in groups.values() for run in runs)
    }
    head = ["system", "data", "pixels", "seeds", *filled, "beside it"]
    lines = [f"**{title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (name, data), runs in groups.items():
        cells = [_cell(runs, column) for column in filled.values()]
        seeds = ", ".join(str(run["seed"]) for run in sorted(runs, key=lambda run: run["seed"]))
        pixels = runs[0]["pixels"].partition(":")[0]  # what comes after is how they were drawn
        beside = REFERENCES.get(title, {}).get((name, data), "")
        lines.append(f"| {' | '.join([f'`{name}`', data, pixels, seeds, *cells, beside])} |")
    return "\n".join(lines)


def likelihoods(results: list[dict[str, Any]]) -> str:
    """The runs whose log p(x) was worked out: bounds beside it, each with its Monte-Carlo error.

    A linear model has more: a line with the best mean-field guide for its W, and what else is known of it.
    """
    bounds, linear = [], []
    for run in sorted(results, key=lambda run: (list(MODELS).index(run["model"]), system(run), run["data"])):
        exact = run.get("exact", {"test": {}})
        test, name = exact["test"], f"`{system(run)}`"
        if test:
            bounds.append(_beside(name, run["data"], test, exact["how"]))
        if "gap" in test:
            short = (
                test["train_negative_log_p"]["value"]
                - test["train_negative_log_p_at_maximum_likelihood"]["value"]
            )
            spread = test["spread_with_exact_guide"]["value"]
            linear.append(f"| {name} | {run['data']} | {_gaps(test)} | {short:.1e} | {spread:.0e} |")
            if "mean_field" in exact and run["config"]["options"]["guide"] == "full":
                name, other = f"{name}, best mean-field guide for its W", test | exact["mean_field"]
                bounds.append(_beside(name, run["data"], other, exact["how"]))
                linear.append(f"| {name} | {run['data']} | {_gaps(other)} |  |  |")
    if not bounds:
        return ""
    head = ["system", "data", "-ELBO", "-IWAE-10", "-IWAE-100", "-IWAE-1000", "-log p(x)", "by"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *bounds]
    if linear:
        head = [
            *("system", "data", "log p(x) - ELBO", "KL(q, posterior) in closed form"),
            *("mean log p(x) of the training set below its maximum", "spread of log-weights, exact guide"),
        ]
        lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *linear]
    return "\n".join(lines)


def _beside(name: str, data: str, test: dict[str, Any], how: str) -> str:
    """A line of bounds, their Monte-Carlo errors, and log p(x)."""
    figures = [test[f"iwae_{m}"] for m in (1, 10, 100, 1000)]
    cells = [f"{figure['value']:.4f} ± {figure['mc_se']:.2g}" for figure in figures]
    return f"| {' | '.join([name, data, *cells, format(test['negative_log_p']['value'], '.4f'), how])} |"


def _gaps(test: dict[str, Any]) -> str:
    """What the ELBO lacks of log p(x), as measured and by its closed form."""
    return f"{test['iwae_1']['value'] - test['negative_log_p']['value']:.5f} | {test['gap']['value']:.5f}"


def _cell(runs: list[dict[str, Any]], column: Column) -> str:
    values = [figures(run)[column.figure] for run in runs if column.figure in figures(run)]
    if not values:
        return "-"
    words = f"{statistics.mean(values) * column.factor:.{column.digits}f}"
    if len(values) > 1:
        words += f" ± {statistics.stdev(values) * column.factor:.{column.digits}f}"
    return words + column.unit


def write_between(page: Path, marks: tuple[str, str], content: str) -> None:
    """Put `content` between two marks of a page. Raises UserError if the page or the marks are gone."""
    try:
        text = page.read_text()
    except OSError:
        raise UserError(f"cannot read {page}: run this in the project's folder") from None
    head, found, rest = text.partition(marks[0])
    _, ended, tail = rest.partition(marks[1])
    if not found or not ended:
        raise UserError(f"{page.name} has lost its marks: put back {marks[0]} and {marks[1]}")
    write_whole(page, f"{head}{marks[0]}\n{content}\n{marks[1]}{tail}".encode())


if __name__ == "__main__":
    run_command(main)
