"""Measures training over a network of two machines, and calculates it for more.

python -m benchmarks.network            print the table
python -m benchmarks.network --write    write it into docs/cost.md, between its marks
python -m benchmarks.network --model vqvae    measure this model; --write updates its rows

The machines are network namespaces of this one, each with one core. Virtual Ethernet cables, whose rate `tc
tbf` limits, join them to a virtual switch. torchrun starts a process in each. This needs Linux, root and
iproute2.

All bytes that a process sends are counted by its network interface. An exchange begins when the last process
arrives. The time of exchanges within a model, of the counts of a codebook, is part of the computation. In a
ring all_reduce of S bytes by N processes, each process sends 2 (N - 1) messages of S / N bytes, one after the
other, so that it takes 2 (N - 1) (S / (N B) + L) at a rate of B bytes per second and a latency of L per
message. L is half the time in which two processes exchange one number.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import os
import shutil
import signal
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, CalledProcessError, run
from typing import Any, NamedTuple

from benchmarks.rows import ModelTable
from benchmarks.worker import LATENCY, SUITE, TORCHRUN, Group
from inference.cli.entry import run_command
from inference.errors import UserError

MARKS = "<!-- network: made by python -m benchmarks.network --write -->", "<!-- end of network -->"
CASES = {"vae": 970, "conv_vae": 96, "vqvae": 96}  # joint batch of two processes
RATES = (1000, 100)  # Mbit/s
ACCUMULATE = (1, 8)  # batches per step
MACHINES, CALCULATED = 2, (8, 64, 512)
ROUNDS, STEPS = 3, {1: 4, 8: 2}  # steps per round, by batches per step
INTERFACE = "bench0"
ADDRESS, PORT = "10.213.77.{}", "29517"
PAYLOAD = 1448 / 1514  # bytes of data per byte of an Ethernet frame, with the headers of IP and TCP
HEAD = (
    "| model | Mbit/s | batches per step | MB sent per step | images per second | ms per step "
    "| ms in exchanges | calculated | share of exchanges "
    f"| calculated for {', '.join(map(str, CALCULATED))} processes |"
)
TABLE = ModelTable(MARKS, HEAD, tuple(CASES))


class Point(NamedTuple):
    """A measurement of two processes.

    Attributes:
        model: Name of the model.
        rate: Of the network, Mbit/s.
        accumulate: Batches per step.
        ms: Milliseconds per step.
        exchange_ms: Milliseconds per step in exchanges.
        sent: Bytes that a process sends per step.
        numbers: Size of the exchanged vector of float32 numbers.
        latency_ms: Milliseconds per message.
    """

    model: str
    rate: int
    accumulate: int
    ms: float
    exchange_ms: float
    sent: float
    numbers: int
    latency_ms: float


def main(arguments: list[str]) -> int:
    """Measures every case, prints the table and, with `--write`, writes it into docs/cost.md."""
    given = TABLE.parse(arguments, "benchmarks.network", (__doc__ or "").splitlines()[0])
    with machines(MACHINES) as names:
        TABLE.measure(given, lambda model: rows(measure(model, names)))
    return 0


@contextmanager
def machines(count: int) -> Iterator[list[str]]:
    """Makes network namespaces that a virtual switch joins, and removes them at the end or after SIGTERM.

    Yields:
        Their names.

    Raises:
        UserError: This needs root, iproute2 and a kernel with namespaces.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc"))):
        raise UserError(
            "network namespaces need root and iproute2. Install iproute2 (apt-get install iproute2), and run "
            "the command as root."
        )
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    switch, *names = (f"bench{number}-{os.getpid()}" for number in range(count + 1))
    try:
        call("ip", "netns", "add", switch)
        call("ip", "-n", switch, "link", "add", "switch", "type", "bridge")
        call("ip", "-n", switch, "link", "set", "switch", "up")
        for number, name in enumerate(names, 1):
            _join(name, switch, number)
        yield names
    finally:
        for name in (switch, *names):
            run(["ip", "netns", "delete", name], stderr=DEVNULL)
        signal.signal(signal.SIGTERM, before)


