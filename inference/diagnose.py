"""Diagnoses the posterior of a trained model: gaps, active dimensions, aggregate posterior, calibration.

python -m inference.diagnose RUN                                the run's test set, also into the report
python -m inference.diagnose RUN --images 500 --annealing 200   more images, a closer estimate of log p(x)
python -m inference.diagnose --pretrained vae-mnist --data mnist --json

RUN is a run folder, or a file that model.save wrote. With --data nothing is written. On a CPU it takes
minutes.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
from contextlib import ExitStack

from inference.api import load
from inference.apply import diagnose
from inference.cli.callable_module import make_callable
from inference.cli.entry import run_command
from inference.cli.outputs import add_data, add_source, find_data, trained_model
from inference.cli.parser import Parser
from inference.data.dataset import Dataset
from inference.html import report
from inference.metrics.diagnostics import Diagnostics
from inference.plots.diagnostics import draw_diagnostics
from inference.rundir.kinds import COUNT
from inference.rundir.run import Run


def main(arguments: list[str]) -> int:
    """Diagnoses a trained model, prints a table, and writes the result into its run. Returns 0."""
    parser = Parser(prog="python -m inference.diagnose", description=(__doc__ or "").splitlines()[0])
    add_source(parser)
    add_data(parser)
    add = parser.add_argument
    about = "test images of the gaps, the first ones (default: 100)"
    add("--images", type=COUNT.parse, default=100, metavar="N", help=about)
    about = "samples per image of the bounds (default: 5000)"
    add("--particles", type=COUNT.parse, default=5_000, metavar="M", help=about)
    about = "test images of the aggregate posterior, the first ones (default: 1000)"
    add("--aggregate-images", type=COUNT.parse, default=1_000, metavar="N", help=about)
    about = "images that the model generates to test its guide (default: 1000)"
    add("--simulations", type=COUNT.parse, default=1_000, metavar="N", help=about)
    about = "estimate log p(x) by annealed importance sampling with T temperatures"
    add("--annealing", type=COUNT.parse, default=0, metavar="T", help=about)
    add("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    source = trained_model(given)
    own = source.is_dir() and given.data is None
    with ExitStack() as held:
        run = held.enter_context(Run.open(source)) if own else None
        results = run.results() if run else {}
        model = load(source)
        data, _ = find_data(source, model, given.data, given.data_dir)
        found = diagnose(
            model,
            data,
            given.images,
            particles=given.particles,
            aggregate_images=given.aggregate_images,
            simulations=given.simulations,
            annealing=given.annealing,
            device=given.device,
        )
        if run:
            keep(run, results, found, data.padded(type(model)))
    print(json.dumps(found.to_json(), indent=2) if given.json else found)
    return 0


def keep(run: Run, results: dict, found: Diagnostics, data: Dataset) -> None:
    """Writes diagnostics into a run: results.json, figures and the report.

    Args:
        run: the run, which the caller holds.
        results: the content of its results.json.
        found: the diagnostics.
        data: its data.
    """
    run.write("results.json", results | {"diagnostics": found.to_json()})
    draw_diagnostics(found, run.figures)
    report.update(run.folder, data)


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)
