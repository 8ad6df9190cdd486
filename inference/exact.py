"""Computes log p(x) itself, in closed form or by quadrature, next to the bounds on it.

python -m inference.exact RUN_DIR                      the first 100 test images of a finished run
python -m inference.exact RUN_DIR --images 500         more of them

Quadrature supports one continuous latent z of one or two dimensions. It sums over discrete latents.
Everything is computed in float64. The metrics are added to the run's results.json.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
from pathlib import Path

from inference.cli.entry import run_command
from inference.cli.parser import Parser, add_model_file
from inference.html import report
from inference.metrics.exact import exact_of_run, format_exact
from inference.rundir.kinds import COUNT
from inference.rundir.restore import restore


def main(arguments: list[str]) -> int:
    """Computes a finished run's log p(x) and the bounds on it, prints them, and writes them into the run."""
    parser = Parser(prog="python -m inference.exact", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a finished run")
    about = "number of test images, the first of the test set (default: 100)"
    parser.add_argument("--images", type=COUNT.parse, default=100, metavar="N", help=about)
    about = "folder of the data set (default: the run's)"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=about)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model_file(parser)
    given = parser.parse_args(arguments)
    run, config, data, model = restore(given.run, given.data_dir)
    with run:
        exact = exact_of_run(run, model, data, given.images)
        report.update(run.folder, data)
    print(json.dumps(exact, indent=2) if given.json else format_exact(config, exact))
    return 0


if __name__ == "__main__":
    run_command(main)
