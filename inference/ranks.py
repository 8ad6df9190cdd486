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

from inference.errors import BrokenOff, Diverged

T = TypeVar("T")


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def together() -> Iterator[None]:
    """Be one of torchrun's processes, for as long as it lasts; only the first is heard on standard output."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=30))  # of a sweep, one may be done long before
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
            yield
    except Diverged:  # which all see alike, and one says
        if rank():
            sys.exit(1)
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def one_before_others() -> Iterator[None]:
    """What is within, such as a download, the first process of each machine does, and then the others."""
    others = world() > 1 and os.environ["LOCAL_RANK"] != "0"
    if others:
        with _told():
            dist.barrier()
    yield
    if world() > 1 and not others:
        with _told():
            dist.barrier()


def alone() -> dict[str, str]:
    """The environment of this process for one that it begins, which is none of torchrun's."""
    own = {f"{part}{what}" for part in ("", "LOCAL_", "GROUP_", "ROLE_") for what in ("RANK", "WORLD_SIZE")}
    own |= {"ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"}
    kept = os.environ.items()
    return {key: value for key, value in kept if key not in own and not key.startswith("TORCHELASTIC_")}


def share(index: Tensor) -> Tensor:
    """This process's part of a joint batch; the parts differ by one image at most."""
    return index.tensor_split(world())[rank()]


def seed_of(seed: int, step: int) -> int:
    """A seed for this process's draws from a step on: its own, as two must not draw the same."""
    return (seed + 1_000_003 * rank() + 15_485_863 * step) % 2**63


def average(
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


def any_of(wish: bool) -> bool:
    """Whether any process wishes it."""
    return any(gathered(wish))


def once(action: Callable[[], T]) -> T:
    """What the first process does, and finds: told to all."""
    return gathered(None if rank() else action())[0]


def gathered(value: Any) -> list[Any]:
    """What every process has to give, by rank: any object, known to all."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    with _told():
        dist.all_gather_object(found, value)
    return found


@contextmanager
def _told() -> Iterator[None]:
    """Another process that has gone is one clear line."""
    try:
        yield
    except RuntimeError:
        raise BrokenOff(
            f"process {rank()} of {world()} has lost another one: a run keeps its last checkpoint, and "
            "goes on with --resume"
        ) from None
