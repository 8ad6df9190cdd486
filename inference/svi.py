"""Train a model by stochastic variational inference: the command line, and `fit`, to be read at one sitting.

python -m inference.svi --model ssvae                 the main job, on MNIST where it is to be had
python -m inference.svi --model ssvae --help          that model's options
python -m inference.svi --resume runs/ssvae/...       go on with a run that was stopped
python -m inference.svi --model vqvae --prior transformer      both stages of a system trained in two
torchrun --nproc-per-node 2 -m inference.svi --model ssvae     on several processes, or machines
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import argparse
import math
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyro
import torch
from torch import Tensor

from inference import report
from inference.backend import distributed
from inference.backend.device import fast_float32
from inference.cli.options import DATA_DIR, check_warmup, configuration, eval_every, parse
from inference.data import datasets
from inference.data.batches import Batches, HeldOut
from inference.elbo.estimators import Loss
from inference.errors import TrainingDiverged, UserError, run_command
from inference.evaluate import evaluate
from inference.metrics.linear_probe import active_units
from inference.plots import images
from inference.rundir import schema
from inference.rundir.provenance import provenance
from inference.rundir.run import ReadOnlyRun, Run
from inference.training.checkpoint import config_digest, generators, restore_state
from inference.training.gradients import Gradients
from inference.training.precision import bfloat16_networks
from inference.training.progress import Progress, StopSignals, table
from inference.training.schedules import KLWeight, make_ema, rate
from inference.training.setup import prepare
from inference.training.two_stage import draw, second_stage
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel, draw_latents

LOG_EVERY = 100  # steps between the training lines of metrics.jsonl
PATIENCE = 10  # steps in a row whose loss or gradient is not finite, before a run gives up
DRAWS_OF_POINTS = 100  # which cost little
DRAWS = 10  # of the latents, an image, for the figures at the end


def main(arguments: list[str]) -> int:
    """Train as the arguments say. Returns the exit status: 0, 1 where training broke off, 130 if stopped."""
    given = parse(arguments)
    with distributed.process_group(device_of(given)):
        return stages(given, arguments)


def device_of(given: argparse.Namespace) -> str:
    """The name of the device that the options give, or else the run that they resume."""
    if given.resume and not hasattr(given, "device"):
        return Run.open(given.resume).config["device"]
    return getattr(given, "device", "auto")


def stages(given: argparse.Namespace, arguments: list[str]) -> int:
    """One run, or both of a system that is trained in two stages. Returns the exit status."""
    if hasattr(given, "from"):
        status, _ = train(
            distributed.broadcast_from_main(lambda: second_stage(given, vars(given)["from"])), arguments
        )
        return status
    status, run = train(given, arguments)
    if not hasattr(given, "prior"):
        return status
    if status:
        folder = shlex.quote(str(run.folder))
        print(f"and then learn its prior: python -m inference.svi --from {folder} --prior {given.prior}")
        return status
    kept = {key: value for key, value in vars(given).items() if key in ("prior", "seed", "resume")}
    prior = argparse.Namespace(**kept, device=run.config["device"])
    status, _ = train(distributed.broadcast_from_main(lambda: second_stage(prior, run.folder)), arguments)
    return status


def train(given: argparse.Namespace, arguments: list[str]) -> tuple[int, Run]:
    """One run, new or resumed, as the options say: the exit status, and the run."""
    kind = ReadOnlyRun if distributed.rank() else Run
    with ExitStack() as held:
        run, state = None, None
        if given.resume:
            run = held.enter_context(kind.open(given.resume))
            state = run.load_checkpoint()
            config = run.config
            if given.model not in (None, config["model"]):
                raise UserError(
                    f"{given.resume} is a run of {config['model']}, not of {given.model}: drop --model"
                )
            if hasattr(given, "steps"):
                config |= {"steps": given.steps, "eval_every": eval_every(given.steps)}
            if state and config["steps"] < state["step"]:
                raise UserError(f"{given.resume} is at step {state['step']} already: give --steps no less")
            if not state or state["step"] < config["steps"]:
                check_warmup(config)
            config["device"] = getattr(given, "device", config["device"])
            data = run.data(getattr(given, "data_dir", None))
        else:
            named = getattr(given, "data", MODELS[given.model].default_dataset)
            with distributed.local_main_first():
                data, line = datasets.load(named, getattr(given, "data_dir", DATA_DIR), MODELS[given.model])
            if line:
                print(line)
            config = configuration(given, data)
            data = data.with_validation(config["validation"], config["seed"])
        model, batches, data = prepare(config, data)
        if state:
            try:
                model.load_state_dict(state["parameters"])
            except (TypeError, ValueError, RuntimeError):
                raise schema.other_version(
                    f"{given.resume}: checkpoint.pt does not fit config.json", config
                ) from None
        test = HeldOut(data, MODELS[config["model"]], batches.x.device)
        if run:
            run.truncate_metrics_after(state["step"] if state else -1)
            run.write("config.json", config)
        else:
            command = shlex.join(["python", "-m", "inference.svi", *arguments])
            config |= {"labelled": batches.labels.tolist(), "command": command, **provenance()}
            if hasattr(given, "from"):
                config |= {"from": str(vars(given)["from"].resolve())}
            named = getattr(given, "run_dir", None)
            run = None if distributed.rank() else held.enter_context(Run.create(named, config))
            folder = distributed.all_gather(run and run.folder)[0]
            run = run or ReadOnlyRun(folder, config)
        with fast_float32(batches.x.device):
            status = fit(model, batches, test, config, run, state)
    if status == 0 and not distributed.rank():
        if "from" in config:
            draw(run.folder, Path(config["from"]), getattr(given, "data_dir", None))
        status = report.leave(run, data, getattr(given, "data_dir", None))
    return status, run


def fit(
    model: LatentVariableModel,
    batches: Batches,
    test: HeldOut,
    config: dict[str, Any],
    run: Run,
    state: dict[str, Any] | None = None,
) -> int:
    """Train to `config["steps"]`, from a checkpoint's `state` if given, and leave everything in `run`."""
    loss = Loss(model, config["elbo"], config.get("particles"))
    # One optimiser over all parameters, fused into one pass; Pyro's own wrappers would make one per tensor.
    optimizer = torch.optim.Adam(loss.parameters(), lr=config["lr"], fused=True)
    step, steps, before, device = 0, config["steps"], 0.0, test.x.device
    skipped = in_a_row = 0  # steps whose loss or gradient was not finite
    averaged = make_ema(model, config["ema"])
    judged = cast(LatentVariableModel, averaged.module) if averaged else model
    held_out = {"test": test, **test.others}
    last: dict[str, Any] = {}  # checkpoint
    if distributed.rank():
        torch.manual_seed(distributed.process_seed(config["seed"], step))
    if state:
        restore_state(state, optimizer, averaged, device, config["seed"])
        step, before, skipped, in_a_row = state["step"], state["seconds"], state["skipped"], state["in_a_row"]
    start, began = step, time.perf_counter()

    def seconds() -> float:
        return round(before + time.perf_counter() - began, 3)

    def checkpoint() -> bool:
        last.update({"model": config["model"], "decisive": config_digest(config)})
        last.update({"step": step, "seconds": seconds(), "skipped": skipped, "in_a_row": in_a_row})
        last.update({"parameters": model.state_dict(), "optimizer": optimizer.state_dict()})
        last.update({"generators": distributed.all_gather(generators(device))})
        if averaged:
            last.update({"averaged": averaged.state_dict()})
        return run.save_checkpoint(last)

    def measure() -> None:  # on the whole test set and any validation part, and keep a checkpoint
        found = {}
        for split, part in held_out.items():
            if split != "independent":
                found[split] = {name: figure["value"] for name, figure in evaluate(judged, part).items()}
                check_finite(found[split], step, run)
                run.log(step=step, split=split, seconds=seconds(), **found[split])
        checkpoint()
        progress.report(step, found["test"])

    parts = ", ".join(f"{len(part)} {name}" for name, part in held_out.items())
    what = "points" if model.observation == "points" else f"images of {'x'.join(map(str, test.x.shape[2:]))}"
    count = sum(p.numel() for p in model.parameters())
    where = f"{device}" + (f", {distributed.world_size()} processes" if distributed.world_size() > 1 else "")
    print(
        f"{config['model']} on {config['data']}: {len(batches.x)} training, {parts} {what}, "
        f"{count} parameters, {config['elbo']} estimator, {where}. Run: {run.folder}"
    )
    if model.note():
        print(model.note())
    # The networks may run in bfloat16 in training; densities, and everything that is measured, stay in
    # float32.
    bfloat16 = config["precision"] == "bfloat16"
    precision = partial(bfloat16_networks, model, device.type) if bfloat16 else nullcontext
    kl_weight = KLWeight(model, config["warmup"], device)
    progress = Progress(start, steps, quiet=distributed.rank() > 0)
    with StopSignals() as asked, progress, kl_weight, training_mode(model):
        gradients = Gradients(loss, config["compile"], batches.images, precision, progress.say)
        if not state:
            measure()
        stopped = distributed.any_process(bool(asked))
        while step < steps and not stopped:
            batch = batches(step)
            first = step == 0  # Pyro checks the first step, and the others do not pay for it
            kl_weight.set(step)
            objective, good, stopped = gradients(batch, check=first, stop=bool(asked))
            due = (step + 1) % LOG_EVERY == 0 or step + 1 == steps
            values = train_terms(model, batch) if due else {}
            if good:
                if config["clip"]:
                    torch.nn.utils.clip_grad_norm_(loss.parameters(), config["clip"])
                for group in optimizer.param_groups:
                    group["lr"] = rate(step, config)
                optimizer.step()
                if averaged:
                    averaged.update_parameters(model)
                in_a_row = 0
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                if skipped == 1 or in_a_row == PATIENCE:
                    progress.say(f"step {step + 1} is skipped: {describe_nonfinite(objective, model, batch)}")
                if in_a_row == PATIENCE:
                    raise TrainingDiverged(
                        f"{PATIENCE} steps in a row had to be skipped, up to step {step + 1}: try a lower "
                        f"--lr, --clip 1 or --lr-warmup. {run.folder} keeps its last good checkpoint"
                    )
            optimizer.zero_grad(set_to_none=True)
            step += 1
            progress.advance()
            if due:
                values = {name: value for name, value in values.items() if math.isfinite(value)}
                run.log(step=step, split="train", seconds=seconds(), **values)
                progress.show(values)
            if step % config["eval_every"] == 0 or step == steps:
                measure()
        saved = step == steps or checkpoint()
    again = f"python -m inference.svi --resume {shlex.quote(str(run.folder))}"
    if step < steps:
        at = f"step {step} of {steps}" + ("" if saved else ", and only what came before is saved")
        print(f"stopped at {at}; go on with: {again}")
        return 130
    draws = DRAWS_OF_POINTS if model.observation == "points" else DRAWS
    final = {name: evaluate(judged, part, draws) for name, part in held_out.items()}
    if distributed.rank():
        return 0

    here = ("command", "data_dir", "from")  # of this machine alone: results are for others too
    settings = {key: value for key, value in config.items() if key not in here}
    settings["data"] = Path(config["data"]).name  # a file, wherever it lies
    results = {key: settings[key] for key in ("model", "data", "pixels", "steps", "seed")}
    results |= {"seconds": seconds(), "device": str(device), "skipped": skipped}
    results |= {"config": settings, **final}
    units = active_units(judged, test)
    if units is not None:
        results["active_units"] = units
    if run.last_write_error:
        run.save_checkpoint(last)
    saved = not run.last_write_error and run.save(lambda: run.write("results.json", results))
    print(table(results["test"]))
    if not (saved and run.save(lambda: images.draw_all(judged, batches, test, run))):
        print(
            f"error: cannot write all results to {run.folder} ({run.last_write_error}). "
            f"Free space, then run {again}",
            file=sys.stderr,
        )
        return 1
    print(f"results, curves and pictures: {run.folder}")
    return 0


