"""Train a model by stochastic variational inference: the command line, and `fit`, a loop to be read from
top to bottom.

python -m inference.svi --model ssvae                 the main job, on MNIST where it is to be had
python -m inference.svi --model ssvae --help          that model's options
python -m inference.svi --resume runs/ssvae/...       go on with a run that was stopped
"""

import math
import shlex
import signal
import sys
import time
from types import FrameType
from typing import Any

import pyro
import torch
from tqdm import tqdm

from inference import data as datasets
from inference import figures
from inference.errors import BadInput, run_command
from inference.estimators import Loss
from inference.evaluate import draw_latents, evaluate
from inference.options import configuration, parse
from inference.runs import Run, provenance
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel

LOG_EVERY = 100  # steps between the training lines of metrics.jsonl
DRAWS = 10  # of the latents, an image, for the figures at the end


def main(arguments: list[str]) -> int:
    """Train as the arguments say. Returns the exit status: 0, 1 where training broke off, 130 if stopped."""
    given = parse(arguments)
    config: dict[str, Any]
    if given.resume:
        run, config = Run.open(given.resume)
        if given.model not in (None, config["model"]):
            raise BadInput(
                f"{given.resume} is a run of {config['model']}, not of {given.model}: leave --model out"
            )
        config |= {key: getattr(given, key) for key in ("steps", "device") if hasattr(given, key)}
        data, _ = datasets.load(config["data"], given.data_dir)
        if data.checksum() != config["checksum"]:
            raise BadInput(
                f"{config['data']} is not the data that the run began with: name its place with --data-dir"
            )
    else:
        data, line = datasets.load(getattr(given, "data", None), given.data_dir)
        if line:
            print(line)
        config = configuration(given, data.shape)
        config |= {
            "data": data.name,
            "shape": list(data.shape),
            "classes": data.classes,
            "checksum": data.checksum(),
        }
        config |= {"binarisation": "dynamic in training, the test set once by RandomState(0)"}
        config |= {"command": shlex.join(["python", "-m", "inference.svi", *arguments]), **provenance()}
    device = _device(config["device"])
    pyro.set_rng_seed(config["seed"])
    model = MODELS[config["model"]](data.shape, data.classes, **config["options"]).to(device)
    labels = torch.empty(0, dtype=torch.long)
    if "x_labelled" in model.inputs:
        labels = datasets.labelled(data, config["options"]["labels"], config["seed"])
        config["labelled"] = labels.tolist()
    batches = datasets.Batches(data, model.inputs, config["batch_size"], config["seed"], labels, device)
    state = None
    if given.resume:
        state = run.load_checkpoint(config["model"])
    else:
        run = Run.create(getattr(given, "run_dir", None), config)
    return fit(model, batches, datasets.HeldOut(data, device), config, run, state)


