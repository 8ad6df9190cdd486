"""The README's table of results, made from runs/published: one results.json a run, each under its own name.

python -m inference.table              print it
python -m inference.table --write      put it into README.md, between its marks
"""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from inference.errors import BadInput, run_command
from inference.options import Parser, defaults
from ppl_models import MODELS

ROOT = Path(__file__).parent.parent
MARKS = "<!-- results: made by python -m inference.table --write -->", "<!-- end of results -->"

# What stands beside the results: (system, data) -> figures, and where they are from.
REFERENCES = {
    ("vae", "mnist"): "-ELBO 99.49 by hand in plain PyTorch; CS236: 101.5 ± 0.55 on 100 chosen images",
    ("ssvae", "mnist"): "CS236: 93.40 ± 1.39 %; Pyro's M2 example: 93.19 ± 0.60 %; by hand: 95.1 %",
    ("ssvae gen_weight=0", "mnist"): "CS236: 73.5 %; by hand: 77.0 %",
}


def main(arguments: list[str]) -> int:
    """Print the table, or write it into the README."""
    parser = Parser(prog="python -m inference.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write it into README.md")
    if parser.parse_args(arguments).write:
        write_readme(MARKS, table(published()))
    else:
        print(table(published()))
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
    settings = {key: config[key] for key in ("elbo", "steps", "batch_size", "lr")} | config["options"]
    changed = [f"{key}={_plain(value)}" for key, value in settings.items() if value != usual[key]]
    return " ".join([config["model"], *changed])


def _plain(value: Any) -> str:
    """A setting as one would type it: 0 for 0.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def table(results: list[dict[str, Any]]) -> str:
    """One line a system, in Markdown: means over seeds, ± the standard deviation over them."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in sorted(results, key=lambda run: (list(MODELS).index(run["model"]), system(run))):
        groups[system(result), result["data"]].append(result)
    lines = [
        "| system | data | seeds | -ELBO | reconstruction | KL | accuracy | beside it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, data), runs in groups.items():
        cells = [_cell(runs, figure) for figure in ("negative_elbo", "reconstruction", "kl")]
        cells += [_cell(runs, "accuracy", 100, " %")]
        seeds = ", ".join(str(run["seed"]) for run in sorted(runs, key=lambda run: run["seed"]))
        lines.append(
            f"| {' | '.join([f'`{name}`', data, seeds, *cells, REFERENCES.get((name, data), '')])} |"
        )
    return "\n".join(lines)


def _cell(runs: list[dict[str, Any]], figure: str, factor: float = 1.0, unit: str = "") -> str:
    values = [run["test"][figure]["value"] * factor for run in runs if figure in run["test"]]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}{unit}"


def write_readme(marks: tuple[str, str], content: str) -> None:
    """Put `content` between the marks in README.md. Raises BadInput where they are gone."""
    readme = ROOT / "README.md"
    head, found, rest = readme.read_text().partition(marks[0])
    _, ended, tail = rest.partition(marks[1])
    if not found or not ended:
        raise BadInput(f"README.md has lost its marks: put back {marks[0]} and {marks[1]}")
    readme.write_text(f"{head}{marks[0]}\n{content}\n{marks[1]}{tail}")


if __name__ == "__main__":
    run_command(main)
