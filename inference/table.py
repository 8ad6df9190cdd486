"""The README's tables of results, made from runs/published: one results.json a run, each under its own name.

python -m inference.table              print it
python -m inference.table --write      put it into README.md, between its marks
"""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from inference.disk import write_whole
from inference.errors import BadInput, run_command
from inference.estimators import ESTIMATORS
from inference.options import TRAINING, Parser, defaults, plain
from ppl_models import MODELS

ROOT = Path(__file__).parent.parent
MARKS = "<!-- results: made by python -m inference.table --write -->", "<!-- end of results -->"
LIKELIHOOD_MARKS = (
    "<!-- likelihoods: made by python -m inference.table --write -->",
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

TRUTH_2019 = "the truth on these points: 4.4467, 3.2077 bits"
FULL = "CS294-158, all images, 20 epochs:"
# What stands beside the results, table by table: (system, data) -> figures, and where they are from.
REFERENCES = {
    "Bounds": {
        (
            "vae",
            "mnist",
        ): "by hand in plain PyTorch: -ELBO 99.49; CS236: 101.5 ± 0.55, -IWAE 99.83, 97.13, 96.1, 95.62",
        (
            "made steps=20000 hidden=4000",
            "mnist",
        ): "Germain et al., 8 000 units, one binarisation: 88.40 with a mask, 86.64 with 32",
        (
            "pixel_vae precision=bfloat16",
            "mnist",
        ): "CS294-158 (2020): 85.93; Chen et al. 2017: 79.48, KL 10.60",
        ("gmvae", "mnist"): "by hand: -ELBO 97.02; CS236: 97.22 ± 0.54, -IWAE 97.22, 94.74, 93.8, 93.38",
    },
    "Points": {
        ("vae2d", "gauss-full-1"): "the 2020 solution: 4.4388; the truth on these points: 4.4184",
        ("vae2d", "gauss-full-2"): "the 2020 solution: 4.4488; the truth on these points: 4.4184",
        ("vae2d", "gauss-diag-1"): "the 2020 solution: 4.4213; the truth on these points: 4.4184",
        ("vae2d", "gauss-diag-2"): "the 2020 solution: 4.4196; the truth on these points: 4.4184",
        ("vae2d", "gauss-2019-diag"): TRUTH_2019,
        ("vae2d", "gauss-2019-full"): TRUTH_2019,
        ("vae2d decoder=scalar", "gauss-2019-diag"): TRUTH_2019,
        ("vae2d decoder=scalar", "gauss-2019-full"): TRUTH_2019,
        (
            "vae2d steps=20000 batch_size=256 lr=0.003 lr_warmup=1000 warmup=5000 layers=3",
            "smiley",
        ): "the truth: 1.3246, 0.9555 bits; by hand, 80 epochs: 1.155 bits",
        ("flow", "smiley"): "the truth: 1.3246, 0.9555 bits",
    },
    "Squared errors": {
        ("ae", "mnist"): "CS566, a log of other strides: 0.0051 on training batches",
        ("beta_vae steps=2345 beta=10", "mnist"): "the mean digit: 0.067",
        ("conv_vae steps=2345", "mnist"): "the mean digit: squared error 211",
        (
            "conv_vae steps=1420",
            "svhn_10k.npz",
        ): f"by hand: 65.42 + 23.65 = 89.06; {FULL} 79.38 + 24.66 = 104.04",
        (
            "conv_vae steps=3140",
            "cifar10_20k.npz",
        ): f"by hand: 213.26 + 30.57 = 243.83; {FULL} 210.07 + 31.54 = 241.61",
        ("hvae steps=6000 precision=bfloat16", "svhn_10k.npz"): f"{FULL} 90.82 + 17.11 = 107.94",
    },
    "Codes": {
        ("vqvae steps=1420 precision=bfloat16", "svhn_10k.npz"): f"{FULL} loss 0.0286 (2020)",
        ("vqvae steps=3140 precision=bfloat16", "cifar10_20k.npz"): f"{FULL} loss 0.0474 (2020)",
        (
            "code_pixelcnn steps=300 ema=0.99 precision=bfloat16 codes=128",
            "codes-of-svhn_10k.npz",
        ): "codes of the run with commitment=5; CS294-158, all images: 1.944 (2020)",
        (
            "code_transformer steps=1500 lr_warmup=100 ema=0.99 precision=bfloat16 codes=128",
            "codes-of-svhn_10k.npz",
        ): "codes of the run with commitment=5; CS294-158, all images: 1.968 (2024)",
        (
            "code_pixelcnn steps=400 ema=0.99 precision=bfloat16 codes=128",
            "codes-of-cifar10_20k.npz",
        ): "codes of the run with commitment=5; CS294-158, all images: 2.753 (2020)",
        (
            "code_transformer steps=1500 lr_warmup=100 ema=0.99 precision=bfloat16 codes=128",
            "codes-of-cifar10_20k.npz",
        ): "codes of the run with commitment=5",
    },
    "Labels": {
        ("ssvae", "mnist"): "CS236: 93.40 ± 1.39 %; Pyro's M2 example: 93.19 ± 0.60 %; by hand: 95.1 %",
        ("ssvae gen_weight=0", "mnist"): "CS236: 73.5 %; by hand: 77.0 %",
    },
}


def main(arguments: list[str]) -> int:
    """Print the table, or write it into the README."""
    parser = Parser(prog="python -m inference.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write it into README.md")
    if parser.parse_args(arguments).write:
        write_readme(MARKS, table(published()))
        write_readme(LIKELIHOOD_MARKS, likelihoods(published()))
    else:
        print(table(published()), likelihoods(published()), sep="\n\n")
    return 0


def published(folder: Path = ROOT / "runs" / "published") -> list[dict[str, Any]]:
    """All published results. Raises BadInput where there are none."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise BadInput(f"no results in {folder}: copy a run's results.json there under a name of its own")
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
    return " ".join([config["model"], *changed])


def table(results: list[dict[str, Any]]) -> str:
    """All tables, in Markdown: bounds, squared errors and densities of images, codes, points, and labels."""

    def seen(result: dict[str, Any]) -> str:
        return MODELS[result["model"]].pixels_of(tuple(result["config"]["shape"]))

    binary = [result for result in results if seen(result) == "binary"]
    coded = [result for result in results if {"usage", "nats_per_code"} & result["test"].keys()]
    errors = [result for result in results if {"mean_squared_error", "squared_error"} & result["test"].keys()]
    grey = [result for result in errors if result not in coded]
    plane = [result for result in results if seen(result) == "points"]
    dense = [result for result in results if result not in [*binary, *grey, *coded, *plane]]
    parts = [("Bounds", BOUNDS, binary), ("Squared errors", ERRORS, grey)]
    parts += [("Densities", DENSITIES, dense), ("Codes", CODES, coded)]
    parts += [("Points", POINTS, plane), ("Labels", LABELS, results)]
    tables = [rows(title, columns, runs) for title, columns, runs in parts]
    return "\n\n".join(part for part in tables if part)


def figures(run: dict[str, Any]) -> dict[str, float]:
    """Every figure of a run by name: of its test set, `validation_...`, `independent_...`, `active_units`."""
    found = {name: figure["value"] for name, figure in run["test"].items()}
    for part in ("validation", "independent"):
        found |= {f"{part}_{name}": figure["value"] for name, figure in run.get(part, {}).items()}
    return found | ({"active_units": run["active_units"]} if "active_units" in run else {})


def rows(title: str, columns: dict[str, Column], results: list[dict[str, Any]]) -> str:
    """One table: a line a system that has one of the columns' figures, means over seeds ± their deviation.

    Columns that no system fills are left out; nothing comes back where none is filled.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in sorted(results, key=lambda run: (list(MODELS).index(run["model"]), system(run))):
        if any(column.figure in result["test"] for column in columns.values()):
            groups[system(result), result["data"]].append(result)
    filled = {
        name: column
        for name, column in columns.items()
        if any(column.figure in figures(run) for runs in groups.values() for run in runs)
    }
    if not filled:
        return ""
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


def write_readme(marks: tuple[str, str], content: str) -> None:
    """Put `content` between the marks in README.md. Raises BadInput where they are gone."""
    readme = ROOT / "README.md"
    head, found, rest = readme.read_text().partition(marks[0])
    _, ended, tail = rest.partition(marks[1])
    if not found or not ended:
        raise BadInput(f"README.md has lost its marks: put back {marks[0]} and {marks[1]}")
    write_whole(readme, f"{head}{marks[0]}\n{content}\n{marks[1]}{tail}".encode())


if __name__ == "__main__":
    run_command(main)
