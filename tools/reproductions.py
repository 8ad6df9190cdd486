"""Makes the table of docs/reproductions.md from docs/reproductions.yaml and the runs in runs/published.

python -m tools.reproductions              print the table
python -m tools.reproductions --write      write it into docs/reproductions.md, between its marks
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
import statistics
from dataclasses import dataclass
from typing import Any

import yaml

from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError
from tools.table import ROOT, write_between

PAGE, SYSTEMS = ROOT / "docs" / "reproductions.md", ROOT / "docs" / "reproductions.yaml"
MARKS = (
    "<!-- reproductions: made by python -m tools.reproductions --write -->",
    "<!-- end of reproductions -->",
)
HEAD = ("system", "published", "here", "seeds", "hours, on")


@dataclass(frozen=True)
class Reproduction:
    """A published system that the suite trains at its published size.

    Attributes:
        system: name of the system.
        paper: authors, year, title and table.
        protocol: binarisation, split and estimator, of both.
        published: the paper's value, in words.
        metric: name of the value in results.json.
        runs: pattern of the run files in runs/published.
        command: of the training. Further seeds have `--seed`.
        percent: whether the value is a fraction that is shown as a percentage.
    """

    system: str
    paper: str
    protocol: str
    published: str
    metric: str
    runs: str
    command: str
    percent: bool = False

    def results(self) -> list[dict[str, Any]]:
        """Returns the results of its runs.

        Raises:
            UserError: there are none, or they do not have the metric.
        """
        paths = sorted((ROOT / "runs" / "published").glob(self.runs))
        found = [json.loads(path.read_bytes()) for path in paths]
        if not found or not all(self.metric in run["test"] for run in found):
            raise UserError(
                f"runs/published has no {self.metric} in {self.runs}. Train and evaluate the system."
            )
        return found

    def row(self) -> str:
        """Returns its line of the table, in Markdown."""
        runs = sorted(self.results(), key=lambda run: run["seed"])
        factor, unit = (100, " %") if self.percent else (1, "")
        values = [factor * run["test"][self.metric]["value"] for run in runs]
        if len(values) > 1:
            here = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}{unit} over seeds"
        else:
            error = factor * runs[0]["test"][self.metric]["se"]
            here = f"{values[0]:.2f} ± {error:.2f}{unit} over images"
        hours = f"{statistics.mean(run['seconds'] for run in runs) / 3600:.2f}"
        where = runs[0]["config"]["gpu"] or f"CPU, {_count(runs[0]['config']['threads'], 'thread')}"
        each = f"{hours} each, {where}" if len(runs) > 1 else f"{hours}, {where}"
        seeds = ", ".join(str(run["seed"]) for run in runs)
        return f"| {' | '.join((self.system, self.published, here, seeds, each))} |"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def reproductions() -> list[Reproduction]:
    """Returns the systems of docs/reproductions.yaml."""
    return [Reproduction(**entry) for entry in yaml.safe_load(SYSTEMS.read_text(encoding="utf-8"))]


def table() -> str:
    """Returns the table in Markdown, and under it the paper, the protocol and the command of each system."""
    systems = reproductions()
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *(system.row() for system in systems), ""]
    for system in systems:
        lines += [
            f"* **{system.system}**: {system.paper}. {system.protocol}.",
            "",
            f"      {system.command}",
            "",
        ]
    return "\n".join(lines).rstrip()


def main(arguments: list[str]) -> None:
    """Prints the table, or writes it into the page."""
    parser = Parser(prog="python -m tools.reproductions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write it into docs/reproductions.md")
    if parser.parse_args(arguments).write:
        write_between(PAGE, MARKS, table())
    else:
        print(table())


if __name__ == "__main__":
    run_command(main)
