"""A finished training again, by hand in plain torch: same images, same first weights, same steps.

python -m benchmarks.training RUN_DIR

The noise of the latents is the same too where both draw it in one order, as all models of one latent do: then
the two go the same way until rounding parts them. What is learnt by hand is judged by the run's own measure
on the whole test set.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import time
from pathlib import Path

import pyro
import torch

from benchmarks.step import WRITTEN, plain
from inference.backend.device import fast_float32
from inference.cli.options import TRAINING, Parser
from inference.data.batches import Batches, HeldOut
from inference.errors import UserError, run_command
from inference.evaluate import evaluate
from inference.rundir.run import Run
from inference.svi import DRAWS
from inference.training.progress import Progress


@fast_float32(torch.device("cpu"))
def main(arguments: list[str]) -> int:
    """Train by hand, and print both results side by side."""
    parser = Parser(prog="python -m benchmarks.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a finished run")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where its data set is now")
    given = parser.parse_args(arguments)
    run, config, data, model = Run.restore(given.run, given.data_dir)
    results = run.results()
    if config["model"] not in WRITTEN:
        raise UserError(f"{config['model']} is not written by hand: take a run of {', '.join(WRITTEN)}")
    changed = [
        key
        for key, usual in TRAINING.items()
        if key not in ("validation", "compile") and config[key] != usual
    ]
    if changed:
        raise UserError(f"by hand there is no {changed[0].replace('_', '-')}: take a run without it")
    if "x_labelled" in model.inputs:
        raise UserError(f"{config['model']} takes labelled images beside its batches: not to be had by hand")

    cls, (written, build) = type(model), next(iter(WRITTEN[config["model"]].items()))
    pyro.set_rng_seed(config["seed"])
    model = cls(data.shape, data.classes, **config["options"])
    drawn = torch.get_rng_state()
    nets, loss = build()
    theirs = [value for net in nets for value in net.state_dict().values()]
    ours = list(model.state_dict().values())
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        raise UserError(f"{written}, {config['model']} has other sizes: take a run of its defaults")
    for value, first in zip(theirs, ours, strict=True):
        value.copy_(first)
    torch.set_rng_state(drawn)

    cpu = torch.device("cpu")
    test = HeldOut(data, cls, cpu)
    batches = Batches(data, cls, config["batch_size"], config["seed"], torch.empty(0), cpu)
    step = plain(nets, loss, config["lr"])

    def judged(draws: int) -> dict[str, dict[str, float]]:
        model.load_state_dict(dict(zip(model.state_dict(), theirs, strict=True)))
        return evaluate(model, test, draws)

    began, steps = time.perf_counter(), config["steps"]
    with Progress(0, steps) as progress:
        for done in range(steps):
            step(**batches(done))
            progress.advance()
            if (done + 1) % config["eval_every"] == 0:
                progress.report(done + 1, {name: figure["value"] for name, figure in judged(1).items()})
    seconds = time.perf_counter() - began
    print(f"| on {results['data']} | the suite | {written} | higher by |", "|---|---|---|---|", sep="\n")
    for name, figure in judged(DRAWS).items():
        suite, hand = results["test"][name]["value"], figure["value"]
        print(f"| {name} | {suite:.4f} | {hand:.4f} | {100 * (suite / hand - 1):.3f} % |")
    suite = f"{steps} steps in {results['seconds']:.0f} s"
    print(f"{suite}, {written} in {seconds:.0f} s, with what is measured on the way")
    return 0


if __name__ == "__main__":
    run_command(main)
