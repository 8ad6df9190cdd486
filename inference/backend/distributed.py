"""Several processes that train or evaluate one model, started by torchrun.

torchrun --nproc-per-node 2 -m inference.svi --model ssvae

Every process has the whole data set and the whole model, and takes its share of each batch. Gradients are
averaged over the joint batch, so that all processes make the same step. The main process, rank 0, prints and
writes files. If torchrun restarts the processes, they continue from the last checkpoint.
"""

import os
import signal
import sys
import threading
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
STEP_TIMEOUT = timedelta(minutes=30)  # for the other processes in a training step
OBJECT_TIMEOUT = timedelta(days=30)  # in `all_gather`: one process may finish its part of an evaluation first
# Parts of gloo's messages if a peer is lost, and of a compiled step's. Its errors are plain RuntimeErrors.
LOST_PEER = (
    *("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe"),
    "API call failed",
)
object_group: Any = None  # gloo's group with the longer timeout, for `all_gather`


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: str = "cpu") -> Iterator[None]:
    """Joins torchrun's process group inside the context; without torchrun it does nothing.

    Only the main process prints to standard output. Gloo exchanges objects and CPU tensors. On CUDA each
    process uses the GPU of its local rank, and NCCL exchanges CUDA tensors.

    Args:
        device: the device on which the processes compute, see `choose_device`.

    Raises:
        UserError: the machine has fewer GPUs than processes.
    """
    global object_group
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    on_cuda = choose_device(device).type == "cuda"
    if on_cuda:
        gpus, processes = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
        if processes > gpus:
            raise UserError(
                f"{processes} processes are on a machine with {gpus} CUDA devices. Start one process per "
                "device, or give --device cpu."
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _native_output_on_stderr():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=STEP_TIMEOUT)
        object_group = dist.new_group(backend="gloo", timeout=OBJECT_TIMEOUT)
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere if rank() else sys.stdout),
        ):
            yield
    except TrainingDiverged:  # every process raises it; only the main one reports it
        if rank():
            sys.exit(1)
        raise
    finally:
        object_group = None
        dist.destroy_process_group()


@contextmanager
def _native_output_on_stderr() -> Iterator[None]:
    """Sends what C++ code prints to standard error: gloo of torch 2.10 reports its connections."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def local_main_first() -> Iterator[None]:
    """Runs the block, such as a download, in the first process of each machine, and then in the others."""
    waits = world_size() > 1 and os.environ["LOCAL_RANK"] != "0"
    if waits:
        all_gather(None)
    yield
    if not waits:
        all_gather(None)


def was_restarted() -> bool:
    """Returns whether torchrun has restarted the processes of this command, after one of them ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_restart() -> bool:
    """Returns whether torchrun restarts the processes of this command if one of them ends."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def local_share(index: Tensor) -> Tensor:
    """Returns this process's part of a joint batch, (batch,). The parts differ by at most one image."""
    return index if world_size() == 1 else index.tensor_split(world_size())[rank()]


def local_size(images: int) -> int:
    """Returns the number of images in this process's part of a joint batch."""
    return images // world_size() + (rank() < images % world_size())


def process_seed(seed: int, step: int) -> int:
    """Returns a seed for this process's noise from a step on. Two processes never have the same one."""
    return (seed + 1_000_003 * rank() + 15_485_863 * step) % 2**63


def sum_over_processes(values: Sequence[Tensor], stop: bool) -> tuple[list[Tensor], bool]:
    """Sums tensors over all processes, in one exchange of one flat vector.

    Args:
        values: tensors of one dtype, with the same shapes in every process.
        stop: whether this process requests a stop.

    Returns:
        The sums, and whether any process requests a stop.

    Raises:
        TrainingAborted: the connection to another process is lost.
    """
    flat = torch.cat([values[0].new_tensor([stop]), *(value.flatten() for value in values)])
    sum_in_place(flat)
    sums = flat[1:].split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(sums, values, strict=True)], bool(flat[0])


def sum_in_place(flat: Tensor) -> None:
    """Replaces a tensor with its sum over all processes.

    Raises:
        TrainingAborted: the connection to another process is lost.
    """
    if world_size() > 1:
        with peer_loss_guard():
            dist.all_reduce(flat)


def any_process(value: bool) -> bool:
    """Returns whether the value is true in any process."""
    return any(all_gather(value))


def broadcast_from_main(action: Callable[[], T]) -> T:
    """Runs the action in the main process only and returns its result in every process."""
    return all_gather(None if rank() else action())[0]


def all_gather(value: Any) -> list[Any]:
    """Returns the values of all processes by rank. They may be any objects that can be pickled.

    Raises:
        TrainingAborted: the connection to another process is lost.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with peer_loss_guard():
        dist.all_gather_object(values, value, group=object_group)
    return values


@contextmanager
def peer_loss_guard() -> Iterator[None]:
    """Raises TrainingAborted if the connection to another process is lost; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1:
            raise
        if not isinstance(error, dist.DistError) and not any(words in str(error) for words in LOST_PEER):
            raise
        if threading.current_thread() is threading.main_thread():
            # torchrun sends SIGTERM to the other processes: this one has to say why it ends
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        reason = str(error).partition("\n")[0]
        raise TrainingAborted(
            f"process {rank()} of {world_size()} lost the connection to another one ({reason}). "
            "Continue the run from its last checkpoint with --resume."
        ) from None
