"""Train a model by stochastic variational inference: the command line, and `fit`, to be read at one sitting.

python -m inference.svi --model ssvae                 the main job, on MNIST where it is to be had
python -m inference.svi --model ssvae --help          that model's options
python -m inference.svi --resume runs/ssvae/...       go on with a run that was stopped
python -m inference.svi --model vqvae --prior transformer      both stages of a system trained in two
"""

import argparse
import math
import shlex
import time
from pathlib import Path
from typing import Any, cast

import pyro
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference import datasets, figures
from inference.arithmetic import choose_device, fast_float32
from inference.data import Batches, HeldOut, labelled
from inference.errors import BadInput, Diverged, run_command
from inference.estimators import ESTIMATORS, Loss
from inference.evaluate import evaluate
from inference.options import DATA_DIR, configuration, eval_every, parse
from inference.probe import active_units
from inference.progress import Progress, StopSignals, table
from inference.runs import Run, provenance
from inference.stages import draw, second_stage
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel, draw_latents

LOG_EVERY = 100  # steps between the training lines of metrics.jsonl
DRAWS_OF_POINTS = 100  # which cost little
DRAWS = 10  # of the latents, an image, for the figures at the end


def main(arguments: list[str]) -> int:
    """Train as the arguments say. Returns the exit status: 0, 1 where training broke off, 130 if stopped."""
    given = parse(arguments)
    if hasattr(given, "from"):
        status, _ = train(second_stage(given, vars(given)["from"]), arguments)
        return status
    status, run = train(given, arguments)
    if not hasattr(given, "prior"):
        return status
    if status:
        folder = shlex.quote(str(run.folder))
        print(f"and then learn its prior: python -m inference.svi --from {folder} --prior {given.prior}")
        return status
    kept = {key: value for key, value in vars(given).items() if key in ("prior", "seed", "device", "resume")}
    status, _ = train(second_stage(argparse.Namespace(**kept), run.folder), arguments)
    return status


