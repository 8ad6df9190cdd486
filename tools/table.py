"""Makes the tables of results from runs/published, which has one results.json per run under its own name.

runs/published/diagnostics has what `inference.diagnose --pretrained NAME --data DATA --json` printed, and
runs/published/ais what `inference.exact --pretrained NAME --data DATA --ais T --json` printed.

python -m tools.table              print the tables
python -m tools.table --write      write them into README.md and docs/results.md, between their marks
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
import statistics
from pathlib import Path
from typing import Any

from inference.backend.files import write_whole
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError
from inference.html.results import (
    Column,
    Groups,
    Results,
    group_results,
    metric_values,
    sort_key,
    system_of,
)
from inference.metrics.bidirectional import agrees
from inference.rundir.schema import upgraded_results
from ppl_models import MODELS
from ppl_models.registry import description

HERE = Path(__file__).parent.parent
ROOT = HERE if (HERE / "runs" / "published").is_dir() else Path()  # installed: the current directory
README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
SYSTEMS_MARKS = "<!-- systems: made by python -m tools.table --write -->", "<!-- end of systems -->"
MARKS = "<!-- results: made by python -m tools.table --write -->", "<!-- end of results -->"
LIKELIHOOD_MARKS = (
    "<!-- likelihoods: made by python -m tools.table --write -->",
    "<!-- end of likelihoods -->",
)
DIAGNOSTIC_MARKS = (
    "<!-- diagnostics: made by python -m tools.table --write -->",
    "<!-- end of diagnostics -->",
)
AIS_MARKS = "<!-- ais: made by python -m tools.table --write -->", "<!-- end of ais -->"
# Metrics of the two tables of diagnostics, and the digits after the point.
GAPS = {
    "-ELBO": ("negative_elbo", 2),
    "-ELBO of the best guide": ("negative_elbo_optimized", 2),
    "-log p(x)": ("negative_log_p", 2),
    "amortisation gap": ("amortization_gap", 2),
    "approximation gap": ("approximation_gap", 2),
    "k-hat above 0.7": ("k_hat_above_0.7", 2),
    "same, best guide": ("k_hat_above_0.7_optimized", 2),
}
POSTERIOR = {
    "active dimensions": ("active_units", 0),
    "KL(q(z given x), p(z))": ("kl", 2),
    "mutual information": ("mutual_information", 2),
    "KL(q(z), p(z))": ("aggregate_kl", 2),
    "spread of the ranks": ("rank_spread", 3),
    "dimensions rejected": ("ranks_rejected", 0),
}
# Metrics of the two tables of annealed importance sampling, and their errors; the second one has all of them.
AIS = {
    "-IWAE-5000": ("iwae_5000", "se"),
    "-log p(x) by AIS": ("ais", "se"),
    "-IWAE-5000 minus AIS": ("ais_difference", "mc_se"),
}
REVERSE = {"-log p(x) by reverse AIS": ("ais_reverse", "se"), "AIS minus reverse AIS": ("ais_gap", "se")}
# Columns of each table that the line of a system in the README shows.
HEADLINES = {
    "Bounds": ("-ELBO", "-IWAE-5000", "-log p(x)"),
    "Squared errors": ("mean squared error", "squared error + KL"),
    "Densities": ("bits per dimension",),
    "Codes": ("loss", "nats per code"),
    "Texts": ("nats per token", "perplexity per token"),
    "Points": ("-ELBO", "-log p(x)"),
    "Labels": ("accuracy", "conditional sample accuracy", "classifier accuracy, real images"),
}


def main(arguments: list[str]) -> int:
    """Prints the tables, or writes them into the pages."""
    parser = Parser(prog="python -m tools.table", description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="write them into README.md and docs/results.md")
    action.add_argument("--json", action="store_true", help="print the published results as JSON")
    given, results = parser.parse_args(arguments), published()
    if given.json:
        print(json.dumps({"results": results}, indent=2))
    elif given.write:
        write_between(README, SYSTEMS_MARKS, systems(results))
        write_between(PAGE, MARKS, table(results))
        write_between(PAGE, LIKELIHOOD_MARKS, likelihoods(results))
        write_between(PAGE, DIAGNOSTIC_MARKS, diagnostics())
        write_between(PAGE, AIS_MARKS, annealed())
    else:
        parts = systems(results), table(results), likelihoods(results), diagnostics(), annealed()
        print(*parts, sep="\n\n")
    return 0


def published(folder: Path = ROOT / "runs" / "published") -> list[Results]:
    """Returns all published results. Raises UserError if there are none."""
    results = [upgraded_results(json.loads(path.read_bytes())) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise UserError(
            f"no results in {folder}. Run this in the project's folder, or copy the results.json of a run to "
            f"{folder} under its own name."
        )
    return results


def table(results: list[Results]) -> str:
    """Returns all tables in Markdown."""
    return "\n\n".join(rows(*group) for group in group_results(results))


def rows(title: str, columns: dict[str, Column], groups: Groups) -> str:
    """Returns one table in Markdown: a line per system, with means over seeds ± standard deviation.

    Leaves out columns without values.
    """
    values = [metric_values(run) for runs in groups.values() for run in runs]
    filled = {
        name: column for name, column in columns.items() if any(column.metric in found for found in values)
    }
    head = ["system", "data", "pixels", "seeds", *filled, "reference"]
    lines = [f"**{title}**", "", *_header(head)]
    for system, runs in groups.items():
        cells = [_cell(runs, column) for column in filled.values()]
        seeds = ", ".join(str(run["seed"]) for run in sorted(runs, key=lambda run: run["seed"]))
        pixels = runs[0]["observation"].partition(":")[0]  # without the description of the binarisation
        lines.append(_line(f"`{system.name}`", system.data, pixels, seeds, *cells, system.reference(title)))
    return "\n".join(lines)


def systems(results: list[Results]) -> str:
    """Returns the README's table in Markdown: one line per model, with one of its systems.

    That is the first system with a reference, or else the first of the last, most specific table.
    """
    shown: dict[str, tuple[str, str, str]] = {}
    tables: dict[str, str] = {}  # from which each line is
    for title, columns, groups in group_results(results):
        for system, runs in groups.items():
            reference = system.reference(title)
            cells = {column: _cell(runs, columns[column]) for column in HEADLINES[title]}
            measured = ", ".join(f"{column} {cell}" for column, cell in cells.items() if cell != "-")
            exact = runs[0].get("exact")
            if exact and exact["how"] == "closed form" and not reference:
                value, truth = (exact["test"][metric]["value"] for metric in ("iwae_1", "negative_log_p"))
                measured = f"-ELBO {value:.4f} on {exact['images']} images"
                reference = f"-log p(x) of the same images in closed form: {truth:.4f}"
            better = reference or tables.get(system.model) != title
            if measured and better and not (system.model in shown and shown[system.model][2]):
                settings = system.name.partition(" ")[2]
                data = system.data + (f", `{settings}`" if settings else "")
                shown[system.model], tables[system.model] = (data, measured, reference), title
    lines = _header(["system", "description", "trained on", "measured here", "reference"])
    for model, cls in MODELS.items():
        if model in shown:
            lines.append(_line(f"`{model}`", description(cls).removesuffix("."), *shown[model]))
    return "\n".join(lines)


def likelihoods(results: list[Results]) -> str:
    """Returns the table of runs whose log p(x) is known, in Markdown: bounds with Monte Carlo errors.

    Linear models have a second line, with the best mean-field guide for their W, and a second table.
    """
    bounds, linear = [], []
    for run in sorted(results, key=lambda run: (*sort_key(run), run["data"])):
        exact = run.get("exact", {"test": {}})
        test, name = exact["test"], f"`{system_of(run).name}`"
        if test:
            bounds.append(_bounds(name, run["data"], test, exact["how"]))
        if "gap" in test:
            maximum = test["train_negative_log_p_at_maximum_likelihood"]["value"]
            below = test["train_negative_log_p"]["value"] - maximum
            spread = test["spread_with_exact_guide"]["value"]
            linear.append(_line(name, run["data"], _gaps(test), f"{below:.1e}", f"{spread:.0e}"))
            if "mean_field" in exact and run["config"]["options"]["guide"] == "full":
                name, other = f"{name}, best mean-field guide for its W", test | exact["mean_field"]
                bounds.append(_bounds(name, run["data"], other, exact["how"]))
                linear.append(_line(name, run["data"], _gaps(other), "", ""))
    if not bounds:
        return ""
    head = ["system", "data", "-ELBO", "-IWAE-10", "-IWAE-100", "-IWAE-1000", "-log p(x)", "method"]
    lines = [*_header(head), *bounds]
    if linear:
        head = [
            *("system", "data", "log p(x) - ELBO", "KL(q, posterior) in closed form"),
            *("mean log p(x) of the training set below its maximum", "spread of log-weights, exact guide"),
        ]
        lines += ["", *_header(head), *linear]
    return "\n".join(lines)


def diagnostics(folder: Path = ROOT / "runs" / "published" / "diagnostics") -> str:
    """Returns two tables of the diagnosed pretrained models in Markdown, with standard errors over images."""
    found = {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))}
    tables = []
    for columns, counted in ((GAPS, ("images",)), (POSTERIOR, ("aggregate_images", "simulations"))):
        lines = _header(["model", *(name.replace("_", " ") for name in counted), *columns])
        for model, run in found.items():
            cells = [_measured(run["test"], *column) for column in columns.values()]
            lines.append(_line(f"`{model}`", *(str(run[name]) for name in counted), *cells))
        tables.append("\n".join(lines))
    methods = [f"log p(x) of `{model}`: {run['how']}." for model, run in found.items()]
    return "\n\n".join([*tables, "\n".join(methods)])


def annealed(folder: Path = ROOT / "runs" / "published" / "ais") -> str:
    """Returns tables of the bounds checked by annealed importance sampling, of test and simulated images."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    counted = ("images", "temperatures", "chains")
    tables = [
        _header(["model", *counted, *(f"{name}, test" for name in AIS), "agree"]),
        _header(["model", *(f"{name}, simulated" for name in AIS | REVERSE)]),
    ]
    for model, run in found.items():
        test, simulated = (
            [_measured(run[part], name, 3, error) for name, error in columns.values()]
            for part, columns in (("test", AIS), ("simulated", AIS | REVERSE))
        )
        counts = [str(run[name]) for name in counted]
        tables[0].append(_line(f"`{model}`", *counts, *test, "yes" if agrees(run["test"]) else "no"))
        tables[1].append(_line(f"`{model}`", *simulated))
    return "\n\n".join("\n".join(lines) for lines in tables)


