"""Computes log p(x) itself, or estimates it by annealed importance sampling, next to the bounds on it.

python -m inference.exact RUN_DIR                      the first 100 test images of a finished run
python -m inference.exact RUN_DIR --images 500         more of them
python -m inference.exact RUN --ais 500                check -IWAE-5000 by annealed importance sampling
python -m inference.exact --pretrained vae-mnist --data mnist --ais 500

log p(x) is in closed form, or by quadrature over one continuous latent z of one or two dimensions, with a sum
over discrete latents, in float64. The metrics are added to the run's results.json.

With --ais T log p(x) is estimated with T temperatures, for any number of continuous latents. Images that the
model generates bound the error of the estimate: bidirectional Monte Carlo. RUN is a run folder, or a file
that model.save wrote. With --data nothing is written. On a CPU it takes minutes.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
import json
from contextlib import ExitStack

from inference.api import held_out, load
from inference.backend.device import choose_device, fast_float32
from inference.cli.entry import run_command
from inference.cli.outputs import add_data, add_source, find_data, trained_model
from inference.cli.parser import Parser
from inference.errors import UserError
from inference.html import report
from inference.metrics.bidirectional import annealed_bounds
from inference.metrics.diagnostics import first
from inference.metrics.exact import exact_of_run, format_exact
from inference.rundir.kinds import COUNT
from inference.rundir.restore import restore
from inference.rundir.run import Run


def main(arguments: list[str]) -> int:
    """Computes log p(x) or checks a bound on it, prints the result, and writes it into the run. Returns 0."""
    parser = Parser(prog="python -m inference.exact", description=(__doc__ or "").splitlines()[0])
    add_source(parser)
    add_data(parser)
    about = "number of test images, the first of the test set (default: 100)"
    parser.add_argument("--images", type=COUNT.parse, default=100, metavar="N", help=about)
    about = "estimate log p(x) by annealed importance sampling with T temperatures"
    parser.add_argument("--ais", type=COUNT.parse, metavar="T", help=about)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    print(_by_annealing(given) if given.ais else _exactly(given))
    return 0


def _exactly(given: argparse.Namespace) -> str:
    """Returns the result in closed form or by quadrature as text."""
    folder = trained_model(given)
    if given.pretrained or given.data or given.device != "auto":
        raise UserError("--pretrained, --data and --device need --ais T. Add it, or name a run folder only.")
    run, config, data, model = restore(folder, given.data_dir)
    with run:
        exact = exact_of_run(run, model, data, given.images)
        report.update(run.folder, data)
    return json.dumps(exact, indent=2) if given.json else format_exact(config, exact)


def _by_annealing(given: argparse.Namespace) -> str:
    """Returns the result of annealed importance sampling as text."""
    source, device = trained_model(given), choose_device(given.device)
    own = source.is_dir() and given.data is None
    with ExitStack() as held:
        run = held.enter_context(Run.open(source)) if own else None
        results = run.results() if run else {}
        model = load(source)
        data, _ = find_data(source, model, given.data, given.data_dir)
        test = first(model, held_out(model, data, device), given.images)
        held.enter_context(fast_float32(device))
        found = annealed_bounds(model.to(device), test, given.ais)
        if run:
            run.write("results.json", results | {"ais": found.to_json()})
            report.update(run.folder, data.padded(type(model)))
    return json.dumps(found.to_json(), indent=2) if given.json else str(found)


if __name__ == "__main__":
    run_command(main)