def train(given: argparse.Namespace, arguments: list[str]) -> tuple[int, Run]:
    """One run, new or resumed, as the options say: the exit status, and the run."""
    state = None
    if given.resume:
        run, config = Run.open(given.resume)
        if given.model not in (None, config["model"]):
            raise BadInput(
                f"{given.resume} is a run of {config['model']}, not of {given.model}: drop --model"
            )
        state = run.load_checkpoint(config["model"])
        if hasattr(given, "steps"):
            config |= {"steps": given.steps, "eval_every": eval_every(given.steps)}
        if config["steps"] < state["step"]:
            raise BadInput(f"{given.resume} is at step {state['step']} already: give --steps no less")
        config["device"] = getattr(given, "device", config["device"])
        data = run.data(config, getattr(given, "data_dir", None))
    else:
        named = getattr(given, "data", MODELS[given.model].usual_data)
        data, line = datasets.load(named, getattr(given, "data_dir", DATA_DIR))
        if line:
            print(line)
        config = configuration(given, data)
        data = data.with_validation(config["validation"], config["seed"])
    device, cls = choose_device(config["device"]), MODELS[config["model"]]
    if data.points != (cls.pixels == "points"):
        kinds = ("points in the plane", f"try --data {cls.usual_data}")
        takes, advice = kinds if cls.pixels == "points" else ("images", "try --data digits")
        raise BadInput(f"{config['model']} takes {takes}, and {data.name} has none: {advice}")
    if cls.pixels == "codes" and data.x_train.max() >= config["options"]["codes"]:
        raise BadInput(f"{data.name} has code {int(data.x_train.max())}: give --codes more than that")
    data = data.padded(cls.side)
    labels = torch.empty(0, dtype=torch.long)
    if "x_labelled" in cls.inputs:
        labels = labelled(data, config["options"]["labels"], config["seed"])
    batches = Batches(data, cls, config["batch_size"], config["seed"], labels, device)
    pyro.set_rng_seed(config["seed"])
    try:
        model = cls(data.shape, data.classes, **config["options"]).to(device)
        if state:
            model.load_state_dict(state["parameters"])
        Loss(model, config["elbo"], config.get("particles"))  # refuses what does not go together
        if config["warmup"] and ESTIMATORS[config["elbo"]].particles > 1:
            raise ValueError(f"{config['elbo']} takes no weights: leave out --warmup")
        if config["batch_size"] == 1 and any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
            raise ValueError("it normalises over the batch: --batch-size 2 or more")
    except (TypeError, ValueError) as error:
        raise BadInput(f"{config['model']} cannot be made: {error}") from None
    except RuntimeError:
        raise BadInput(f"{run.folder}: config.json and checkpoint.pt do not belong together") from None
    if state:
        run.write("config.json", config)
    else:
        command = shlex.join(["python", "-m", "inference.svi", *arguments])
        config |= {"labelled": labels.tolist(), "command": command, **provenance()}
        if hasattr(given, "from"):
            config |= {"from": str(vars(given)["from"].resolve())}
        run = Run.create(getattr(given, "run_dir", None), config)
    status = fit(model, batches, HeldOut(data, cls, device), config, run, state)
    if status == 0 and "from" in config:
        draw(run.folder, Path(config["from"]), getattr(given, "data_dir", None))
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
    fast_float32()
    loss = Loss(model, config["elbo"], config.get("particles"))
    # One optimiser over all parameters, fused into one pass; Pyro's own wrappers would make one a tensor.
    optimizer = torch.optim.Adam(loss.parameters(), lr=config["lr"], fused=True)
    step, steps, before, device = 0, config["steps"], 0.0, test.x.device
    averaged = average_of(model, config["ema"])
    judged = cast(LatentVariableModel, averaged.module) if averaged else model
    held_out = {"test": test, **test.others}
    if state:
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        if device.type == "cuda" and "cuda_generator" in state:  # a run begun on the CPU has none
            torch.cuda.set_rng_state(state["cuda_generator"])
        if averaged:
            averaged.load_state_dict(state["averaged"])
        step, before = state["step"], state["seconds"]
        run.forget_after(step)
    start, began = step, time.perf_counter()

    def seconds() -> float:
        return round(before + time.perf_counter() - began, 3)

    def checkpoint() -> None:
        state = {"model": config["model"], "step": step, "seconds": seconds()}
        state |= {"parameters": model.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"generator": torch.get_rng_state()}
        if averaged:
            state |= {"averaged": averaged.state_dict()}
        if device.type == "cuda":
            state |= {"cuda_generator": torch.cuda.get_rng_state()}
        run.save_checkpoint(state)

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
    what = "points" if model.pixels == "points" else f"images of {'x'.join(map(str, test.x.shape[2:]))}"
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{config['model']} on {config['data']}: {len(batches.x)} training, {parts} {what}, "
        f"{count} parameters, {config['elbo']} estimator, {device}. Run: {run.folder}"
    )
    if model.remark():
        print(model.remark())
    # The networks may work in bfloat16 while they train; the bound's terms, and all that is measured, do not.
    precision = torch.autocast(device.type, torch.bfloat16, enabled=config["precision"] == "bfloat16")
    with StopSignals() as stopped, Progress(start, steps) as progress:
        if step == 0:
            measure()
        while step < steps and not stopped:
            batch = batches(step)
            if config["warmup"]:
                model.beta = config["options"]["beta"] * min(step / config["warmup"], 1.0)
            first = step == start  # Pyro checks the first step, and the others do not pay for it
            with pyro.validation_enabled(first), precision:
                objective = loss(**batch)
            check_finite({"loss": objective.item()}, step + 1, run)
            due = (step + 1) % LOG_EVERY == 0 or step + 1 == steps
            values = train_terms(model, batch) if due else {}
            objective.backward()
            if config["clip"]:
                torch.nn.utils.clip_grad_norm_(loss.parameters(), config["clip"])
            for group in optimizer.param_groups:
                group["lr"] = rate(step, config)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if averaged:
                averaged.update_parameters(model)
            step += 1
            progress.advance()
            if due:
                run.log(step=step, split="train", seconds=seconds(), **values)
                progress.show(values)
            if step % config["eval_every"] == 0 or step == steps:
                measure()
        if step < steps:
            checkpoint()
    if step < steps:
        again = f"python -m inference.svi --resume {shlex.quote(str(run.folder))}"
        print(f"stopped at step {step} of {steps}; go on with: {again}")
        return 130

    here = ("command", "data_dir", "from")  # of this machine alone: results are for others too
    settings = {key: value for key, value in config.items() if key not in here}
    settings["data"] = Path(config["data"]).name  # a file, wherever it lies
    results = {key: settings[key] for key in ("model", "data", "pixels", "steps", "seed")}
    results |= {"seconds": seconds(), "device": str(device)}
    draws = DRAWS_OF_POINTS if model.pixels == "points" else DRAWS
    results |= {"config": settings}
    results |= {name: evaluate(judged, part, draws) for name, part in held_out.items()}
    units = active_units(judged, test)
    if units is not None:
        results["active_units"] = units
    run.write("results.json", results)
    print(table(results["test"]))
    figures.draw_all(judged, batches, test, run)
    print(f"results, curves and pictures: {run.folder}")
    return 0


def rate(step: int, config: dict[str, Any]) -> float:
    """The learning rate of a step: it climbs over the first `lr_warmup` steps, and falls by the schedule."""
    share = min((step + 1) / max(config["lr_warmup"], 1), 1.0)
    if config["schedule"] == "cosine":
        share *= (1 + math.cos(math.pi * step / config["steps"])) / 2
    return config["lr"] * share


def average_of(model: LatentVariableModel, decay: float) -> AveragedModel | None:
    """An exponential moving average of all parameters and buffers over the steps; None where decay is 0.

    After n steps the decay is (1 + n) / (10 + n) at most: what training began with is soon forgotten.
    """

    def average(averaged: Any, current: Any, n: Tensor | int) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + int(n)) / (10 + int(n))))(averaged, current, n)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True) if decay else None


def check_finite(values: dict[str, float], step: int, run: Run) -> None:
    """Raise Diverged where a value is not finite, before anything is kept of it."""
    for name, value in values.items():
        if not math.isfinite(value):
            kept = f"{run.folder} keeps its last good checkpoint"
            raise Diverged(f"{name} is {value} at step {step}: try a lower --lr. {kept}")


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
