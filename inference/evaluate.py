"""What a model is worth on a test set: its bound and terms, tighter bounds, what its codes are good for.

python -m inference.evaluate RUN_DIR                                -IWAE-m at m = 1, 10, 100, 1000, and k-hat
python -m inference.evaluate RUN_DIR --particles 1 5000             at other m
python -m inference.evaluate RUN_DIR --images 100                   of the first 100: printed, and not kept
torchrun --nproc-per-node 2 -m inference.evaluate RUN_DIR           the images shared among processes

It adds to the run's results.json and figures, and leaves draws and weights in posterior.nc for ArviZ.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from inference import report
from inference.backend import distributed
from inference.backend.device import choose_device, fast_float32
from inference.cli.options import Parser, positive
from inference.data.batches import HeldOut
from inference.data.datasets import Dataset
from inference.errors import UserError, run_command
from inference.metrics import importance
from inference.metrics.linear_probe import probe
from inference.metrics.sample_classifier import conditional_sample_accuracy
from inference.plots import images
from inference.rundir.run import ReadOnlyRun, Run
from inference.training.progress import table
from ppl_models.base import LatentVariableModel, draw_latents, latents_of

PARTICLES = [1, 10, 100, 1000]
CHUNK = 500  # test images at a time


def main(arguments: list[str]) -> int:
    """Evaluate a finished run on its whole test set; print what came out, and write it into the run."""
    parser = Parser(prog="python -m inference.evaluate", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR", help="a finished run")
    add(
        "--particles",
        type=positive(int),
        nargs="+",
        default=PARTICLES,
        metavar="M",
        help=f"samples an image in the bounds (default: {' '.join(map(str, PARTICLES))})",
    )
    add(
        "--memory",
        type=positive(int),
        default=importance.MEMORY,
        metavar="MIB",
        help=f"working memory of the draws, about (default: {importance.MEMORY})",
    )
    about = "the first of the test set alone: bounds and k-hat are printed, and the run is left as it is"
    add("--images", type=positive(int), metavar="N", help=about)
    add("--data-dir", type=Path, metavar="DIR", help="where the data set is now (default: where it was)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: auto)")
    add("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    with distributed.process_group(given.device):
        print(results_of(given))
    return 0


def results_of(given: argparse.Namespace) -> str:
    """What the options ask for, as it is printed."""
    device = choose_device(given.device)
    with fast_float32(device):
        test = measured(given, device)
    return json.dumps(test, indent=2) if given.json else table(test)


def measured(given: argparse.Namespace, device: torch.device) -> dict[str, dict[str, float]]:
    """The figures of a run that the options ask for, computed on a device."""
    run, config, data, model = Run.restore(given.run, given.data_dir)
    particles = sorted(set(given.particles))
    if not given.images:
        with ReadOnlyRun(run.folder, config) if distributed.rank() else run as run:
            return whole(run, model.to(device), data, particles, given.memory)
    why = why_no_importance_weights(model.to(device), data, run.results())
    if why:
        raise UserError(f"{config['model']} {why}, and has no importance weights: leave out --images")
    y = None if data.y_test is None else data.y_test[: given.images]
    few = HeldOut(replace(data, x_test=data.x_test[: given.images], y_test=y), type(model), device)
    return importance.importance_sample(model, few, particles, given.memory).figures


def whole(
    run: Run, model: LatentVariableModel, data: Dataset, particles: list[int], memory: int
) -> dict[str, dict[str, float]]:
    """The figures of a run's whole test set, with those that it had; all are written into the run."""
    results, test = run.results(), HeldOut(data, type(model), next(model.parameters()).device)
    why = why_no_importance_weights(model, data, results)
    found = probe(model, data)
    if {"reconstruction", "negative_log_p"} & results["test"].keys():  # a classifier alone generates nothing
        found |= conditional_sample_accuracy(model, data)
    if not why:
        sampled_result = importance.importance_sample(model, test, particles, memory)
        found |= sampled_result.figures
        if not distributed.rank():
            run.figures.mkdir(exist_ok=True)
            images.pareto(sampled_result.k_hat, importance.THRESHOLD, run.figures / "k_hat.png")
            importance.write_netcdf(sampled_result, test.y, run.folder / "posterior.nc")
    elif not distributed.rank():
        print(f"{run.config['model']} {why}: no importance weights", file=sys.stderr)
    results["test"] |= found
    run.write("results.json", results)
    if not distributed.rank():
        report.renew(run.folder, data)
    return results["test"]


