"""Metrics as a page shows them: names, units, and values rounded to their errors."""

import math

from markupsafe import Markup

from inference.html.results import TABLES, Column, percent
from inference.plots.labels import LABELS, UNITS

COLUMNS = {column.metric: (title, column) for columns in TABLES.values() for title, column in columns.items()}
# Metrics at the top of a report and in the columns of an index.
HEADLINES = (
    *("negative_elbo", "negative_log_p", "kl", "bits_per_dim", "squared_error_and_kl"),
    *("mean_squared_error", "loss", "nats_per_code", "nats_per_token", "accuracy"),
)
Metric = dict[str, float]  # `value`, and `se` and `mc_se` if known


def label(name: str) -> str:
    """Returns the name of a metric of results.json as a page shows it."""
    if name in COLUMNS:
        return COLUMNS[name][0]
    if name.startswith("iwae_"):
        return f"-IWAE-{name.removeprefix('iwae_')}"
    if name.startswith("probe_"):
        return f"probe, {name.removeprefix('probe_')} labels"
    latent = name.removeprefix("kl_")
    return LABELS.get(name, f"KL of {latent}" if latent != name else name.replace("_", " "))


def unit(name: str, what: str) -> str:
    """Returns the unit of a metric; `what` is one observation: image or point."""
    if _column(name).unit:
        return _column(name).unit.strip()
    return UNITS.get(name, "latent dimensions" if name == "active_units" else f"nats per {what}")


def with_unit(words: str, name: str, what: str) -> str:
    """Returns a metric's title and its unit, unless the title is the unit."""
    measured = unit(name, what)
    return words if words == measured else f"{words}, {measured}"


def _column(name: str) -> Column:
    if name.startswith("probe_"):
        return percent(name)
    return COLUMNS.get(name, ("", Column(name)))[1]


def numbers(name: str, metric: Metric) -> tuple[str, str, str]:
    """Returns value, standard error and Monte Carlo error, with two digits of the larger error."""
    factor = _column(name).factor
    value, se, mc_se = (metric[key] * factor if key in metric else None for key in ("value", "se", "mc_se"))
    assert value is not None
    error = max(se or 0.0, mc_se or 0.0)
    places = 1 - math.floor(math.log10(error)) if error else 12
    form = f".{max(places, 0)}f" if places < 9 else ".6g"
    small = "" if mc_se is None else f"{mc_se:{form}}" if mc_se == error else f"{mc_se:.2g}"
    return f"{value:{form}}", "" if se is None else f"{se:{form}}", small


def brief(name: str, metric: Metric, what: str = "") -> str:
    """Returns value ± standard error; with its unit if it is a percentage or if `what` is given."""
    value, se, _ = numbers(name, metric)
    words = f"{value} ± {se}" if se else value
    return words + (f" {unit(name, what)}" if what or _column(name).unit else "")


def distinct(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """Returns metrics without the KL term of a single latent, because it equals `kl`."""
    single = sum(name.startswith("kl_") for name in metrics) == 1
    return {name: metric for name, metric in metrics.items() if not (single and name.startswith("kl_"))}


def exact(text: str, value: float) -> Markup:
    """Returns a rounded number whose tooltip and `value` attribute have all digits."""
    return Markup('<data value="{0}" title="{0}">{1}</data>').format(repr(value), text)


def count(number: float) -> str:
    """Returns a whole number with thin spaces between thousands: 60 000."""
    return f"{number:,.0f}".replace(",", "\u202f")
