"""Processes that train or measure one model together, as `torchrun` begins them.

torchrun --nproc-per-node 2 -m inference.svi --model ssvae

Every process has the whole data set and the whole model, and takes its share of each batch; gradients are
averaged over the joint batch, so that all make the same step. The first one, rank 0, writes and speaks.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from inference.backend.device import choose_device
from inference.errors import TrainingAborted, TrainingDiverged, UserError

T = TypeVar("T")
STEP = timedelta(minutes=30)  # how long a process waits for the others in a training step
WAIT = timedelta(days=30)  # and elsewhere: one may finish its share of a sweep long before another
# What gloo's errors say if another process has gone. They are plain RuntimeErrors.
LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
patient: Any = None  # the group of `gathered`: gloo, with the longer timeout


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: str = "cpu") -> Iterator[None]:
    """Be one of torchrun's processes inside the context; only rank 0 prints to standard output.

    `device`, as `choose_device` takes it, is where the processes compute. Gloo exchanges objects and CPU
    tensors. On CUDA each process takes the GPU of its local rank, and NCCL exchanges CUDA tensors. Raises
    UserError if a machine has fewer GPUs than processes.
    """
    global patient
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    on_cuda = choose_device(device).type == "cuda"
    if on_cuda:
        mine, processes = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
        if processes > mine:
            raise UserError(
                f"{processes} processes on a machine with {mine} CUDA devices: start one process per device, "
                "or give --device cpu"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=STEP)
    patient = dist.new_group(backend="gloo", timeout=WAIT)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
            yield
    except TrainingDiverged:  # which all see alike, and one says
        if rank():
            sys.exit(1)
        raise
    finally:
        patient = None
        dist.destroy_process_group()


@contextmanager
def local_main_first() -> Iterator[None]:
    """What is within, such as a download, the first process of each machine does, and then the others."""
    others = world_size() > 1 and os.environ["LOCAL_RANK"] != "0"
    if others:
        all_gather(None)
    yield
    if not others:
        all_gather(None)


def single_process_env() -> dict[str, str]:
    """The environment of this process for one that it begins, which is none of torchrun's."""
    own = {f"{part}{what}" for part in ("", "LOCAL_", "GROUP_", "ROLE_") for what in ("RANK", "WORLD_SIZE")}
    own |= {"ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"}
    kept = os.environ.items()
    return {key: value for key, value in kept if key not in own and not key.startswith("TORCHELASTIC_")}


def local_share(index: Tensor) -> Tensor:
    """This process's part of a joint batch; the parts differ by one image at most."""
    return index.tensor_split(world_size())[rank()]


def process_seed(seed: int, step: int) -> int:
    """A seed for this process's draws from a step on: its own, as two must not draw the same."""
    return (seed + 1_000_003 * rank() + 15_485_863 * step) % 2**63


def average_gradients(
    images: int, objective: Tensor, parameters: Sequence[Tensor], buffers: Sequence[Tensor], stop: bool
) -> tuple[Tensor, bool]:
    """The mean of the objective over all processes, weighted by their images, and whether one is to stop.

    The gradients of `parameters`, and `buffers`, become such means as well, in one exchange.
    """
    numbers = torch.tensor([images, stop], dtype=objective.dtype, device=objective.device)
    values = [objective, *(p.grad for p in parameters if p.grad is not None), *buffers]
    flat = torch.cat([value.flatten() for value in values]).mul_(images)
    flat = torch.cat([numbers, flat])
    with _told():
        dist.all_reduce(flat)
    means = flat[2:].div_(flat[0]).split([value.numel() for value in values])
    for parameter, mean in zip(parameters, means[1:], strict=False):
        parameter.grad = mean.view_as(parameter)
    for buffer, mean in zip(buffers, means[1 + len(parameters) :], strict=True):
        buffer.copy_(mean.view_as(buffer))
    return means[0][0], bool(flat[1])


def any_process(wish: bool) -> bool:
    """Whether any process wishes it."""
    return any(all_gather(wish))


def broadcast_from_main(action: Callable[[], T]) -> T:
    """What the first process does, and finds: told to all."""
    return all_gather(None if rank() else action())[0]


def all_gather(value: Any) -> list[Any]:
    """What every process has to give, by rank: any object, known to all."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    with _told():
        dist.all_gather_object(found, value, group=patient)
    return found


@contextmanager
def _told() -> Iterator[None]:
    """Raises TrainingAborted if the connection to another process is lost; every other error passes."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(words in str(error) for words in LOST):
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingAborted(
            f"process {rank()} of {world_size()} lost the connection to another one ({reason}): "
            "continue the run from its last checkpoint with --resume"
        ) from None