def fit(
    model: LatentVariableModel,
    batches: datasets.Batches,
    test: datasets.HeldOut,
    config: dict[str, Any],
    run: Run,
    state: dict[str, Any] | None = None,
) -> int:
    """Train to `config["steps"]`, from a checkpoint's `state` if given, and leave everything in `run`."""
    loss = Loss(model, config["elbo"])
    # One optimiser over all parameters, fused into one pass; Pyro's own wrappers would make one a tensor.
    optimizer = torch.optim.Adam(loss.parameters(), lr=config["lr"], fused=True)
    step, before, device = 0, 0.0, test.x.device
    if state:
        model.load_state_dict(state["parameters"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generator"])
        step, before = state["step"], state["seconds"]
        run.forget_after(step)
    start, steps, began = step, config["steps"], time.perf_counter()

    def seconds() -> float:
        return round(before + time.perf_counter() - began, 3)

    def checkpoint() -> None:
        generators = {"generator": torch.get_rng_state()}
        if device.type == "cuda":
            generators["cuda_generator"] = torch.cuda.get_rng_state()
        parameters = {"parameters": model.state_dict(), "optimizer": optimizer.state_dict()}
        run.save_checkpoint(
            {"model": config["model"], "step": step, "seconds": seconds(), **parameters, **generators}
        )

    def test_line() -> None:
        values = {name: figure["value"] for name, figure in evaluate(model, test).items()}
        run.log(step=step, split="test", seconds=seconds(), **values)
        progress.report(step, values, seconds())

    count = sum(p.numel() for p in model.parameters())
    print(
        f"{config['model']} on {config['data']}: {len(batches.x)} training and {len(test)} test images of "
        f"{'x'.join(map(str, test.x.shape[2:]))}, {count} parameters, {config['elbo']}, {device}. "
        f"Run: {run.folder}"
    )
    progress = Progress(start, steps)
    if step == 0:
        test_line()
        checkpoint()
    with StopSignals() as stopped:
        while step < steps and not stopped:
            batch = batches(step)
            with pyro.validation_enabled(
                step == start
            ):  # the first step is checked, the others pay nothing for it
                objective = loss(**batch)
            objective.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            progress.advance()
            if step % LOG_EVERY == 0 or step == steps:
                values = train_terms(model, batch)
                if not all(map(math.isfinite, values.values())):
                    progress.close()
                    print(
                        f"error: the loss is not finite at step {step} ({values}): try a lower --lr",
                        file=sys.stderr,
                    )
                    return 1
                run.log(step=step, split="train", seconds=seconds(), **values)
                progress.show(values)
            if step % config["eval_every"] == 0 or step == steps:
                test_line()
                checkpoint()
    progress.close()
    if step < steps:
        checkpoint()
        print(
            f"stopped at step {step} of {steps}, nothing lost. "
            f"To go on: python -m inference.svi --resume {run.folder}"
        )
        return 130

    results = {key: config[key] for key in ("model", "data", "binarisation", "steps", "seed")}
    results |= {
        "seconds": seconds(),
        "device": str(device),
        "test": evaluate(model, test, DRAWS),
        "config": config,
    }
    run.write("results.json", results)
    print(table(results["test"]))
    figures.draw_all(model, test, run)
    print(f"results, curves and pictures: {run.folder}")
    return 0


@torch.no_grad()
def train_terms(model: LatentVariableModel, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """The terms on one batch, by hand, means in nats per image; the generator is left as it was found."""
    with torch.random.fork_rng([batch["x"].device] if batch["x"].is_cuda else []):
        report = model.bound(**batch, latents=draw_latents(model, batch["x"]), kl="closed").report()
    return {name: value.mean().item() for name, value in report.items()}


def table(test: dict[str, dict[str, float]]) -> str:
    """The results on the test set, a line each: value, standard error over images, Monte-Carlo error."""
    lines = [f"{'test set':16} {'value':>10} {'s.e.':>8} {'m.c.s.e.':>9}"]
    for name, figure in test.items():
        error = f"{figure['mc_se']:9.4f}" if "mc_se" in figure else ""
        lines.append(f"{name:16} {figure['value']:10.4f} {figure['se']:8.4f} {error}".rstrip())
    return "\n".join(lines)


class Progress:
    """How training goes: a bar on a terminal, a plain line at each measurement elsewhere."""

    def __init__(self, start: int, steps: int):
        self.start, self.steps = start, steps
        self.began = time.perf_counter()
        self.bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()
        )

    def advance(self) -> None:
        self.bar.update()

    def show(self, values: dict[str, float]) -> None:
        """Put the running figures of the training batches on the bar."""
        if not self.bar.disable:
            self.bar.set_postfix_str(_words(values), refresh=False)

    def report(self, step: int, values: dict[str, float], seconds: float) -> None:
        """Say the figures on the test set."""
        line = f"step {step}/{self.steps}  {seconds:.0f} s  test: {_words(values)}"
        if self.bar.disable:
            rate = (step - self.start) / (time.perf_counter() - self.began)
            left = f"  {rate:.1f} steps/s, {(self.steps - step) / rate:.0f} s left" if rate else ""
            print(line + left, flush=True)
        else:
            self.bar.write(line)

    def close(self) -> None:
        self.bar.close()


def _words(values: dict[str, float]) -> str:
    names = {"negative_elbo": "-ELBO", "accuracy": "accuracy"}
    return "  ".join(f"{names.get(name, name)} {value:.4g}" for name, value in values.items())


class StopSignals:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop between two steps; a second one acts at once."""

    def __init__(self) -> None:
        self.stopped = False
        self.previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.stopped

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        signal.signal(number, self.previous[number])

    def __enter__(self) -> "StopSignals":
        self.previous = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: no CUDA device is to be had here; leave --device out, or give cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    run_command(main)
