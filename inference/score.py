"""Scores data with a trained model: a bound on -log p(x) per data point, with its Monte Carlo error.

python -m inference.score RUN                                         the run's test set, in scores.csv
python -m inference.score RUN --data own.npz --particles 1000         other data, a tighter bound
python -m inference.score RUN --json                                  the summary as JSON

RUN is a run folder, which is not changed, or a file that model.save wrote. Larger values are less likely
data, in nats. The bound is -IWAE-m, -ELBO without importance weights, or -log p(x) without latents.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
from pathlib import Path

from inference.api import load
from inference.apply import score
from inference.cli.callable_module import make_callable
from inference.cli.entry import run_command
from inference.cli.outputs import (
    TABLES,
    add_data,
    add_source,
    check_new_file,
    find_data,
    trained_model,
    write_table,
)
from inference.cli.parser import Parser
from inference.rundir.kinds import COUNT


def main(arguments: list[str]) -> int:
    """Scores the data, writes one file and prints a summary. Returns 0."""
    parser = Parser(prog="python -m inference.score", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add_source(parser)
    add_data(parser)
    about = "samples of the latents per data point (default: 100)"
    add("--particles", type=COUNT.parse, default=100, metavar="M", help=about)
    about = f"new file, with one of {', '.join(TABLES)} (default: scores.csv)"
    add("--out", type=Path, default=Path("scores.csv"), metavar="FILE", help=about)
    add("--json", action="store_true", help="print the summary as JSON")
    given = parser.parse_args(arguments)
    check_new_file(given.out, TABLES)
    source = trained_model(given)
    model = load(source)
    data, name = find_data(source, model, given.data, given.data_dir)
    found = score(model, data, given.particles, device=given.device)
    columns = {"score": found.values, "mc_se": found.mc_se} | ({} if found.y is None else {"y": found.y})
    write_table(given.out, {key: value.numpy() for key, value in columns.items()})
    mean, worst = found.summary(), int(found.values.argmax())
    if given.json:
        largest = {"index": worst, "value": found.values[worst].item()}
        print(
            json.dumps({"metric": found.metric, "n": len(found.values), **mean, "largest": largest}, indent=2)
        )
        return 0
    error = f" ± {mean['se']:.4f}" if "se" in mean else ""
    about = (
        f"{len(found.values)} {data.kind.name} of {name}: {found.metric} {mean['value']:.4f}{error} nats per "
    )
    about += f"{data.kind.noun}, Monte Carlo error {mean['mc_se']:.4f}; "
    print(f"{about}largest {found.values[worst]:.4f} at index {worst}: {given.out}")
    return 0


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)
