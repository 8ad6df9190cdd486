"""Repeats a finished training in plain PyTorch: same images, same initial parameters, same steps.

python -m benchmarks.training RUN_DIR

For models with one latent both implementations also draw the same noise, in the same order. They then follow
the same trajectory until floating-point differences make the runs diverge. The result is evaluated by the
suite, on the whole test set.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import time
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn
from tqdm import trange

from benchmarks.implementations import plain
from benchmarks.plain_torch import IMPLEMENTATIONS
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.data.batches import Batches
from inference.data.held_out import HeldOut
from inference.data.observations import IMAGES
from inference.errors import UserError
from inference.html.results import NEUTRAL
from inference.metrics.bounds import evaluate_bounds
from inference.rundir.restore import restore
from inference.rundir.run_config import RunConfig
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel


@fast_float32(torch.device("cpu"))
def main(arguments: list[str]) -> int:
    """Trains in plain PyTorch and prints both results."""
    parser = Parser(prog="python -m benchmarks.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a finished run")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set is now")
    given = parser.parse_args(arguments)
    run, config, data, model = restore(given.run, given.data_dir)
    results = run.results()
    check_supported(config, model)

    cls, (label, build) = type(model), next(iter(IMPLEMENTATIONS[config.model].items()))
    pyro.set_rng_seed(config.seed)
    model = cls(data.shape, data.classes, **config.options)
    rng_state = torch.get_rng_state()
    nets, loss = build()
    parameters = copy_parameters(model, nets, f"{label}, {config.model}")
    torch.set_rng_state(rng_state)

    cpu = torch.device("cpu")
    test = HeldOut(data, cls, cpu)
    batches = Batches(data, cls, config.batch_size, config.seed, torch.empty(0), cpu)
    step = plain(nets, loss, batches, config.lr)

    def evaluate_test_set(samples: int) -> dict[str, dict[str, float]]:
        model.load_state_dict(dict(zip(model.state_dict(), parameters, strict=True)))
        return evaluate_bounds(model, test, samples)

    start, steps = time.perf_counter(), config.steps
    for done in trange(steps, unit="step", disable=None):
        step(done)
        if (done + 1) % config.eval_every == 0:
            evaluate_test_set(1)
    seconds = time.perf_counter() - start
    print(f"| on {results['data']} | suite | {label} | difference |", "|---|---|---|---|", sep="\n")
    for name, metric in evaluate_test_set(IMAGES.samples).items():
        ours, theirs = results["test"][name]["value"], metric["value"]
        print(f"| {name} | {ours:.4f} | {theirs:.4f} | {100 * (ours / theirs - 1):.3f} % |")
    print(f"{steps} steps, evaluations included: suite {results['seconds']:.0f} s, {label} {seconds:.0f} s")
    return 0


def check_supported(config: RunConfig, model: LatentVariableModel) -> None:
    """Raises UserError if plain PyTorch cannot repeat a run with this configuration."""
    name = config.model
    if name not in IMPLEMENTATIONS:
        known = ", ".join(model for model in IMPLEMENTATIONS if model in MODELS)
        raise UserError(f"{name} has no implementation in plain PyTorch. Choose a run of {known}.")
    for key, default in NEUTRAL.items():
        if key != "validation" and getattr(config, key) != default:
            option = key.replace("_", "-")
            raise UserError(f"plain PyTorch does not support --{option}. Choose a run without it.")
    if "x_labelled" in model.inputs:
        raise UserError(f"{name} needs labelled images in every batch. Plain PyTorch does not support that.")


def copy_parameters(model: LatentVariableModel, nets: list[nn.Module], label: str) -> list[Tensor]:
    """Copies the model's parameters and buffers into the networks.

    Returns:
        The parameters and buffers of the networks, in the order of the model's `state_dict`.

    Raises:
        UserError: If their shapes differ.
    """
    theirs = [value for net in nets for value in net.state_dict().values()]
    ours = list(model.state_dict().values())
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        raise UserError(
            f"{label}, has networks of other sizes. Choose a run with the model's default options."
        )
    for target, value in zip(theirs, ours, strict=True):
        target.copy_(value)
    return theirs


if __name__ == "__main__":
    run_command(main)
