"""Tables of results: the metrics of each table, and the runs that are seeds of the same system."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from inference.data.observations import OBSERVATIONS, POINTS
from inference.elbo.estimators import ESTIMATORS
from inference.html.references import find_reference
from inference.plots.labels import format_setting
from inference.rundir.config import defaults
from ppl_models import MODELS

Results = dict[str, Any]  # the content of a results.json
# Settings that a system's name shows if they differ from the default.
NEUTRAL = {"schedule": "constant", "lr_warmup": 0, "kl_warmup": 0, "clip": 0.0, "ema": 0.0}
NEUTRAL |= {"precision": "float32", "validation": 0.0, "optimizer": "adam", "weight_decay": None}
NEUTRAL |= {"accumulate": 1, "select": None, "early_stopping": None}


class Column(NamedTuple):
    """A metric of results.json, and its format: times `factor`, rounded to `digits`, followed by `unit`."""

    metric: str
    digits: int = 2
    factor: float = 1.0
    unit: str = ""


def percent(metric: str) -> Column:
    """Returns the column of a fraction that is shown as a percentage."""
    return Column(metric, factor=100, unit=" %")


TABLES = {
    "Bounds": {
        "-ELBO": Column("negative_elbo"),
        "reconstruction": Column("reconstruction"),
        "KL": Column("kl"),
        **{f"-IWAE-{m}": Column(f"iwae_{m}") for m in (1, 10, 100, 1000, 5000)},
        "k-hat above 0.7": percent("k_hat_above_0.7"),
        "-log p(x)": Column("negative_log_p"),
    },
    "Squared errors": {
        "mean squared error": Column("mean_squared_error", 4),
        "squared error": Column("squared_error"),
        "KL": Column("kl"),
        "KL of z1": Column("kl_z1"),
        "KL of z2": Column("kl_z2"),
        "squared error + KL": Column("squared_error_and_kl"),
        "-ELBO": Column("negative_elbo"),
    },
    "Densities": {
        "-ELBO": Column("negative_elbo"),
        "reconstruction": Column("reconstruction"),
        "KL": Column("kl"),
        "bits per dimension": Column("bits_per_dim", 3),
        "bits per dimension, validation": Column("validation_bits_per_dim", 3),
    },
    "Codes": {
        "mean squared error": Column("mean_squared_error", 4),
        "loss": Column("loss", 4),
        "codes used": percent("usage"),
        "perplexity": Column("perplexity", 1),
        "nats per code": Column("nats_per_code", 3),
    },
    "Texts": {
        "-ELBO": Column("negative_elbo"),
        "reconstruction": Column("reconstruction"),
        "KL": Column("kl"),
        "nats per token": Column("nats_per_token", 3),
        "perplexity per token": Column("token_perplexity", 1),
    },
    "Points": {
        "-ELBO": Column("negative_elbo", 4),
        "reconstruction": Column("reconstruction", 4),
        "KL": Column("kl", 4),
        "-log p(x)": Column("negative_log_p", 4),
        "bits per dimension": Column("bits_per_dim", 4),
        "-ELBO, independent points": Column("independent_negative_elbo", 4),
        "active units": Column("active_units", 1),
    },
    "Labels": {
        "accuracy": percent("accuracy"),
        "calibration error": percent("calibration_error"),
        **{f"probe, {n} labels": percent(f"probe_{n}") for n in (10, 100, 1000)},
        "conditional sample accuracy": percent("conditional_sample_accuracy"),
        "classifier accuracy, real images": percent("classifier_accuracy"),
    },
}


class System(NamedTuple):
    """A model, its settings that differ from the defaults, and its data set."""

    model: str
    settings: tuple[tuple[str, Any], ...]
    data: str

    @property
    def name(self) -> str:
        """The model and its settings: `vae z_dim=20`."""
        return " ".join([self.model, *(f"{key}={format_setting(value)}" for key, value in self.settings)])

    def reference(self, table: str) -> str:
        """Returns the published result for this system in a table, or an empty string."""
        return find_reference(table, self.model, dict(self.settings), self.data)


Groups = dict[System, list[Results]]  # the seeds of each system


def system_of(results: Results) -> System:
    """Returns the system that a run trained."""
    recorded = results["config"]
    usual = NEUTRAL | defaults(MODELS[recorded["model"]], tuple(recorded["shape"]))
    # The execution mode does not change the result, so `compile` is left out.
    settings = {key: recorded[key] for key in ("elbo", "steps", "batch_size", "lr")}
    settings |= {key: recorded.get(key, value) for key, value in NEUTRAL.items()}
    if ESTIMATORS[recorded["elbo"]].particles > 1:
        settings |= {"particles": recorded["particles"]}
    settings |= recorded["options"]
    changed = {key: value for key, value in settings.items() if value != usual.get(key)}
    if recorded.get("labelled_file"):
        changed["labelled"] = recorded["labelled_file"]
    return System(recorded["model"], tuple(changed.items()), results["data"])


def group_results(results: list[Results]) -> Iterator[tuple[str, dict[str, Column], Groups]]:
    """Groups runs by table and by system.

    Args:
        results: the contents of results.json files, with their `config`.

    Yields:
        The title and columns of a table, and the runs that have at least one of its metrics.
    """

    def observation(result: Results) -> str:
        return MODELS[result["model"]].observation_of(tuple(result["config"]["shape"]))

    def has(result: Results, *metrics: str) -> bool:
        return any(name in result["test"] for name in metrics)

    binary = [result for result in results if observation(result) == "binary"]
    coded = [result for result in results if has(result, "usage", "nats_per_code")]
    errors = [result for result in results if has(result, "mean_squared_error", "squared_error")]
    errors = [result for result in errors if result not in coded]
    points = [result for result in results if OBSERVATIONS[observation(result)].data is POINTS]
    texts = [result for result in results if has(result, "nats_per_token")]
    placed = [*binary, *errors, *coded, *texts, *points]
    densities = [result for result in results if result not in placed]
    members = [binary, errors, densities, coded, texts, points, results]
    for (title, columns), runs in zip(TABLES.items(), members, strict=True):
        groups: Groups = {}
        for run in sorted(runs, key=sort_key):
            if has(run, *(column.metric for column in columns.values())):
                groups.setdefault(system_of(run), []).append(run)
        if groups:
            yield title, columns, groups


def sort_key(results: Results) -> tuple[int, str]:
    """Returns the position of a run in a table: models in the order of `MODELS`, then settings."""
    return list(MODELS).index(results["model"]), system_of(results).name


def metric_values(results: Results) -> dict[str, float]:
    """Returns all metrics of a run by name, those of other sets as `validation_...` and `independent_...`."""
    found = {name: metric["value"] for name, metric in results["test"].items()}
    for part in ("validation", "independent"):
        found |= {f"{part}_{name}": metric["value"] for name, metric in results.get(part, {}).items()}
    return found | ({"active_units": results["active_units"]} if "active_units" in results else {})