def _join(name: str, switch: str, number: int) -> None:
    """Makes a machine, and a cable from it to the switch."""
    port = f"port{number}"
    call("ip", "netns", "add", name)
    call("ip", "-n", name, "link", "set", "lo", "up")
    ends = [("name", INTERFACE, "netns", name), ("name", port, "netns", switch)]
    call("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    call("ip", "-n", switch, "link", "set", port, "master", "switch")
    call("ip", "-n", switch, "link", "set", port, "up")
    call("ip", "-n", name, "address", "add", ADDRESS.format(number) + "/24", "dev", INTERFACE)
    call("ip", "-n", name, "link", "set", INTERFACE, "up")


def set_rate(names: list[str], rate: int) -> None:
    """Limits the rate at which each machine sends, in Mbit/s.

    The queue is long enough that no packet is dropped. The bucket is small, so that a step cannot use the
    rate that the computation before it has left unused.
    """
    limits = ["rate", f"{rate}mbit", "burst", "64kb", "limit", "64mb"]
    for name in names:
        call("tc", "-n", name, "qdisc", "replace", "dev", INTERFACE, "root", "tbf", *limits)


def call(*command: str) -> None:
    """Runs a command of iproute2.

    Raises:
        UserError: It fails.
    """
    try:
        run(command, check=True, capture_output=True, text=True)
    except CalledProcessError as error:
        reason = (error.stderr or str(error)).strip().splitlines()[0]
        raise UserError(
            f"{' '.join(command)} failed ({reason}). The kernel needs network namespaces, veth and sch_tbf."
        ) from None


def group_on(names: list[str], model: str, batch: int, file: Path | None = None) -> Group:
    """Starts the training of a model, one process of one thread on each machine.

    Args:
        names: The machines. On a single one the process trains alone.
        model: Name of the model.
        batch: Joint batch size.
        file: Of the images; None means random images in memory.
    """
    torchrun = [*TORCHRUN, "--nnodes", str(len(names)), "--nproc-per-node", "1"]
    torchrun += ["--master-addr", ADDRESS.format(1), "--master-port", PORT]
    commands = [[*torchrun, "--node-rank", str(number)] for number in range(len(names))]
    if len(names) == 1:
        commands = [[sys.executable]]
    launchers = [
        ["ip", "netns", "exec", name, *command] for name, command in zip(names, commands, strict=True)
    ]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": INTERFACE}
    return Group(model, batch, launchers, environment, file)


def measure(model: str, names: list[str]) -> list[Point]:
    """Trains a model on two machines at every rate."""
    points = []
    set_rate(names, RATES[0])
    with group_on(names, model, CASES[model]) as group:
        for rate in RATES:
            set_rate(names, rate)
            latency = group.ask(LATENCY, 100)["ms"] / 2
            for accumulate in ACCUMULATE:
                answers = [group.ask(SUITE, STEPS[accumulate], accumulate) for _ in range(ROUNDS)]
                middle = {key: statistics.median(answer[key] for answer in answers) for key in answers[0]}
                ms, exchange, sent = middle["ms"], middle["exchange_ms"], middle["bytes"]
                numbers = int(middle["numbers"])
                points.append(Point(model, rate, accumulate, ms, exchange, sent, numbers, latency))
                print(points[-1], file=sys.stderr, flush=True)
    return points


def ring_ms(processes: int, sent_bytes: float, rate: float, latency_ms: float) -> float:
    """Returns the milliseconds of a ring all_reduce.

    Args:
        processes: Number of processes.
        sent_bytes: Size of the vector in bytes.
        rate: Of each process's connection, Mbit/s, the headers of IP and TCP included.
        latency_ms: Milliseconds per message.
    """
    per_ms = rate * 1e6 / 8 / 1e3 * PAYLOAD
    return 2 * (processes - 1) * (sent_bytes / processes / per_ms + latency_ms)


def rows(points: list[Point]) -> list[str]:
    """Returns the rows of docs/cost.md, one per point."""
    lines = []
    for point in points:
        images = CASES[point.model] * point.accumulate
        computation = point.ms - point.exchange_ms

        def share(processes: int, point: Point = point, computation: float = computation) -> float:
            exchange = ring_ms(processes, 4 * point.numbers, point.rate, point.latency_ms)
            return exchange / (exchange + computation)

        expected = ring_ms(MACHINES, 4 * point.numbers, point.rate, point.latency_ms)
        cells: list[Any] = [f"`{point.model}`", point.rate, point.accumulate, f"{point.sent / 1e6:.2f}"]
        cells += [f"{images / point.ms * 1e3:.0f}", f"{point.ms:.0f}", f"{point.exchange_ms:.1f}"]
        cells += [f"{expected:.1f}", f"{point.exchange_ms / point.ms:.0%}"]
        cells += [", ".join(f"{share(processes):.0%}" for processes in CALCULATED)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    run_command(main)
