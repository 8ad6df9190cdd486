"""Processes that train a model together and make steps on request.

`Group` starts them. Each runs this module:

python -m benchmarks.worker MODEL BATCH

The first process reads requests from its standard input, one JSON object per line, and prints an answer for
each. The other processes follow it.
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
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import Any

import pyro
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.implementations import build_model, random_batches, suite
from benchmarks.timing import StepTimer, repeated, step_timer
from inference.backend import distributed
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.data.batches import Batches
from inference.elbo.estimators import Loss
from inference.errors import UserError
from tools.table import ROOT

SUITE, EAGER, DDP = "suite", "eager", "ddp"  # trainings
LATENCY = "latency"  # exchanges of one number
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
WORKER = ("-m", "benchmarks.worker")


class Group:
    """The processes that train a model, seen from the command that starts them.

    Args:
        model: Name of the model.
        batch: Joint batch size.
        launchers: One command per machine, which starts the processes there; the first one is asked.
        environment: Variables of all processes.
    """

    def __init__(
        self, model: str, batch: int, launchers: Sequence[Sequence[str]], environment: Mapping[str, str]
    ):
        own, given = os.environ | dict(environment), [*WORKER, model, str(batch)]
        self.name = f"{model}, batch {batch}"
        self.processes = [
            Popen(
                [*launcher, *given],
                stdin=DEVNULL if number else PIPE,
                stdout=DEVNULL if number else PIPE,
                stderr=DEVNULL,
                cwd=ROOT,
                env=own,
                text=True,
            )
            for number, launcher in enumerate(launchers)
        ]

    def ask(self, training: str, steps: int, accumulate: int = 1) -> dict[str, float]:
        """Makes steps of a training.

        Args:
            training: One of `SUITE`, `EAGER`, `DDP` and `LATENCY`.
            steps: How many.
            accumulate: Batches per step.

        Returns:
            Per step: `ms`, `exchange_ms` in exchanges between the processes, `bytes` sent to the network;
            and `numbers`, the size of the exchanged vector.

        Raises:
            UserError: The processes have stopped.
        """
        first = self.processes[0]
        assert first.stdin and first.stdout
        request = {"training": training, "steps": steps, "accumulate": accumulate}
        try:
            print(json.dumps(request), file=first.stdin, flush=True)
            return json.loads(first.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            command = " ".join([*WORKER, *self.name.replace(", batch", "").split()])
            raise UserError(
                f"the processes of {self.name} stopped at {training}. To see why, run: echo "
                f"'{json.dumps(request)}' | python {command}"
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
    """Measures the time in exchanges of this process, and the numbers of the largest one."""

    def __init__(self) -> None:
        self.seconds, self.numbers = 0.0, 0
        dist.all_reduce = self._measured(dist.all_reduce)
        dist.broadcast = self._measured(dist.broadcast)

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
    name, batch = arguments
    exchanges = Exchanges()
    with distributed.process_group("cpu"), fast_float32(torch.device("cpu")), ExitStack() as on_exit:
        torch.manual_seed(0)
        batches = random_batches(build_model(name), int(batch))
        trainings: dict[tuple[str, int], StepTimer] = {}
        answers = sys.stdout  # of answers only: a training prints why it cannot be compiled
        on_exit.enter_context(redirect_stdout(sys.stderr))
        while line := distributed.broadcast_from_main(sys.stdin.readline):
            request = json.loads(line)
            key = (request["training"], request["accumulate"])
            if key not in trainings:
                torch.manual_seed(0)
                trainings[key] = training(name, batches, *key)
                torch.manual_seed(distributed.process_seed(0, 0))
                trainings[key](3)  # compiles the step and allocates the optimizer's state
            exchanges.seconds, exchanges.numbers, sent = 0.0, 0, sent_bytes()
            answer = {"ms": trainings[key](request["steps"]), "numbers": exchanges.numbers}
            answer["bytes"] = (sent_bytes() - sent) / request["steps"]
            # A process that arrives first waits for the others: the last one's time is that of the exchange.
            last = min(distributed.all_gather(exchanges.seconds))
            answer["exchange_ms"] = last / request["steps"] * 1e3
            print(json.dumps(answer), file=answers, flush=True)
    return 0


def sent_bytes() -> int:
    """Returns the bytes that the interface of GLOO_SOCKET_IFNAME has sent; 0 if none is named."""
    name = os.environ.get("GLOO_SOCKET_IFNAME")
    return int(Path(f"/sys/class/net/{name}/statistics/tx_bytes").read_text()) if name else 0


def training(name: str, batches: Batches, kind: str, accumulate: int) -> StepTimer:
    """Returns a training of a new model."""
    if kind == LATENCY:
        number = torch.zeros(1)
        return step_timer(repeated(lambda _: distributed.sum_in_place(number)))
    if kind == DDP:
        return data_parallel(name, batches)
    mode = "inductor" if kind == SUITE else "eager"
    return suite(build_model(name), batches, mode, accumulate=accumulate)


def data_parallel(name: str, batches: Batches) -> StepTimer:
    """Returns a training by `DistributedDataParallel`, as it is usually written."""
    model = build_model(name)
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