@contextmanager
def training_mode(model: LatentVariableModel) -> Iterator[None]:
    """The model in training mode, whatever mode it is in before and after."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


def describe_nonfinite(objective: Tensor, model: LatentVariableModel, batch: dict[str, Tensor]) -> str:
    """In words: which terms of the bound on a batch, or else which parameters' gradients."""
    if objective.isfinite():
        names = [
            name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
        ]
        return f"the gradient of {', '.join(names)} is not finite"
    names = [name for name, value in train_terms(model, batch).items() if not math.isfinite(value)]
    return f"the loss is {objective.item()}" + (f", not finite are {', '.join(names)}" if names else "")


def check_finite(values: dict[str, float], step: int, run: Run) -> None:
    """Raise TrainingDiverged where a value on held-out data is not finite, before anything is kept of it."""
    for name, value in values.items():
        if not math.isfinite(value):
            kept = f"{run.folder} keeps its last good checkpoint"
            raise TrainingDiverged(f"{name} is {value} at step {step}: try a lower --lr. {kept}")


@torch.no_grad()
def train_terms(model: LatentVariableModel, batch: dict[str, Tensor]) -> dict[str, float]:
    """The terms on one batch, by hand, means in nats per image, worked out as they are on the test set.

    The generator is left as it was found, and so are the running averages of a batch norm.
    """
    model.eval()
    with torch.random.fork_rng([batch["x"].device] if batch["x"].is_cuda else []):
        with pyro.validation_enabled(False):
            latents = draw_latents(model, **batch)
        report = model.bound(**batch, latents=latents, kl="closed").report()
    model.train()
    return {name: value.mean().item() for name, value in report.items()}


if __name__ == "__main__":
    run_command(main)
