"""Measures training over a network of two machines, and calculates it for more.

python -m benchmarks.network            print the table
python -m benchmarks.network --write    write it into docs/cost.md, between its marks

The two machines are network namespaces of this one, each with one core. A virtual Ethernet cable joins them,
whose rate `tc tbf` limits. torchrun starts a process in each. This needs Linux, root and iproute2.

All bytes that a process sends are counted by its network interface. An exchange begins when the last process
arrives. In a ring all_reduce of S bytes by N processes, each process sends 2 (N - 1) messages of S / N bytes,
one after the other, so that it takes 2 (N - 1) (S / (N B) + L) at a rate of B bytes per second and a latency
of L per message. L is half the time in which two processes exchange one number.
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
from subprocess import DEVNULL, CalledProcessError, run
from typing import Any, NamedTuple

from benchmarks import COST
from benchmarks.worker import LATENCY, SUITE, TORCHRUN, Group
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.errors import UserError
from tools.table import write_between

MARKS = "<!-- network: made by python -m benchmarks.network --write -->", "<!-- end of network -->"
CASES = {"vae": 970, "conv_vae": 96}  # joint batch of two processes
RATES = (1000, 100)  # Mbit/s
ACCUMULATE = (1, 8)  # batches per step
MACHINES, CALCULATED = 2, (8, 64, 512)
ROUNDS, STEPS = 3, {1: 4, 8: 2}  # steps per round, by batches per step
INTERFACE = "bench0"
ADDRESS, PORT = "10.213.77.{}", "29517"
PAYLOAD = 1448 / 1514  # bytes of data per byte of an Ethernet frame, with the headers of IP and TCP
HEAD = (
    "| model | Mbit/s | batches per step | MB sent per step | images per second | ms per step "
    "| ms in exchanges | calculated | share of exchanges | calculated for {} processes |"
)


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
    parser = Parser(prog="python -m benchmarks.network", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/cost.md")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # removes the namespaces
    with machines() as names:
        points = [point for model in CASES for point in measure(model, names)]
    print(table(points))
    if given.write:
        write_between(COST, MARKS, table(points))
    return 0


@contextmanager
def machines() -> Iterator[list[str]]:
    """Makes two network namespaces that a virtual cable joins, and removes them at the end.

    Yields:
        Their names.

    Raises:
        UserError: This needs root, iproute2 and a kernel with namespaces.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc"))):
        raise UserError(
            "benchmarks.network makes network namespaces, which needs root and iproute2. Install iproute2 "
            "(apt-get install iproute2), and run the command as root."
        )
    names = [f"bench{number}-{os.getpid()}" for number in range(MACHINES)]
    try:
        for name in names:
            call("ip", "netns", "add", name)
            call("ip", "-n", name, "link", "set", "lo", "up")

        ends = [("name", INTERFACE, "netns", name) for name in names]
        call("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for number, name in enumerate(names):
            address = ADDRESS.format(number + 1) + "/24"
            call("ip", "-n", name, "address", "add", address, "dev", INTERFACE)
            call("ip", "-n", name, "link", "set", INTERFACE, "up")
        yield names
    finally:
        for name in names:
            run(["ip", "netns", "delete", name], stderr=DEVNULL)


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


def measure(model: str, names: list[str]) -> list[Point]:
    """Trains a model on two machines at every rate."""
    torchrun = [*TORCHRUN, "--nnodes", str(MACHINES), "--nproc-per-node", "1"]
    torchrun += ["--master-addr", ADDRESS.format(1), "--master-port", PORT]
    launchers = [
        ["ip", "netns", "exec", name, *torchrun, "--node-rank", str(number)]
        for number, name in enumerate(names)
    ]
    points = []
    set_rate(names, RATES[0])
    with Group(
        model, CASES[model], launchers, {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": INTERFACE}
    ) as group:
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


def table(points: list[Point]) -> str:
    """Returns the table of docs/cost.md, one row per point."""
    head = HEAD.format(", ".join(map(str, CALCULATED)))
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
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
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
