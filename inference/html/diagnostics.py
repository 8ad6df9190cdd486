"""The section of a report about the posterior: what `inference.diagnose` has measured."""

import shlex
from typing import Any

from markupsafe import Markup

from inference.html.formatting import exact, numbers
from inference.html.page import part, table
from inference.html.pictures import embedded
from inference.html.sections import ReportData
from inference.metrics.diagnostics import UNITS, groups, title
from inference.metrics.rank_calibration import LEVEL
from inference.plots.diagnostics import PREFIX

PICTURE = 150_000  # bytes of a figure
MOST_ROWS = 100  # dimensions in the table of a latent
CAPTIONS = {
    "gaps": "The amortisation gap and the approximation gap of each test {}",
    "dimensions": "The KL term and the variance of the means of each dimension; grey ones are inactive",
    "ranks": f"Ranks of the true latent; the band has {100 - 100 * LEVEL:g} % of the counts of uniform ranks",
}
QUANTITIES = {
    "kl": "KL term, nats",
    "variance_of_means": "variance of the means",
    "rank_p_value": "p-value of uniform ranks",
}
ABOUT = (
    "The inference gap is the part of log p(x) that the ELBO misses. The best guide has the encoder's form "
    "and parameters of its own for each {0}. The amortisation gap is what the encoder loses against it, the "
    "approximation gap what the form itself loses. KL(q(z|x) || p(z)) is the information that z has about "
    "the {0} plus the mismatch of q(z), the mean of q(z|x), with the prior. If the guide is the posterior, "
    "the ranks are uniform on data that the model generates. A spread above 1 means that the guide is too "
    "narrow or misplaced. Made by "
)


def diagnostics(it: ReportData) -> Markup:
    """Returns the tables and figures of `inference.diagnose`, or nothing if it has not run."""
    found = (it.results or {}).get("diagnostics")
    if not found:
        return Markup()
    head = ["quantity", "value", "± s.e.", "± Monte Carlo", "unit"]
    tables = [
        table(
            group.heading,
            head,
            [_row(name, metric, it.what) for name, metric in group.metrics.items()],
            "results",
        )
        for group in groups(found, it.what)
    ]
    command = f"python -m inference.diagnose {shlex.quote(str(it.run.folder))}"
    words = Markup('<p class="muted">{}<code>{}</code></p>').format(ABOUT.format(it.what), command)
    undefined = Markup().join(
        Markup("<p>{}: undefined, {}</p>").format(name, why) for name, why in found["undefined"].items()
    )
    return Markup().join([*tables, undefined, _figures(it), _dimensions(found), words])


def _row(name: str, metric: dict[str, float], what: str) -> list[str]:
    value, se, mc_se = numbers("", metric)
    errors = [exact(text, metric[key]) if text else "" for key, text in (("se", se), ("mc_se", mc_se))]
    cells = (exact(value, metric["value"]), *errors)
    formatted = (Markup('<td class="n">{}</td>').format(cell) for cell in cells)
    return [title(name).strip(), *formatted, UNITS.get(name, f"nats per {what}")]


def _figures(it: ReportData) -> Markup:
    """Returns the figures of the run folder. Raises UserError if one cannot be shown."""
    shown = Markup()
    for name, words in CAPTIONS.items():
        path = it.run.figures / f"{PREFIX}{name}.png"
        if path.exists():
            shown += part("picture", *embedded(path, PICTURE), words.format(it.what))
    return Markup('<div class="figures">{}</div>').format(shown) if shown else shown


def _dimensions(found: dict[str, Any]) -> Markup:
    """Returns a table of the dimensions of each latent, unless it has many."""
    tables = Markup()
    for name, of in found["dimensions"].items():
        columns = [key for key in QUANTITIES if key in of]
        rows = list(zip(*(of[key] for key in columns), strict=True))
        if 0 < len(rows) <= MOST_ROWS:
            head = ["dimension", *(QUANTITIES[key] for key in columns)]
            cells = [[f"{name}[{j}]", *(f"{value:.3g}" for value in row)] for j, row in enumerate(rows)]
            tables += table(f"Dimensions of {name}", head, cells, "numbers")
    if not tables:
        return tables
    return Markup("<details><summary>Table of the dimensions</summary>{}</details>").format(tables)
