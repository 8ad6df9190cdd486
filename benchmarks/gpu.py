"""Times training steps on a GPU: compiled, eager, and in NumPyro on the same card.

python -m benchmarks.gpu               print the table
python -m benchmarks.gpu --write       write it into docs/cost.md
python -m benchmarks.gpu --model vae   time this model; can be repeated, and --write updates its rows
python -m benchmarks.gpu --numpyro python3      time NumPyro too, in a Python that has it and JAX for the GPU

Steps are those of `benchmarks.step`, with batches of 97 and 1,024. All models are built and compiled at the
same time, each in a process of its own. While one is timed, all others are stopped. NumPyro runs in turn with
the suite. The profiler counts how often the host waits for the GPU in a block of 50 compiled steps, and how
long the GPU's kernels take.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.implementations import BOUNDS, build_model, random_batches, suite
from benchmarks.peer import Peer
from benchmarks.rows import ModelTable
from benchmarks.step import IN_NUMPYRO, NUMPYRO
from benchmarks.timing import StepTimer, race
from inference.backend.device import fast_float32
from inference.cli.entry import run_command
from inference.errors import UserError
from ppl_models import MODELS

BATCHES = (97, 1024)
ROUNDS, TURN, BLOCK = 5, 60.0, 50  # rounds, milliseconds of a turn, and steps of a block
MODES = {"compiled": "inductor", "eager": "eager"}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
MARKS = "<!-- gpu: made by python -m benchmarks.gpu --write -->", "<!-- end of gpu -->"
HEAD = (
    "| model | batch | compiled, ms | eager, ms | NumPyro, ms | compiled / NumPyro | kernels, ms "
    f"| waits in {BLOCK} steps |"
)
TABLE = ModelTable(MARKS, HEAD, (*MODELS, *BOUNDS))


def main(arguments: list[str]) -> int:
    """Times the models, prints the table and, with `--write`, writes it into docs/cost.md."""
    about = "a Python that has NumPyro and JAX for the GPU (default: the rows have no NumPyro)"
    numpyro = {"type": Path, "metavar": "PYTHON", "help": about}
    given = TABLE.parse(arguments, "benchmarks.gpu", (__doc__ or "").splitlines()[0], numpyro=numpyro)
    if not torch.cuda.is_available():
        raise UserError("there is no CUDA device here. python -m benchmarks.step times steps on the CPU.")
    # Each of the processes compiles by itself, and JAX leaves memory to the others.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # float32, as in the suite; JAX's default is TF32
    names = given.model or TABLE.models
    ready: Queue[str] = Queue()
    with ExitStack() as stack:
        trainings = {name: stack.enter_context(Trainings(name)) for name in names}
        places = [(name, size) for name in names if given.numpyro and name in IN_NUMPYRO for size in BATCHES]
        peers = {place: stack.enter_context(Peer(given.numpyro)) for place in places}
        processes: list[tuple[str, Any]] = [(name, each.process) for name, each in trainings.items()]
        processes += [(name, peer.process) for (name, _), peer in peers.items()]
        without: set[tuple[str, int]] = set()  # NumPyro

        def build(name: str) -> None:
            """Waits until all of a model is compiled."""
            try:
                for place, peer in peers.items():
                    if place[0] == name and not _start(place, peer):
                        without.add(place)
                trainings[name].wait()
            except (OSError, ValueError):  # the command ends, and has closed the files of its processes
                return
            ready.put(name)

        for name in names:
            Thread(target=build, args=(name,), daemon=True).start()

        def rows(name: str) -> list[str]:
            each = trainings[name]
            if each.problem:
                print(f"{name} is omitted: {each.problem}", file=sys.stderr)
                return []
            numpyro = [None if (name, size) in without else peers.get((name, size)) for size in BATCHES]
            with stopped(process.pid for other, process in processes if other != name):
                return [row(name, size, each, peer) for size, peer in zip(BATCHES, numpyro, strict=True)]

        given.model = (ready.get() for _ in names)  # each one as soon as it is compiled
        TABLE.measure(given, rows)
    return 0


@contextmanager
def stopped(pids: Iterable[int | None]) -> Iterator[None]:
    """Stops processes, and lets them continue at the end."""
    processes = [pid for pid in pids if pid]
    try:
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)  # until the GPU has finished their kernels
        yield
    finally:
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _start(place: tuple[str, int], peer: Peer) -> bool:
    """Builds a training in NumPyro and compiles a block of its steps. Returns whether this works."""
    try:
        peer.ask("{} {}".format(*place))
        peer.time_steps(BLOCK)
    except UserError as error:
        print(f"NumPyro's {place[0]} is omitted: {error}", file=sys.stderr)
        return False
    return True


def row(name: str, size: int, trainings: "Trainings", peer: Peer | None) -> str:
    """Times a model at a size of its batches, and returns its row of the table."""

    def numpyro(count: int) -> float:
        assert peer
        return statistics.mean(peer.time_steps(BLOCK) for _ in range(count // BLOCK))

    compiled = trainings.timer(size, "compiled")
    timers = {"compiled": compiled} | ({NUMPYRO: numpyro} if peer else {})
    count = max(int(TURN / compiled(BLOCK)), 1)
    times = race(timers, ROUNDS, -(-count // BLOCK) * BLOCK if peer else count)
    times |= race({"eager": trainings.timer(size, "eager")}, ROUNDS, 3)
    ratio = ""
    if peer:
        ratios = [a / b for a, b in zip(times["compiled"], times[NUMPYRO], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    labels = (*MODES, NUMPYRO)
    cells = [f"{statistics.median(times[label]):.2f}" if label in times else "" for label in labels]
    kernels, waits = trainings.ask("profile", size)
    return f"| `{name}` | {size:,} | {' | '.join(cells)} | {ratio} | {kernels:.2f} | {waits} |"


class Trainings:
    """A process with trainings of a model on the GPU, which makes steps on request and waits otherwise.

    Args:
        name: of the model.
    """

    def __init__(self, name: str):
        context = get_context("spawn")
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def wait(self) -> None:
        """Waits until all is compiled. Then `problem` is "", or why this failed."""
        try:
            self.problem: str = self.ours.recv()
        except EOFError:
            self.problem = "its process stopped"

    def ask(self, *request: Any) -> Any:
        """Sends a request and returns the answer."""
        self.ours.send(request)
        return self.ours.recv()

    def timer(self, batch: int, mode: str) -> StepTimer:
        """Returns a function that makes a number of steps and returns milliseconds per step."""
        return lambda count: self.ask("time", batch, mode, count)

    def __enter__(self) -> "Trainings":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


def serve(name: str, pipe: Connection, device: str = "cuda") -> None:
    """Builds the trainings of a model, says "" or why it cannot, and answers requests."""
    with fast_float32(torch.device(device)):
        try:
            made = {(size, mode): _training(name, size, mode, device) for size in BATCHES for mode in MODES}
            profiled(made[BATCHES[0], "compiled"])  # loads the profiler
        except Exception as error:  # the others continue
            pipe.send(f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}")
            return
        pipe.send("")
        while True:
            try:
                kind, size, *rest = pipe.recv()
            except EOFError:
                return
            pipe.send(made[size, rest[0]](rest[1]) if kind == "time" else profiled(made[size, "compiled"]))


def _training(name: str, size: int, mode: str, device: str) -> StepTimer:
    """Builds a training of a model on random data.

    Raises:
        RuntimeError: the steps cannot be compiled.
    """

    def refuse(line: str) -> None:
        raise RuntimeError(line)

    torch.manual_seed(0)
    _, estimator = BOUNDS.get(name, (name, None))
    model = build_model(name).to(device)
    make = suite(model, random_batches(model, size), MODES[mode], estimator, say=refuse)
    make(3)  # the first step is eager, and the next one is compiled
    return make


def profiled(make: Callable[[int], Any]) -> tuple[float, int]:
    """Profiles a block of steps.

    Returns:
        Milliseconds of the GPU's kernels per step, and how often the host waits for the GPU in the block.
    """
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profile(activities=[ProfilerActivity.CPU, *gpu]) as found:
        make(BLOCK)
    events = found.events() or []
    kernels = sum(event.self_device_time_total for event in events if event.device_type.name == "CUDA")
    return kernels / BLOCK / 1e3, sum(event.name in WAITS for event in events)


if __name__ == "__main__":
    run_command(main)
