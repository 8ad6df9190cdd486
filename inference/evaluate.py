"""Evaluates a finished run on its test set: importance-weighted bounds, probes, calibration, sample accuracy.

python -m inference.evaluate RUN_DIR                                -IWAE-m at m = 1, 10, 100, 1000, and k-hat
python -m inference.evaluate RUN_DIR --particles 1 5000             at other m
python -m inference.evaluate RUN_DIR --images 100                   on the first 100, printed only
torchrun --nproc-per-node 2 -m inference.evaluate RUN_DIR           the processes share the images

It adds to the run's results.json and figures, and leaves samples and weights in posterior.nc for ArviZ.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import argparse
import json
import sys
from pathlib import Path

from inference.backend import distributed
from inference.backend.device import choose_device, fast_float32
from inference.cli.callable_module import make_callable
from inference.cli.entry import run_command
from inference.cli.parser import Parser, add_model_file
from inference.html import report
from inference.metrics import importance
from inference.metrics.run_evaluation import Metrics, evaluate_first_images, evaluate_full_test_set
from inference.plots.curves import draw_pareto_k
from inference.rundir.kinds import COUNT
from inference.rundir.read_only import ReadOnlyRun
from inference.rundir.restore import restore
from inference.training.progress import table

PARTICLES = [1, 10, 100, 1000]


def main(arguments: list[str]) -> int:
    """Evaluates a finished run, prints its metrics, and writes them into the run."""
    parser = Parser(prog="python -m inference.evaluate", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR", help="a finished run")
    about = f"samples per image in the bounds (default: {' '.join(map(str, PARTICLES))})"
    add("--particles", type=COUNT.parse, nargs="+", default=PARTICLES, metavar="M", help=about)
    about = f"approximate working memory of importance sampling (default: {importance.MEMORY})"
    add("--memory", type=COUNT.parse, default=importance.MEMORY, metavar="MIB", help=about)
    about = "use the first N test images only; bounds and k-hat are printed, and the run does not change"
    add("--images", type=COUNT.parse, metavar="N", help=about)
    add("--data-dir", type=Path, metavar="DIR", help="folder of the data set (default: the run's)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: auto)")
    add("--json", action="store_true", help="print JSON")
    add_model_file(parser)
    given = parser.parse_args(arguments)
    with distributed.process_group(given.device), fast_float32(choose_device(given.device)):
        metrics = evaluate_as_asked(given)
        print(json.dumps(metrics, indent=2) if given.json else table(metrics))
    return 0


def evaluate_as_asked(given: argparse.Namespace) -> Metrics:
    """Returns the metrics that the options ask for. A full evaluation also renews the report."""
    run, config, data, model = restore(given.run, given.data_dir)
    model, particles = model.to(choose_device(given.device)), sorted(set(given.particles))
    if given.images:
        return evaluate_first_images(run, model, data, particles, given.memory, given.images)
    with ReadOnlyRun(run.folder, config) if distributed.rank() else run as run:
        found = evaluate_full_test_set(run, model, data, particles, given.memory)
        if not distributed.rank():
            if found.importance:
                run.figures.mkdir(exist_ok=True)
                draw_pareto_k(found.importance.k_hat, importance.K_HAT_THRESHOLD, run.figures / "k_hat.png")
            else:
                print(f"{config.model} {found.why_none}: no importance weights", file=sys.stderr)
            report.update(run.folder, data)
    return found.metrics


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)
