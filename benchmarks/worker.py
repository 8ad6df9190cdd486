"""Processes that train a model together and make steps on request.

`Group` starts them. Each runs this module:

python -m benchmarks.worker MODEL BATCH [FILE]

FILE has colour images and stays on disk if it is large; without it the images are random and in memory. The
first process reads requests from its standard input, one JSON object per line, and prints an answer for each.
The other processes follow it.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import Any

import pyro
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.implementations import batches_of, build_model, random_batches, suite
from benchmarks.timing import StepTimer, repeated, step_timer, track_peak_memory
from inference.backend import distributed
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.data import load_dataset
from inference.data.batches import Batches
from inference.elbo.estimators import Loss
from inference.errors import UserError
from ppl_models import MODELS
from ppl_models.base import LatentVariableModel
from tools.table import ROOT

SUITE, EAGER, DDP = "suite", "eager", "ddp"  # trainings
LATENCY = "latency"  # exchanges of one number
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
WORKER = ("-m", "benchmarks.worker")
WARM_UP = {True: 3, False: 1}  # first steps, which compile the step and allocate memory, by "is it compiled"
Build = Callable[[], LatentVariableModel]


class Group:
    """The processes that train a model, seen from the command that starts them.

    Args:
        model: Name of the model.
        batch: Joint batch size.
        launchers: One command per machine, which starts the processes there; the first one is asked.
        environment: Variables of all processes.
        file: Of the images; None means random images in memory.
    """

    def __init__(
        self,
        model: str,
        batch: int,
        launchers: Sequence[Sequence[str]],
        environment: Mapping[str, str],
        file: Path | None = None,
    ):
        own = os.environ | dict(environment)
        self.name = f"{model}, batch {batch}"
        self.command = [*WORKER, model, str(batch), *([str(file.resolve())] if file else [])]
        self.processes = [
            Popen(
                [*launcher, *self.command],
                stdin=DEVNULL if number else PIPE,
                stdout=DEVNULL if number else PIPE,
                stderr=DEVNULL,
                cwd=ROOT,
                env=own,
                text=True,
            )
            for number, launcher in enumerate(launchers)
        ]

    def ask(self, training: str, steps: int, accumulate: int = 1, **more: Any) -> dict[str, float]:
        """Makes steps of a training.

        Args:
            training: One of `SUITE`, `EAGER`, `DDP` and `LATENCY`.
            steps: How many.
            accumulate: Batches per step.
            **more: `precision`, of the networks, and `memory`, whether memory is measured. This takes time.

        Returns:
            Per step: `ms`, `exchange_ms` in exchanges between the processes, `bytes` sent to the network;
            `numbers`, the size of the exchanged vector; and `memory`, the growth of a process at its peak in
            MiB, of the process where it is largest.

        Raises:
            UserError: The processes have stopped.
        """
        first = self.processes[0]
        assert first.stdin and first.stdout
        request = {"training": training, "steps": steps, "accumulate": accumulate, **more}
        try:
            print(json.dumps(request), file=first.stdin, flush=True)
            return json.loads(first.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise UserError(
                f"the processes of {self.name} stopped at {training}. To see why, run: echo "
                f"'{json.dumps(request)}' | python {' '.join(self.command)}"
            ) from None

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.stdin:
                process.stdin.close()  # each process ends when the input of the first one does
        for process in self.processes:
            try:
                process.wait(60)
            except TimeoutExpired:
                process.kill()


class Exchanges:
    """Measures the time in exchanges of this process after its steps, and the numbers of the largest one."""

    def __init__(self) -> None:
        self.seconds, self.numbers = 0.0, 0
        dist.all_reduce = self._measured(dist.all_reduce)

    def _measured(self, exchange: Callable[..., Any]) -> Callable[..., Any]:
        def measured(tensor: Tensor, *arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            result = exchange(tensor, *arguments, **named)
            self.seconds += time.perf_counter() - began
            self.numbers = max(self.numbers, tensor.numel())
            return result

        return measured


def main(arguments: list[str]) -> int:
    """Answers requests until the input ends."""
    name, batch, *file = arguments
    exchanges = Exchanges()
    with distributed.process_group("cpu"), fast_float32(torch.device("cpu")), ExitStack() as on_exit:
        torch.manual_seed(0)
        build, batches = prepared(name, int(batch), *file)
        trainings: dict[tuple[str, ...], StepTimer] = {}
        answers = sys.stdout  # of answers only: a training prints why it cannot be compiled
        on_exit.enter_context(redirect_stdout(sys.stderr))
        while line := distributed.broadcast_from_main(sys.stdin.readline):
            request = json.loads(line)
            steps, memory = request.pop("steps"), request.pop("memory", False)
            key = tuple(map(str, request.values()))
            if key not in trainings:
                torch.manual_seed(0)
                trainings[key] = training(build, batches, **request)
                torch.manual_seed(distributed.process_seed(0, 0))
                trainings[key](WARM_UP[request["training"] == SUITE])
            print(json.dumps(measured(trainings[key], steps, memory, exchanges)), file=answers, flush=True)
    return 0


def prepared(name: str, batch: int, file: str | None = None) -> tuple[Build, Batches]:
    """Returns what builds the model, and its batches."""
    if file is None:
        return partial(build_model, name), random_batches(build_model(name), batch)
    data = load_dataset(file)
    build = partial(MODELS[name], tuple(data.shape))
    return build, batches_of(build(), batch, data)


def measured(run: StepTimer, steps: int, memory: bool, exchanges: Exchanges) -> dict[str, float]:
    """Makes steps and returns the answer of `Group.ask`."""
    exchanges.seconds, exchanges.numbers, sent = 0.0, 0, sent_bytes()
    growth = track_peak_memory() if memory else lambda: 0.0
    answer = {"ms": run(steps), "numbers": exchanges.numbers, "bytes": (sent_bytes() - sent) / steps}
    # A process that arrives first waits for the others: the last one's time is that of the exchange.
    last = min(distributed.all_gather(exchanges.seconds))
    largest = max(distributed.all_gather(growth()))
    return answer | {"exchange_ms": last / steps * 1e3, "memory": largest}


def sent_bytes() -> int:
    """Returns the bytes that the interface of GLOO_SOCKET_IFNAME has sent; 0 if none is named."""
    name = os.environ.get("GLOO_SOCKET_IFNAME")
    return int(Path(f"/sys/class/net/{name}/statistics/tx_bytes").read_text()) if name else 0


def training(
    build: Build, batches: Batches, training: str, accumulate: int, precision: str = "float32"
) -> StepTimer:
    """Returns a training of a new model."""
    if training == LATENCY:
        number = torch.zeros(1)
        return step_timer(repeated(lambda _: distributed.sum_in_place(number)))
    if training == DDP:
        return data_parallel(build(), batches)
    mode = "inductor" if training == SUITE else "eager"
    return suite(build(), batches, mode, accumulate=accumulate, precision=precision)


def data_parallel(model: LatentVariableModel, batches: Batches) -> StepTimer:
    """Returns a training by `DistributedDataParallel`, as it is usually written."""
    loss = DistributedDataParallel(Loss(model, model.estimators[0]), gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)

    def step(number: int) -> None:
        with pyro.validation_enabled(False):
            loss(**batches(number)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step_timer(repeated(step))


if __name__ == "__main__":
    run_command(main)
