"""Compares bounds derived by hand with Pyro's, term by term, in value and in gradient.

python -m inference.compare                    every model, every estimator that applies to it
python -m inference.compare --model ssvae      one model
python -m inference.compare --run RUN_DIR      a run's parameters, on its own test images
python -m inference.compare --json             the same as JSON

Both sides use the same noise: Pyro's estimator runs the guide, and the bound by hand is computed from the
values that it sampled, with their graph. In float64 both agree to rounding. If they do not, the exit status
is 1.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
from pathlib import Path

from inference.backend.device import double_precision
from inference.cli.callable_module import make_callable
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError, unknown
from inference.metrics.run_comparison import compare_example, compare_run
from inference.rundir.kinds import COUNT, SEED
from inference.rundir.run import Run
from ppl_models import MODELS


def main(arguments: list[str]) -> int:
    """Prints the comparison. Returns 0 if everything agrees, else 1."""
    parser = Parser(prog="python -m inference.compare", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", metavar="NAME", help=f"one of {', '.join(MODELS)}, or FILE.py:CLASS (default: all)")
    add("--run", type=Path, metavar="RUN_DIR", help="take parameters and images from a run")
    add("--data-dir", type=Path, metavar="DIR", help="folder of the run's data set")
    add("--batch-size", type=COUNT.parse, default=7, metavar="N", help="number of images (default: 7)")
    about = "seed of parameters, images and noise (default: 0)"
    add("--seed", type=SEED.parse, default=0, metavar="N", help=about)
    add("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    if given.model not in (None, *MODELS):
        raise unknown("model", given.model, MODELS)
    if given.run and given.model not in (None, Run.open(given.run).config.model):
        raise UserError(f"{given.run} is not a run of {given.model}. Leave out --model.")
    with double_precision():
        if given.run:
            results = compare_run(given.run, given.data_dir, given.batch_size, given.seed)
        else:
            results = [
                compare_example(name, estimator, given.batch_size, given.seed)
                for name in ([given.model] if given.model else MODELS)
                for estimator in MODELS[name].estimators
            ]
    agree = sum(result["agrees"] for result in results)
    if given.json:
        print(json.dumps({"agrees": agree == len(results), "comparisons": results}, indent=2))
    else:
        print("\n\n".join([*map(str, results), f"{agree} of {len(results)} agree"]))
    return 0 if agree == len(results) else 1


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)