def why_no_importance_weights(model: LatentVariableModel, data: Dataset, results: dict[str, Any]) -> str:
    """Why there are no importance weights to be had of a run, in words; nothing where there are."""
    if "negative_elbo" not in results["test"]:
        return "has no bound here"
    inputs, _, _ = next(HeldOut(data, type(model), torch.device("cpu")).chunks(1))
    device = next(model.parameters()).device
    with torch.no_grad(), poutine.trace() as tracer:
        model.guide(**{name: value.to(device) for name, value in inputs.items()})
    sites = (tracer.trace.nodes[name]["fn"] for name in latents_of(tracer.trace))
    return "has a guide that is a point" if all(isinstance(fn, dist.Delta) for fn in sites) else ""


@torch.no_grad()
def evaluate(model: LatentVariableModel, test: HeldOut, draws: int = 1) -> dict[str, dict[str, float]]:
    """The negative ELBO and its terms over the whole test set, and accuracy where the model classifies.

    Each figure is `value`, in nats per image (accuracy: a share), with `se`, the standard error over
    images, and, with two `draws` of the latents an image or more, `mc_se`, the part of it that more draws
    would take away. Accuracy is read on grey levels, as the course does. Of a codebook, `usage` is the share
    of its entries that are chosen at all, and `perplexity` the exponential of the entropy of the choices;
    they have a value alone. torch's generator is left as it was found. Several processes share the images.
    """
    was_training = model.training
    model.eval()
    per_image: dict[str, dict[int, Tensor]] = {}  # (draws, chunk) of each chunk
    counts = None  # of the entries of a codebook
    devices = [test.x.device] if test.x.is_cuda else []
    with torch.random.fork_rng(devices), pyro.validation_enabled(False):
        for number, (inputs, grey, y) in enumerate(test.chunks(CHUNK)):
            if number % distributed.world_size() != distributed.rank():
                continue
            torch.manual_seed(number)
            latents = draw_latents(model, **inputs)
            bounds = [model.bound(**inputs, latents=latents)]
            chosen = model.code_counts(latents)
            if chosen is not None:
                chosen = chosen.cpu()  # each process may have it on a GPU of its own
                counts = chosen if counts is None else counts + chosen
            if latents:  # or else one is as good as many
                more = (draw_latents(model, **inputs) for _ in range(draws - 1))
                bounds += [model.bound(**inputs, latents=latents) for latents in more]
            reports = [bound.report() for bound in bounds]
            figures = {
                name: torch.stack([report[name].expand(len(grey)) for report in reports])  # (draws, chunk)
                for name in reports[0]
            }
            logits = model.classify(grey)
            if logits is not None and y is not None:
                figures["accuracy"] = (logits.argmax(-1) == y).float()[None]
            for name, values in figures.items():
                per_image.setdefault(name, {})[number] = values.double().cpu()
    model.train(was_training)
    of_all = distributed.all_gather((per_image, counts))
    found = {}
    for name in of_all[0][0]:
        chunks = {number: part for images, _ in of_all for number, part in images.get(name, {}).items()}
        found[name] = _summary(torch.cat([chunks[number] for number in sorted(chunks)], dim=1))
    every = [part for _, part in of_all if part is not None]
    counts = sum(every[1:], every[0]) if every else None
    if counts is not None:
        share = counts.double() / counts.sum()
        found["usage"] = {"value": (counts > 0).double().mean().item()}
        found["perplexity"] = {"value": torch.special.entr(share).sum().exp().item()}
    return found


def _summary(values: Tensor) -> dict[str, float]:
    """Mean, standard error over images, and Monte-Carlo standard error of values (draws, images)."""
    draws, images = values.shape
    figure = {"value": values.mean().item()}
    if images > 1:
        figure["se"] = (values.mean(0).std() / images**0.5).item()
    if draws > 1:
        figure["mc_se"] = (values.var(0).mean() / (draws * images)).sqrt().item()
    return figure


if __name__ == "__main__":
    run_command(main)
