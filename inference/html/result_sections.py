"""The sections of a report about its numbers: results next to references, and the comparison with Pyro."""

import copy
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from inference.backend.device import double_precision
from inference.elbo.comparison import GRADIENT_TOLERANCE, VALUE_TOLERANCE
from inference.html.formatting import Metric, count, distinct, exact, label, numbers, unit
from inference.html.page import part, table
from inference.html.results import group_results
from inference.html.sections import ReportData
from inference.metrics.run_comparison import compare_trained

BATCH = 3  # images for which the derived bound is compared with Pyro's estimator
LARGEST = 50_000_000  # parameters of a model for which the comparison takes seconds


def results_with_references(it: ReportData) -> Markup:
    """Returns every metric with its errors and unit, and published results for the same system."""
    if it.results is None:
        return Markup()
    groups = list(_grouped(it))
    has_reference = any(reference for _, reference in groups)
    head = ["metric", "value", "± s.e.", "± Monte Carlo", "unit", *["reference"] * has_reference]
    rows = []
    for metrics, reference in groups:
        cell = Markup('<td class="reference" rowspan="{}">{}</td>').format(len(metrics), reference)
        for name, metric in metrics.items():
            rows.append(_row(name, metric, it.what) + ([cell] if has_reference else []))
            cell = Markup()
    tables = [table("On the whole test set", head, rows, "results")]
    for name_of_part in ("validation", "independent"):
        if name_of_part in it.results:
            rows = [
                _row(name, metric, it.what) for name, metric in distinct(it.results[name_of_part]).items()
            ]
            tables.append(table(f"On the {name_of_part} set", head[:5], rows, "results"))
    known = it.results.get("exact")
    if known and known["test"]:
        rows = [_row(name, metric, it.what) for name, metric in known["test"].items()]
        tables.append(table(f"log p(x) and its bounds, by {known['how']}", head[:5], rows, "results"))
    annealed = it.results.get("ais")
    if annealed:
        for which in ("test", "simulated"):
            how = f"{annealed['temperatures']} temperatures, {annealed['images']} {which} {it.what}s"
            rows = [_row(name, metric, it.what) for name, metric in annealed[which].items()]
            title = f"AIS, annealed importance sampling of log p(x), {how}"
            tables.append(table(title, head[:5], rows, "results"))
    about = (
        "s.e. is the standard error over test images. Monte Carlo is the part of it that more samples of the "
        "latents would remove. Bounds are negated: smaller is better."
    )
    words = Markup('<p class="muted">{}</p>').format(about.replace("images", f"{it.what}s"))
    return Markup().join(tables) + words


def _grouped(it: ReportData) -> Iterator[tuple[dict[str, Metric], str]]:
    """Yields the test metrics in the groups of `results.TABLES` with their reference, and then the others."""
    results = (it.results or {}) | {
        "config": asdict(it.run.config)
    }  # the configuration that has been checked
    left = distinct(results["test"])
    if "active_units" in results:
        left["active_units"] = {"value": results["active_units"]}
    for title, columns, groups in group_results([results]):
        own = {column.metric: left.pop(column.metric) for column in columns.values() if column.metric in left}
        for system in groups:
            if own:
                yield own, system.reference(title)
    if left:
        yield left, ""


def _row(name: str, metric: Metric, what: str) -> list[str]:
    value, se, mc_se = numbers(name, metric)
    errors = [exact(text, metric[key]) if text else "" for key, text in (("se", se), ("mc_se", mc_se))]
    cells = (exact(value, metric["value"]), *errors)
    return [label(name), *(Markup('<td class="n">{}</td>').format(cell) for cell in cells), unit(name, what)]


def comparison(it: ReportData) -> Markup:
    """Returns the derived bound next to Pyro's estimate, with the run's parameters, on its first test images.

    Returns the reason if the comparison is impossible or would take long.
    """
    size = sum(p.numel() for p in it.model.parameters())
    command = f"python -m inference.compare --run {shlex.quote(str(it.run.folder))}"
    why, found = it.untrained or it.missing, []
    if size > LARGEST:
        why = why or f"the model has {count(size)} parameters, which takes long"
    if not why and it.data is not None:
        try:
            with double_precision():
                model = copy.deepcopy(it.model).double()
                found = compare_trained(model, it.run.config, it.data, BATCH, 0)
        except (ArithmeticError, IndexError, RuntimeError, ValueError) as error:  # of invalid parameters
            why = " ".join(str(error).split())[:200] or type(error).__name__
    if why:
        return Markup("<p>Not computed here: {}. Run it separately: <code>{}</code></p>").format(why, command)
    shown = [_compared(result, VALUE_TOLERANCE, GRADIENT_TOLERANCE) for result in found]
    about = (
        f"The bound derived by hand and Pyro's estimator on the first {BATCH} test {it.what}s, with the "
        f"parameters of this run and the same noise, in float64; nats per {it.what}. For more {it.what}s:"
    )
    return part("comparison", about, command, shown)


def _compared(result: dict[str, Any], value_tolerance: float, gradient_tolerance: float) -> dict[str, Any]:
    """Returns the caption, rows and note of one comparison for the template."""
    rows = [
        [
            label(name) if name != "objective" else name,
            f"{term['by_hand']:.12g}",
            f"{term['pyro']:.12g}",
            f"{abs(term['by_hand'] - term['pyro']):.1e}",
        ]
        for name, term in result["terms"].items()
    ]
    words = (
        f"Relative difference of the value: {result['value_difference']:.1e} (at most {value_tolerance:.0e})"
        f"; of the gradient: {result['gradient_difference']:.1e} (at most {gradient_tolerance:.0e})."
    )
    verdict = "agrees" if result["agrees"] else "DOES NOT AGREE"
    return {"caption": f"{result['elbo']}: {verdict}", "rows": rows, "words": words}