def _measured(metrics: dict[str, dict[str, float]], name: str, digits: int, error: str = "se") -> str:
    """Returns a value ± its standard error over images, or another error, or "-" without a value."""
    if name not in metrics:
        return "-"
    value, se = metrics[name]["value"], metrics[name].get(error)
    return f"{value:.{digits}f}" + ("" if se is None else f" ± {se:.{digits}f}")


def _bounds(name: str, data: str, test: dict[str, Any], how: str) -> str:
    """Returns a line of bounds with their Monte Carlo errors, and log p(x)."""
    metrics = [test[f"iwae_{m}"] for m in (1, 10, 100, 1000)]
    cells = [f"{metric['value']:.4f} ± {metric['mc_se']:.2g}" for metric in metrics]
    return _line(name, data, *cells, format(test["negative_log_p"]["value"], ".4f"), how)


def _gaps(test: dict[str, Any]) -> str:
    """Returns log p(x) minus the ELBO, as measured and in closed form."""
    return f"{test['iwae_1']['value'] - test['negative_log_p']['value']:.5f} | {test['gap']['value']:.5f}"


def _cell(runs: list[Results], column: Column) -> str:
    """Returns the mean of a metric over seeds ± its standard deviation, or "-" without values."""
    found = [metric_values(run) for run in runs]
    values = [metrics[column.metric] for metrics in found if column.metric in metrics]
    if not values:
        return "-"
    words = f"{statistics.mean(values) * column.factor:.{column.digits}f}"
    if len(values) > 1:
        words += f" ± {statistics.stdev(values) * column.factor:.{column.digits}f}"
    return words + column.unit


def _header(names: list[str]) -> list[str]:
    return [_line(*names), "|---" * len(names) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def write_between(page: Path, marks: tuple[str, str], content: str) -> None:
    """Replaces the text between two marks of a page. Raises UserError if the page or a mark is missing."""
    try:
        text = page.read_text("utf-8")
    except OSError:
        raise UserError(f"cannot read {page}. Run this in the project's folder.") from None
    head, found, rest = text.partition(marks[0])
    _, ended, tail = rest.partition(marks[1])
    if not found or not ended:
        raise UserError(f"{page.name} has lost its marks. Restore {marks[0]} and {marks[1]}.")
    write_whole(page, f"{head}{marks[0]}\n{content}\n{marks[1]}{tail}".encode())


if __name__ == "__main__":
    run_command(main)
